"""Servers with TLS: what they need, where they may listen, and their health check."""

from __future__ import annotations

import socket
import ssl
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from cellserve_server import healthcheck
from cellserve_server.binding import StartError
from tests.certificates import Authority, Pair, with_tls
from tests.clients import client
from tests.integration.tls.using import Start
from tests.servers import TEST_CONFIG, LoopThread, RunningApp


def test_with_tls_other_machines_may_reach_the_server(
    start_server: Start, loop_thread: LoopThread, authority: Authority, pair: Pair
) -> None:
    config = replace(TEST_CONFIG, host="0.0.0.0")
    with pytest.raises(StartError, match=r"^--host: '0\.0\.0\.0' .* --tls-cert and --tls-key, or say --insecure"):
        start_server(config)
    server = start_server(with_tls(config, pair))
    with client("aio", loop_thread, f"localhost:{server.app.port}", tls=authority.trusted()) as remote:
        assert remote.models() == []
    # The metrics page has no TLS.
    with pytest.raises(StartError, match=r"^--http-host: '0\.0\.0\.0' "):
        start_server(replace(with_tls(config, pair), http_host="0.0.0.0", http_port=0))


def test_versions_before_1_2_are_refused(start_server: Start, authority: Authority, pair: Pair) -> None:
    server = start_server(with_tls(TEST_CONFIG, pair))
    assert version_spoken(server, authority, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match=r"EOF|ALERT_PROTOCOL_VERSION"):
        version_spoken(server, authority, ssl.TLSVersion.TLSv1_1)


def version_spoken(server: RunningApp, authority: Authority, version: ssl.TLSVersion) -> str | None:
    """Makes a handshake that allows this version alone, and any cipher."""
    context = authority.trusted().context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = version
    host, _, port = server.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        return secured.version()


@pytest.mark.parametrize("setting", ["tls_cert", "tls_key", "tls_client_ca", "tls_ca"])
def test_a_server_says_which_of_its_files_cannot_be_used(
    start_server: Start, authority: Authority, pair: Pair, tmp_path: Path, setting: str
) -> None:
    flag = "--" + setting.replace("_", "-")
    config = with_tls(TEST_CONFIG, pair, clients=authority)
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_bytes(b"nonsense")
    for path, words in ((tmp_path / "none.pem", "cannot read .*none.pem: No such file"), (nonsense, "expected .* PEM")):
        with pytest.raises(StartError, match=f"^{flag}: {words}"):
            start_server(replace(config, **{setting: str(path)}))  # type: ignore[arg-type]


def test_a_server_with_the_key_of_another_certificate(start_server: Start, authority: Authority, pair: Pair) -> None:
    other = authority.issue("another")
    with pytest.raises(StartError, match=r"^--tls-key: expected the key of the certificate in .*server\.pem"):
        start_server(with_tls(TEST_CONFIG, Pair(pair.cert, other.key)))


def test_the_health_check_in_a_servers_own_environment(
    start_server: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = authority.issue("replica", "replica-1.example")
    server = start_server(with_tls(TEST_CONFIG, own, clients=authority))
    probe = ["--address", server.address]
    assert healthcheck.main(probe) == 1
    for name, value in (("CERT", own.cert), ("KEY", own.key), ("CLIENT_CA", authority.file)):
        monkeypatch.setenv(f"CELLSERVE_TLS_{name}", str(value))
    capsys.readouterr()
    assert healthcheck.main(probe) == 0
    assert capsys.readouterr().out == f"{server.address}: SERVING\n"
    assert healthcheck.main([*probe, "--tls-server-name", "other.example"]) == 1
    assert healthcheck.main([*probe, "--tls-cert", "none.pem"]) == 1
    assert "the files for TLS cannot be used: " in capsys.readouterr().err
