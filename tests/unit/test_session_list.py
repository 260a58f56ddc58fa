"""A page of a tenant's sessions: in order, whatever others have, and with turns for others in between."""

from __future__ import annotations

import asyncio

import pytest

from cellserve_server.keeping.residents import Birth
from cellserve_server.keys import SessionKey
from cellserve_server.sessions import table
from cellserve_server.sessions.session import Session
from tests.unit.engine_bench import Bench, drive

NAMES = ["h", "b", "k", "a", "g", "d", "c", "j", "e", "i"]


def _session_of(bench: Bench, tenant: str, name: str) -> Session:
    return bench.residents.seat(Birth(SessionKey(tenant, name), bench.model, 0, 3600.0))


async def _listed(bench: Bench, after: str = "", limit: int = 100, id_contains: str = "") -> tuple[list[str], int]:
    page, total = await bench.residents.sessions.list_after("default", after, limit, id_contains=id_contains)
    return [session.key.id for session in page], total


def test_the_sessions_of_others_are_not_looked_at() -> None:
    async def test(bench: Bench) -> None:
        others = [_session_of(bench, "other", name) for name in NAMES]
        keys = [session.key for session in others]
        for session in others:
            session.key = None  # type: ignore[assignment]
        assert await _listed(bench) == ([], 0)
        bench.session("b")
        assert await _listed(bench) == (["b"], 1)
        for session, key in zip(others, keys, strict=True):
            session.key = key

    drive(test)


def test_a_session_that_has_gone_is_not_listed() -> None:
    async def test(bench: Bench) -> None:
        for name in "ba":
            bench.session(name)
        bench.residents.sessions.end(bench.residents.sessions.get(SessionKey("default", "a")), "deleted")
        assert await _listed(bench) == (["b"], 1)
        bench.session("a", ttl_s=1.0)
        bench.clock.advance(0.5)
        assert await _listed(bench) == (["a", "b"], 2)
        bench.clock.advance(0.5)
        assert await _listed(bench) == (["b"], 1)
        bench.residents.sessions.end(bench.residents.sessions.get(SessionKey("default", "b")), "deleted")
        assert await _listed(bench) == ([], 0)

    drive(test)


@pytest.mark.parametrize("at_once", [1, 3, 10])
def test_pages_of_many(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LISTED_AT_ONCE", at_once)

    async def test(bench: Bench) -> None:
        for name in NAMES:
            bench.session(name)
        assert await _listed(bench) == (sorted(NAMES), 10)
        assert await _listed(bench, limit=4) == (["a", "b", "c", "d"], 10)
        assert await _listed(bench, after="d", limit=4) == (["e", "g", "h", "i"], 10)
        assert await _listed(bench, after="i", limit=4) == (["j", "k"], 10)
        assert await _listed(bench, id_contains="k") == (["k"], 1)

    drive(test)


def test_others_have_their_turn_while_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LISTED_AT_ONCE", 3)

    async def test(bench: Bench) -> None:
        sessions = {name: bench.session(name) for name in NAMES}
        listing = asyncio.create_task(_listed(bench, limit=4))
        await asyncio.sleep(0)  # "h", "b" and "k" are looked at.
        assert not listing.done()
        for name in "ba":
            bench.residents.sessions.end(sessions[name], "deleted")
        assert await listing == (["b", "c", "d", "e"], 9), "a page is full as long as there are more"
        assert await _listed(bench, limit=4) == (["c", "d", "e", "g"], 8)

    drive(test)
