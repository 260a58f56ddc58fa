"""A server's certificate that changes while it serves."""

from __future__ import annotations

import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import generate_latest
from structlog.testing import capture_logs

from cellserve_client import RetryPolicy, rnn
from tests.certificates import LONG_AGO, Authority, Pair, with_tls
from tests.clients import Kind, client
from tests.integration.tls.using import DEPTH, FRAMES, UNITS, Start, use
from tests.servers import TEST_CONFIG, LoopThread, RunningApp


def shown_by(server: RunningApp, authority: Authority) -> str:
    """The certificate that a server shows to who connects now, in PEM."""
    host, _, port = server.address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(authority.file), timeout=5)


def first_of(pair: Pair) -> str:
    end = "-----END CERTIFICATE-----\n"
    return pair.cert.read_text("ascii").partition(end)[0] + end


def metric(server: RunningApp, name: str) -> float:
    lines = generate_latest(server.app.metrics.registry).decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])


def test_a_certificate_that_changes_under_load_is_shown_and_nobody_sees_an_error(
    start_server: Start, loop_thread: LoopThread, client_kind: Kind, authority: Authority
) -> None:
    shown = authority.issue("changing")
    others = [authority.issue(f"other-{number}") for number in range(4)]
    server = start_server(with_tls(TEST_CONFIG, shown))
    once = RetryPolicy(max_attempts=1)
    enough = threading.Event()

    def connected() -> Any:
        return client(client_kind, loop_thread, server.address, tls=authority.trusted(), retry=once)

    def step_on() -> None:
        with connected() as old:
            cell: Any = old.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            with cell.session() as session:
                while not enough.is_set():
                    session.step(FRAMES[0, 0])

    def come_and_go() -> None:
        while not enough.is_set():
            with connected() as new:
                new.models()

    with ThreadPoolExecutor() as pool:
        under_way = [pool.submit(step_on), pool.submit(come_and_go)]
        try:
            for other in others:
                shown.replace_with(other)
                assert shown_by(server, authority) == first_of(other)
                with connected() as new:
                    use(new)
        finally:
            enough.set()
        for caller in under_way:
            caller.result()
    assert metric(server, 'cellserve_tls_reloads_total{outcome="ok"}') >= len(others)


def test_a_change_that_cannot_be_used_leaves_the_certificate_before(start_server: Start, authority: Authority) -> None:
    shown, other = authority.issue("halved"), authority.issue("other-half")
    before = first_of(shown)
    server = start_server(with_tls(TEST_CONFIG, shown))
    expiry = metric(server, "cellserve_tls_certificate_expiry_seconds")
    with capture_logs() as logs:
        for content in (other.key.read_bytes(), b"nonsense"):
            shown.key.write_bytes(content)
            assert shown_by(server, authority) == before
        shown.key.unlink()
        assert shown_by(server, authority) == before
        shown.cert.write_bytes(other.cert.read_bytes())
        assert shown_by(server, authority) == before
    assert [entry["event"] for entry in logs] == ["tls_reload_failed"] * 4
    assert "expected the key of the certificate" in logs[0]["error"]
    assert "cannot read" in logs[2]["error"]
    assert metric(server, 'cellserve_tls_reloads_total{outcome="failed"}') == 4
    assert metric(server, "cellserve_tls_certificate_expiry_seconds") == expiry
    soon = authority.issue("ends-soon", until=LONG_AGO)
    with capture_logs() as logs:
        shown.replace_with(soon)
        # A look at the metrics is enough: who watches them sees the change before anybody connects.
        assert metric(server, "cellserve_tls_certificate_expiry_seconds") == LONG_AGO.timestamp()
    assert [entry["event"] for entry in logs] == ["tls_certificate_reloaded"]
    assert logs[0]["good_until"] == "2001-01-01T00:00:00+00:00"
    assert metric(server, 'cellserve_tls_reloads_total{outcome="ok"}') == 1


def test_a_key_that_others_can_read_is_told_of(start_server: Start, authority: Authority) -> None:
    own = authority.issue("open")
    for mode, expected in ((0o600, []), (0o640, []), (0o644, ["0644"]), (0o660, ["0660"])):
        own.key.chmod(mode)
        with capture_logs() as logs:
            start_server(with_tls(TEST_CONFIG, own))
        assert [entry["mode"] for entry in logs if entry["event"] == "tls_key_open_to_others"] == expected
