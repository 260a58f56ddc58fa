"""The client's settings for TLS and its token: their files, the environment, and what is never shown."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from cellserve.errors import FieldInvalidError
from cellserve_client import ConnectionSettings, TlsSettings, connect
from cellserve_client.bearer import MAX_TOKEN_CHARS, BearerToken, token_from
from cellserve_client.tls import MAX_PEM_BYTES, settings_from
from tests.certificates import Authority

TOKEN = "abc.DEF-123_~+/=="


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_certificate_goes_with_its_key(authority: Authority, tmp_path: Path) -> None:
    mine, other = authority.issue("mine"), authority.issue("other")
    TlsSettings(authority.file, mine.cert, mine.key).credentials()
    with pytest.raises(FieldInvalidError, match=r"^tls\.key_file: expected the key of the certificate in .*mine\.pem"):
        TlsSettings(authority.file, mine.cert, other.key).credentials()
    with pytest.raises(FieldInvalidError, match=r"^tls\.key_file: expected a file, since cert_file is given"):
        TlsSettings(cert_file="a.pem")
    with pytest.raises(FieldInvalidError, match=r"^tls\.cert_file: expected a file, since key_file is given"):
        TlsSettings(key_file="a.key")
    for name in ("", ".example"):
        with pytest.raises(FieldInvalidError, match=rf"^tls\.server_name: expected the name of a host; got '{name}'"):
            TlsSettings(server_name=name)


@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
def test_a_file_that_is_not_what_it_should_be(authority: Authority, tmp_path: Path, field: str) -> None:
    mine = authority.issue("mine")

    def settings(path: Path) -> TlsSettings:
        files = {"ca_file": authority.file, "cert_file": mine.cert, "key_file": mine.key, field: path}
        return TlsSettings(files["ca_file"], files["cert_file"], files["key_file"])

    with pytest.raises(FieldInvalidError, match=rf"^tls\.{field}: cannot read '.*none\.pem': No such file"):
        settings(tmp_path / "none.pem").credentials()
    nonsense = tmp_path / "nonsense.pem"
    for content in (b"", b"nonsense \xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        nonsense.write_bytes(content)
        with pytest.raises(FieldInvalidError, match=rf"tls\.{field}.*: expected .*nonsense\.pem"):
            settings(nonsense).credentials()
    with nonsense.open("wb") as file:
        file.truncate(MAX_PEM_BYTES + 1)
    with pytest.raises(FieldInvalidError, match=rf"^tls\.{field}: expected at most {MAX_PEM_BYTES} bytes"):
        settings(nonsense).credentials()


def test_a_file_of_issuers_may_say_who_they_are(authority: Authority, tmp_path: Path) -> None:
    named = tmp_path / "named.pem"
    named.write_text(f"# Főtanúsítvány\n{authority.file.read_text('ascii')}", encoding="utf-8")
    assert len(TlsSettings(named).context().get_ca_certs()) == 1
    TlsSettings(named).credentials()


def test_a_key_with_a_passphrase(authority: Authority, tmp_path: Path) -> None:
    mine = authority.issue("mine")
    key = load_pem_private_key(mine.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(FieldInvalidError, match=r"^tls\.key_file: expected a key without a passphrase"):
        TlsSettings(authority.file, mine.cert, locked).credentials()


# --- the environment --------------------------------------------------------------------------------------------------


def test_what_is_asked_for_goes_before_the_environment() -> None:
    environment = {"CELLSERVE_TLS": "1", "CELLSERVE_TLS_CA": "ca.pem"}
    mine = TlsSettings("mine.pem")
    assert settings_from(mine, environment) is mine
    assert settings_from(True, environment) == TlsSettings()
    assert settings_from(False, environment) is None
    assert settings_from(None, environment) == TlsSettings("ca.pem")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"CELLSERVE_TLS": "", "CELLSERVE_TLS_CA": ""}, None),
        ({"CELLSERVE_TLS": "1"}, TlsSettings()),
        ({"CELLSERVE_TLS": "0", "CELLSERVE_TLS_CA": "ca.pem"}, None),
        ({"CELLSERVE_TLS_SERVER_NAME": "cells"}, TlsSettings(server_name="cells")),
        (
            {"CELLSERVE_TLS_CA": "a", "CELLSERVE_TLS_CERT": "b", "CELLSERVE_TLS_KEY": "c"},
            TlsSettings("a", "b", "c"),
        ),
    ],
)
def test_the_environment(environment: dict[str, str], expected: TlsSettings | None) -> None:
    assert settings_from(None, environment) == expected


def test_an_environment_that_cannot_be() -> None:
    with pytest.raises(FieldInvalidError, match=r"^CELLSERVE_TLS: expected 1 or 0; got 'maybe'"):
        settings_from(None, {"CELLSERVE_TLS": "maybe"})
    with pytest.raises(FieldInvalidError, match=r"^tls\.key_file: "):
        settings_from(None, {"CELLSERVE_TLS_CERT": "a"})


# --- the token --------------------------------------------------------------------------------------------------------


def test_a_token_is_sent_as_rfc_6750_says() -> None:
    assert BearerToken(TOKEN).metadata() == (("authorization", f"Bearer {TOKEN}"),)


@pytest.mark.parametrize("text", ["two words", "a\nb", "ümlaut", "=", "a=b", "x" * (MAX_TOKEN_CHARS + 1)])
def test_what_is_no_token_is_not_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text, encoding="utf-8")
    for source, name in ((text, "token"), (file, "token_file")):
        with pytest.raises(FieldInvalidError, match=f"^{name}: expected a token") as caught:
            BearerToken(source)
        assert text not in caught.value.message or text == "="


def test_a_files_token_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n", encoding="ascii")
    token = BearerToken(file)

    def shown() -> str:
        return token.metadata()[0][1]

    assert shown() == "Bearer first"
    for text, expected in (("second-one", "second-one"), ("", "second-one"), ("third\n", "third")):
        file.write_text(text, encoding="ascii")
        assert shown() == f"Bearer {expected}"
    file.unlink()
    assert shown() == "Bearer third"
    # As a secret is replaced that is mounted: another file takes its name.
    other = tmp_path / "other"
    other.write_text("fourth", encoding="ascii")
    os.replace(other, file)
    assert shown() == "Bearer fourth"


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FieldInvalidError, match=r"^token_file: cannot read '.*': No such file"):
        BearerToken(tmp_path / "none")


def test_which_token_is_used(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("of-the-file", encoding="ascii")
    environment = {"CELLSERVE_TOKEN_FILE": str(file)}
    assert token_from(None, {}) is None
    assert token_from("", environment) is None
    for given, expected in ((None, "of-the-file"), ("given", "given"), (file, "of-the-file")):
        token = token_from(given, environment)
        assert token is not None
        assert token.metadata()[0][1] == f"Bearer {expected}"


@pytest.mark.parametrize("address", ["cells.example:50051", "10.0.0.1:1,localhost:1", "dns:///cells.example:1"])
def test_a_token_is_not_sent_for_all_to_read(address: str) -> None:
    with pytest.raises(FieldInvalidError, match=r"^token: expected TLS to (cells\.example|10\.0\.0\.1):") as caught:
        connect(address, token="secret-one", tls=False)
    assert "secret-one" not in caught.value.message
    connect(address, token="secret-one", tls=True).close()
    connect(address, token="", tls=False).close()


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1,[::1]:1", "dns:///localhost:1"])
def test_on_this_machine_it_may_go_in_the_clear(address: str) -> None:
    connect(address, token="secret-one", tls=False).close()


# --- as a value -------------------------------------------------------------------------------------------------------


def test_settings_can_be_handed_to_another_process_and_do_not_show_the_token() -> None:
    settings = ConnectionSettings("localhost:1", tls=TlsSettings("ca.pem"), token="secret-one", proxied=True)
    again = pickle.loads(pickle.dumps(settings))  # noqa: S301
    assert again == settings
    assert again.token == "secret-one"
    assert "secret-one" not in repr(again)
    assert "ca.pem" in repr(again)


@pytest.mark.parametrize("connected", [ConnectionSettings.connect, ConnectionSettings.connect_aio])
def test_settings_are_checked_when_they_connect(connected: Callable[[ConnectionSettings], object]) -> None:
    with pytest.raises(FieldInvalidError, match=r"^address: "):
        connected(ConnectionSettings("nowhere"))
    with pytest.raises(FieldInvalidError, match=r"^token: "):
        connected(ConnectionSettings("elsewhere:1", token="x", tls=False))
