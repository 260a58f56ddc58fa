"""The limits of tenants, and the file that says otherwise."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from cellserve_server.binding import StartError
from cellserve_server.config import OF_ONE, SHARED, ServerConfig
from cellserve_server.tenant_limits import TenantLimits


def limits(folder: Path, text: str, **settings: float) -> TenantLimits:
    path = folder / "quotas.toml"
    path.write_text(text, encoding="utf-8")
    return TenantLimits(replace(ServerConfig(), quotas_file=str(path), **settings))  # type: ignore[arg-type]


def test_a_share_of_what_is_shared_and_all_of_what_is_of_one_thing() -> None:
    config = replace(ServerConfig(), tenant_share=0.25, max_steps_per_s=100.0)
    known = TenantLimits(config)
    for item in fields(ServerConfig):
        whole, part = getattr(config, item.name), getattr(known.of("acme"), item.name)
        assert part == (whole / 4 if item.metadata["tenant"] == SHARED else whole), item.name
        assert getattr(known.of("default"), item.name) == whole
    assert {item.metadata["tenant"] for item in fields(ServerConfig)} == {"", SHARED, OF_ONE}


def test_a_tenant_by_the_name_of_nobody_has_no_more_than_others() -> None:
    config = replace(ServerConfig(), tenant_share=0.25, tokens_file="tokens")
    known = TenantLimits(config)
    assert known.of("default").max_sessions == known.of("acme").max_sessions == config.max_sessions // 4


def test_the_file_goes_before_the_share_and_one_tenant_before_all(tmp_path: Path) -> None:
    known = limits(
        tmp_path,
        "[every_tenant]\nmax_sessions = 10\nmax_streams = 7\n[tenants.acme]\nmax_sessions = 20\nmax_steps_per_s = 5\n",
    )
    assert (known.of("acme").max_sessions, known.of("acme").max_streams) == (20, 7)
    assert (known.of("other").max_sessions, known.of("other").max_steps_per_s) == (10, 0)
    assert known.of("default").max_sessions == 10
    assert known.has_rates


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_sessions = 1", "expected every_tenant and tenants alone; got 'max_sessions'"),
        ("[tenants.a]\nmax_session = 1", r"tenants.a.max_session: expected one of inspector_max_watches, "),
        ("[tenants.a]\nport = 1", r"tenants.a.port: expected one of "),
        ("[tenants.a]\nmax_sessions = 1.5", r"tenants.a.max_sessions: expected a number; got 1.5"),
        ("[tenants.a]\nmax_sessions = true", r"max_sessions: expected a number; got True"),
        ("[tenants.a]\nmax_sessions = 0", r"tenants.a.max_sessions: expected at least 1; got 0"),
        ("[tenants.a]\nmax_steps_per_s = nan", r"max_steps_per_s: expected a "),
        ("[every_tenant]\nmax_rows = 5000", r"every_tenant.max_rows: expected at most the server's own limit, 4096"),
        ("[tenants]\na = 1", "tenants.a: expected a table of limits; got 1"),
        ("tenants = 1", "tenants: expected a table of tenants"),
        ("[tenants.a", "expected TOML"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(StartError, match=words):
        limits(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"--quotas-file: cannot read .*: No such file"):
        TenantLimits(replace(ServerConfig(), quotas_file=str(tmp_path / "none")))


def test_while_a_changed_file_cannot_be_used_what_was_known_holds(tmp_path: Path) -> None:
    known = limits(tmp_path, "[tenants.a]\nmax_sessions = 5\n")
    path = tmp_path / "quotas.toml"
    for text in ("[tenants.a]\nmax_sessions = 'x'\n", "", "[tenants.a]\nmax_sessions = 777\n"):
        path.write_text(text, encoding="utf-8")
        known.refresh()
        found = known.of("a").max_sessions
        assert found == {"": 500_000, "[tenants.a]\nmax_sessions = 777\n": 777}.get(text, 5)
    path.unlink()
    known.refresh()
    assert known.of("a").max_sessions == 777


def test_ever_new_names_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellserve_server.tenant_limits.MAX_KNOWN_TENANTS", 10)
    known = TenantLimits(ServerConfig())
    for number in range(100):
        known.of(f"tenant {number}")
        assert len(known._known) <= 10
