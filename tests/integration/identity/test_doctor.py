"""What the doctor says of who is let in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cellserve_server.config import ServerConfig
from cellserve_server.doctor.findings import Finding, State
from cellserve_server.doctor.identity import check_identity
from cellserve_server.security.tokens import line_of, new_token
from tests.identities import TokenBook
from tests.servers import TEST_CONFIG

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_what_it_says(book: TokenBook, tmp_path: Path) -> None:
    book.issue("clinic")
    (alone,) = check_identity(TEST_CONFIG, NOW)
    assert alone.state is State.OK
    (public,) = check_identity(replace(TEST_CONFIG, host="0.0.0.0"), NOW)
    assert (public.state, public.what) == (State.WARNING, "anybody may come in: 0.0.0.0")
    words = f"--tokens-file: {book.path}: 1 of 1 tokens are good; the next one ends never, the last one never"
    assert check_identity(book.config(), NOW) == [Finding("identity", State.OK, words)]
    book.path.chmod(0o666)
    assert [found.state for found in check_identity(book.config(), NOW)] == [State.OK, State.WARNING]
    book.path.write_text("cs_secret\n", encoding="utf-8")
    (wrong,) = check_identity(book.config(), NOW)
    assert wrong.state is State.WRONG
    assert wrong.what.startswith(f"--tokens-file: {book.path}: line 1: expected an object of JSON")
    assert "secret" not in wrong.what


def test_pages_that_others_reach(book: TokenBook) -> None:
    config = replace(TEST_CONFIG, http_host="0.0.0.0", http_port=9464, inspector=True, insecure=True)
    (found,) = check_identity(config, NOW)
    assert (found.state, found.what) == (State.WARNING, "anybody may look: 0.0.0.0")
    assert "in the inspector all sessions and their states" in found.advice
    assert "inspector" not in check_identity(replace(config, inspector=False), NOW)[0].advice
    book.issue("clinic")
    _, found = check_identity(book.config(config), NOW)
    assert (found.state, found.what) == (State.WARNING, "tokens in the clear: 0.0.0.0")
    assert "--http-host" in found.advice


def test_how_many_tokens_are_good(book: TokenBook) -> None:
    (empty,) = check_identity(book.config(), NOW)
    assert (empty.state, empty.what) == (State.WRONG, f"{said(book)} 0 of 0 tokens are good: nobody comes in by one")
    assert "token new" in empty.advice
    book.issue("clinic", expire_time=NOW.timestamp())
    (over,) = check_identity(book.config(), NOW)
    assert (over.state, over.what) == (State.WRONG, f"{said(book)} 0 of 1 tokens are good: nobody comes in by one")
    book.issue("clinic", expire_time=(NOW + timedelta(days=2)).timestamp())
    (soon,) = check_identity(book.config(), NOW)
    ends = "the next one ends 2026-01-03T00:00Z"
    assert soon.state is State.WARNING
    assert soon.what == f"{said(book)} 1 of 2 tokens are good; {ends}, the last one 2026-01-03T00:00Z"
    book.issue("clinic", expire_time=(NOW + timedelta(days=20)).timestamp())
    (good,) = check_identity(book.config(), NOW)
    assert good.state is State.OK
    assert good.what == f"{said(book)} 2 of 3 tokens are good; {ends}, the last one 2026-01-21T00:00Z"


def said(book: TokenBook) -> str:
    return f"--tokens-file: {book.path}:"


def test_without_good_tokens_others_may_come_in(book: TokenBook) -> None:
    config = book.config(ServerConfig(tls_cert="c", tls_key="k", tls_client_ca="a", tls_tenant_from="cn"))
    assert [found.state for found in check_identity(config, NOW)] == [State.WARNING, State.OK]


def test_a_date_after_all_dates(book: TokenBook) -> None:
    line = line_of(new_token(), "clinic", frozenset()).replace("{", '{"expires": "9999-12-31T23:59:59-12:00", ', 1)
    book.path.write_text(line, encoding="utf-8")
    (found,) = check_identity(book.config(), NOW)
    assert found.state is State.OK
    assert "the last one never" in found.what
