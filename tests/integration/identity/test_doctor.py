"""What the doctor says of who is let in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cellserve_server.doctor.findings import Finding, State
from cellserve_server.doctor.identity import check_identity
from tests.identities import TokenBook
from tests.servers import TEST_CONFIG

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_what_it_says(book: TokenBook, tmp_path: Path) -> None:
    book.issue("clinic")
    (alone,) = check_identity(TEST_CONFIG, NOW)
    assert alone.state is State.OK
    (public,) = check_identity(replace(TEST_CONFIG, host="0.0.0.0"), NOW)
    assert (public.state, public.what) == (State.WARNING, "anybody may come in")
    assert check_identity(book.config(), NOW) == [Finding("identity", State.OK, f"--tokens-file: {book.path}")]
    book.path.chmod(0o666)
    assert [found.state for found in check_identity(book.config(), NOW)] == [State.OK, State.WARNING]
    book.path.write_text("cs_secret\n", encoding="utf-8")
    (wrong,) = check_identity(book.config(), NOW)
    assert wrong.state is State.WRONG
    assert wrong.what.startswith(f"--tokens-file: {book.path}: line 1: expected an object of JSON")
    assert "secret" not in wrong.what
