"""The file of tokens: what stands in it, and what is said of what cannot."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cellserve_server.binding import StartError, identity_warnings
from cellserve_server.config import ServerConfig
from cellserve_server.security.authentication import Authenticator
from cellserve_server.security.grants import CredentialsError
from cellserve_server.security.identity import Identity
from cellserve_server.security.tokens import digest_of, line_of, new_token, read_tokens
from cellserve_server.token_command import new_main
from tests.clocks import ManualClock

DIGEST = digest_of("t").hex()


def test_tokens_are_random_and_need_no_quoting() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(
        token.startswith("cs_") and len(token) == 46 and token[3:].replace("-", "a").replace("_", "a").isalnum()
        for token in tokens
    )


def test_a_line_is_read_as_it_was_written() -> None:
    token = new_token()
    line = line_of(token, "clinic", frozenset({"admin", "metrics"}), note="for tests")
    assert token not in line
    tokens = read_tokens(f"# tokens\n\n{line}\n".encode())
    identity = tokens.find(digest_of(token))
    assert identity is not None
    assert identity == Identity("clinic", frozenset({"admin", "metrics"}), math.inf)
    assert tokens.find(digest_of(token)[:8] + bytes(24)) is None, "the same begin alone is not enough"
    assert tokens.find(digest_of("other")) is None


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("cs_secret", "expected an object of JSON"),
        ("[" * 100_000, "expected an object of JSON"),
        ("[]", "expected an object of JSON with fields of tenant, sha256, rights, expires, note"),
        ({"tenant": "t", "sha256": DIGEST, "token": "cs_secret"}, "expected an object of JSON with fields"),
        ({"sha256": DIGEST}, "tenant: expected 1 to 128"),
        ({"tenant": "a b", "sha256": DIGEST}, "tenant: expected"),
        ({"tenant": "t"}, "sha256: expected 64 hexadecimal"),
        ({"tenant": "t", "sha256": "cs_secret"}, "sha256: expected 64 hexadecimal"),
        ({"tenant": "t", "sha256": "g" * 64}, "sha256: expected 64 hexadecimal"),
        ({"tenant": "t", "sha256": DIGEST, "rights": ["root"]}, "rights: expected a list of admin, metrics"),
        ({"tenant": "t", "sha256": DIGEST, "rights": [[]]}, "rights: expected a list of admin, metrics"),
        ({"tenant": "t", "sha256": DIGEST, "expires": "soon"}, "expires: expected a time with its zone"),
        ({"tenant": "t", "sha256": DIGEST, "expires": "2030-01-01T00:00:00"}, "expires: expected a time with its zone"),
        ({"tenant": "t", "sha256": DIGEST, "expires": 5}, "expires: expected a time with its zone"),
    ],
)
def test_lines_that_will_not_do(entry: object, words: str) -> None:
    line = entry if isinstance(entry, str) else json.dumps(entry)
    good = line_of(new_token(), "t", frozenset())
    with pytest.raises(ValueError, match=f"^line 2: {words}") as caught:
        read_tokens(f"{good}\n{line}\n".encode())
    assert "secret" not in str(caught.value)


def test_a_token_stands_there_once() -> None:
    lines = [line_of("token", tenant, frozenset()) for tenant in ("a", "b")]
    with pytest.raises(ValueError, match="line 2: expected each token once"):
        read_tokens("\n".join(lines).encode())


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[str], str]:
    """Whose an ``Authorization`` is, where ``t`` is a token of ``clinic``."""
    file = tmp_path / "tokens"
    file.write_text(line_of("t", "clinic", frozenset()) + "\n", encoding="utf-8")
    authenticator = Authenticator(ServerConfig(tokens_file=str(file)), CollectorRegistry(), ManualClock())
    return lambda value: authenticator.of_header(value).identity.tenant


@pytest.mark.parametrize("value", ["Bearer t", "bearer t", "Basic " + base64.b64encode(b"anybody:t").decode()])
def test_how_a_token_is_shown(asked: Callable[[str], str], value: str) -> None:
    assert asked(value) == "clinic"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "missing"),
        ("t", "malformed"),
        ("Digest t", "malformed"),
        ("Bearer", "malformed"),
        ("Bearer \u00fc", "malformed"),
        (f"Bearer {'x' * 8193}", "malformed"),
        ("Basic ???", "malformed"),
        ("Basic " + base64.b64encode(b"\xff:t").decode(), "malformed"),
        ("Basic " + base64.b64encode(b"t:").decode(), "malformed"),
        ("Bearer tt", "unknown"),
        ("Bearer t t", "unknown"),
        ("Bearer a.b.c", "unknown"),
    ],
)
def test_how_it_is_not(asked: Callable[[str], str], value: str, reason: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        asked(value)
    assert caught.value.why == reason


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"^--tokens-file: cannot read .*none: No such file"):
        Authenticator(ServerConfig(tokens_file=str(tmp_path / "none")), CollectorRegistry(), ManualClock())


@pytest.mark.parametrize(
    ("settings", "events"),
    [
        ({}, []),
        ({"host": "0.0.0.0"}, ["anybody_may_come_in"]),
        ({"host": "0.0.0.0", "tokens_file": "t"}, ["tokens_in_the_clear"]),
        ({"host": "0.0.0.0", "tokens_file": "t", "tls_cert": "c", "tls_key": "k"}, []),
        ({"tokens_file": "t"}, []),
        ({"http_host": "0.0.0.0"}, ["anybody_may_look"]),
        ({"http_host": "0.0.0.0", "http_port": -1}, []),
        ({"http_host": "0.0.0.0", "tokens_file": "t"}, ["tokens_in_the_clear"]),
        ({"http_host": "::", "host": "::", "insecure": True}, ["anybody_may_come_in", "anybody_may_look"]),
    ],
)
def test_what_is_worth_a_warning(settings: dict[str, Any], events: list[str]) -> None:
    assert [event for event, *_ in identity_warnings(ServerConfig(**settings))] == events


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_token_and_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert new_main(["--tenant", "clinic", "--admin", "--days", "1"]) == 0
    token, line = capsys.readouterr().out.splitlines()
    identity = read_tokens(line.encode()).find(digest_of(token))
    assert identity is not None
    assert identity.tenant == "clinic"
    assert identity.rights == {"admin"}
    assert identity.expire_time < math.inf


def test_the_command_appends_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tokens"
    for tenant in ("clinic", "shop"):
        assert new_main(["--tenant", tenant, "--append", str(file)]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(file.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")  # An editor's last line.
    assert new_main(["--tenant", "third", "--metrics", "--append", str(file)]) == 0
    tokens = read_tokens(file.read_bytes())
    found = [tokens.find(digest_of(token)) for token in capsys.readouterr().out.splitlines()]
    assert [identity and identity.tenant for identity in found] == ["clinic", "shop", "third"]


def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new_main([]) == 2
    assert new_main(["--tenant", "a b"]) == 2
    assert new_main(["--tenant", "a", "--append", str(tmp_path / "no" / "tokens")]) == 1
    errors = capsys.readouterr()
    assert errors.out == ""
    assert "--tenant: expected 1 to 128 of the characters" in errors.err
    assert new_main(["--help"]) == 0
