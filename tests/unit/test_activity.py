"""The most active sessions, against a plain computation; seats that change hands; rates that are new, and forgotten."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellserve_server.keeping.residents import Birth
from cellserve_server.keys import SessionKey
from cellserve_server.sessions import activity as module
from cellserve_server.sessions.activity import KEEP_S, LOOK_S, ORDER_FIELDS, ActiveSession, Activity, Order
from cellserve_server.sessions.session import Session
from tests.unit.engine_bench import Bench, drive, until

FASTEST = Order("steps_per_second", descending=True)
TTL_S = 100.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """A session: made so long before the look, with so many rows, and so many steps before the look and after it."""

    tenant: str
    made_ago_s: int
    rows: int
    before: int
    after: int
    is_idle: bool


plans = st.builds(
    Plan,
    tenant=st.sampled_from(["default", "default", "other"]),
    made_ago_s=st.integers(0, 120),
    rows=st.integers(1, 2),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    is_idle=st.booleans(),
)


def step(bench: Bench, session: Session, steps: int) -> None:
    """As if so many steps had been applied just now."""
    session.step_count += steps
    session.renew(bench.clock())


def ids(found: Sequence[ActiveSession]) -> list[str]:
    return [each.session.key.id for each in found]


def make(bench: Bench, planned: Sequence[Plan]) -> list[Session]:
    """Makes the sessions at their moments, the oldest first; what expires meanwhile is there until somebody looks."""
    made: dict[int, Session] = {}
    last = 120
    for index, plan in sorted(enumerate(planned), key=lambda pair: -pair[1].made_ago_s):
        bench.clock.advance(last - plan.made_ago_s)
        last = plan.made_ago_s
        birth = Birth(SessionKey(plan.tenant, f"s-{index}"), bench.model, plan.rows, TTL_S)
        made[index] = bench.residents.seat(birth)
    bench.clock.advance(last)
    return [made[index] for index in range(len(planned))]


@settings(max_examples=40)
@given(
    st.lists(plans, max_size=40),
    st.sampled_from(ORDER_FIELDS),
    st.booleans(),
    st.integers(1, 45),
    st.sampled_from(["", "1", "-3"]),
    st.integers(1, 3),
)
def test_it_is_what_a_plain_computation_gives(
    planned: list[Plan], field: module.OrderField, descending: bool, limit: int, part: str, at_once: int
) -> None:
    async def test(bench: Bench) -> None:
        sessions = make(bench, planned)
        for plan, session in zip(planned, sessions, strict=True):
            if not plan.is_idle:
                step(bench, session, plan.before)
        find = bench.residents.activity.first
        await find("default", FASTEST, limit)
        bench.clock.advance(2.0)
        for plan, session in zip(planned, sessions, strict=True):
            if not plan.is_idle:
                step(bench, session, plan.after)
        found = await find("default", Order(field, descending), limit, id_contains=part)

        def value_of(plan: Plan, session: Session) -> float:
            return {
                "steps_per_second": 0.0 if plan.is_idle else plan.after / 2.0,
                "step_count": float(session.step_count),
                "last_used_time": session.expire_time - TTL_S,
                "create_time": session.create_time,
            }[field]

        sign = -1 if descending else 1
        expected = sorted(
            (sign * value_of(plan, session), TTL_S - session.expire_time)
            for plan, session in zip(planned, sessions, strict=True)
            if plan.tenant == "default" and part in session.key.id and session.expire_time > bench.clock()
        )[:limit]
        by_id = {session.key.id: (plan, session) for plan, session in zip(planned, sessions, strict=True)}
        assert [
            (sign * value_of(*by_id[each.session.key.id]), -each.session.last_used_time) for each in found
        ] == expected
        assert len(set(ids(found))) == len(found)
        assert all(each.session.key.tenant == "default" and part in each.session.key.id for each in found)
        for each in found:
            plan, session = by_id[each.session.key.id]
            assert each.session == session.snapshot()
            assert each.steps_per_second == (0.0 if plan.is_idle else plan.after / 2.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "READ_AT_ONCE", at_once)
        patch.setattr(module, "SEATS_AT_ONCE", 3 * at_once)
        patch.setattr(module, "NAMES_AT_ONCE", 2 * at_once)
        patch.setattr(module, "READ_GROWTH", 2)
        drive(test)


def test_a_seat_that_changed_hands_has_no_rate_from_before() -> None:
    async def test(bench: Bench) -> None:
        old, other = bench.session("old"), bench.session("other")
        step(bench, old, 5)
        await bench.residents.activity.first("default", FASTEST, 9)
        bench.clock.advance(1.0)
        seat = old.seat
        bench.residents.sessions.end(old, "deleted")
        new = bench.session("new")
        assert new.seat == seat
        step(bench, new, 50)
        step(bench, other, 2)
        found = await bench.residents.activity.first("default", FASTEST, 9)
        assert [(each.session.key.id, each.steps_per_second) for each in found] == [("other", 2.0), ("new", 0.0)]
        bench.clock.advance(1.0)
        step(bench, new, 30)
        found = await bench.residents.activity.first("default", FASTEST, 9)
        assert [(each.session.key.id, each.steps_per_second) for each in found] == [("new", 30.0), ("other", 0.0)]

    drive(test)


def test_a_life_that_began_anew_has_no_rate_from_before() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session("s")
        step(bench, session, 500)
        await bench.residents.activity.first("default", FASTEST, 9)
        bench.clock.advance(1.0)
        await bench.operations.reset(session.key)
        (found,) = await bench.residents.activity.first("default", FASTEST, 9)
        assert (found.steps_per_second, found.session.step_count) == (0.0, 0)

    drive(test)


def test_a_table_that_was_given_back_as_a_whole() -> None:
    async def test(bench: Bench) -> None:
        sessions = [bench.session(f"s{index}", batch_size=3) for index in range(100)]
        await bench.residents.activity.first("default", FASTEST, 9)
        for session in sessions:
            bench.residents.sessions.end(session, "deleted")
        bench.clock.advance(1.0)
        assert await bench.residents.activity.first("default", FASTEST, 9) == []
        bench.session("again", batch_size=3)
        bench.clock.advance(1.0)
        assert ids(await bench.residents.activity.first("default", FASTEST, 9)) == ["again"]

    drive(test)


def test_sessions_that_end_while_names_are_read_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_AT_ONCE", 2)

    async def test(bench: Bench) -> None:
        sessions = [bench.session(f"s{index}") for index in range(6)]
        for index, session in enumerate(sessions):
            step(bench, session, 100 - index)
        order = Order("step_count", descending=True)
        looking = asyncio.create_task(bench.residents.activity.first("default", order, 9))
        await asyncio.sleep(0)  # It has read two.
        for session in sessions:
            bench.residents.sessions.end(session, "deleted")
        for index in range(3):
            bench.session(f"t{index}")  # In their seats.
        assert ids(await looking) == ["s0", "s1"]

    drive(test)


def test_names_that_few_have_are_looked_for_a_few_sessions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions there are: that many columns are never sorted, nor that many snapshots made, in one go."""
    sorted_at_once: list[int] = []
    first = module._Columns.first

    def counted(columns: module._Columns, count: int) -> module._Columns:
        sorted_at_once.append(len(columns.key))
        return first(columns, count)

    monkeypatch.setattr(module._Columns, "first", counted)
    monkeypatch.setattr(module, "SEATS_AT_ONCE", 20)
    monkeypatch.setattr(module, "NAMES_AT_ONCE", 10)
    monkeypatch.setattr(module, "READ_GROWTH", 2)

    async def test(bench: Bench) -> None:
        for index in range(200):
            bench.session(f"s{index}")
        found = await bench.residents.activity.first("default", FASTEST, 5, id_contains="s19")
        assert len(set(ids(found))) == 5
        assert all(id_.startswith("s19") for id_ in ids(found))
        assert await bench.residents.activity.first("default", FASTEST, 5, id_contains="nobody") == []

    drive(test)
    assert max(sorted_at_once) <= 20 + 10


def test_rates_are_taken_anew_after_a_while_only() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session("s")

        async def rate() -> float:
            (found,) = await bench.residents.activity.first("default", FASTEST, 1)
            return found.steps_per_second

        assert await rate() == 0.0
        bench.clock.advance(LOOK_S / 2)
        step(bench, session, 9)
        assert await rate() == 0.0
        bench.clock.advance(LOOK_S / 2)
        assert await rate() == pytest.approx(9 / LOOK_S)
        step(bench, session, 1)
        assert await rate() == pytest.approx(9 / LOOK_S)  # Of the last two looks still.
        bench.clock.advance(2.0)
        assert await rate() == pytest.approx(0.5)
        bench.clock.advance(KEEP_S + 1.0)
        step(bench, session, 1)
        assert await rate() == 0.0  # Of so long a time a rate says nothing of now.

    drive(test)


def test_what_was_seen_is_forgotten_when_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_S", 0.001)

    async def test(bench: Bench) -> None:
        activity = bench.residents.activity
        assert not activity.has_looked
        await activity.first("default", FASTEST, 1)
        assert activity.has_looked
        bench.clock.advance(0.001)
        await until(lambda: not activity.has_looked)

    drive(test)


def test_models_are_told_apart() -> None:
    async def test(bench: Bench) -> None:
        bench.session("s")
        name = bench.model.resource_name
        activity: Activity = bench.residents.activity
        for wanted, count in (("", 1), (name, 1), (name.partition("/versions")[0], 1), (name[:-3], 0), ("models/x", 0)):
            assert len(await activity.first("default", FASTEST, 9, model=wanted)) == count

    drive(test)
