"""Calls, streams and groups over TLS, and with a token."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.certificates import Authority, Pair, with_tls
from tests.clients import Kind, client
from tests.integration.client.fleet.fake_replicas import WIDTH, fake_fleet
from tests.integration.tls.using import Start, use
from tests.servers import TEST_CONFIG, LoopThread


def test_calls_streams_and_groups(
    start_server: Start, loop_thread: LoopThread, client_kind: Kind, authority: Authority, pair: Pair
) -> None:
    server = start_server(with_tls(TEST_CONFIG, pair))
    for coalesce in (True, False):
        with client(client_kind, loop_thread, server.address, tls=authority.trusted(), coalesce=coalesce) as remote:
            use(remote)


def test_two_servers(
    start_server: Start, loop_thread: LoopThread, client_kind: Kind, authority: Authority, pair: Pair
) -> None:
    addresses = ",".join(start_server(with_tls(TEST_CONFIG, pair)).address for _ in range(2))
    with client(client_kind, loop_thread, addresses, tls=authority.trusted(), pinned=True) as remote:
        use(remote)


def test_a_client_with_a_certificate(
    start_server: Start, loop_thread: LoopThread, client_kind: Kind, authority: Authority, pair: Pair
) -> None:
    server = start_server(with_tls(TEST_CONFIG, pair, clients=authority))
    tls = authority.trusted(authority.issue("client", "me.example"))
    with client(client_kind, loop_thread, server.address, tls=tls) as remote:
        use(remote)


def test_the_name_of_a_resolved_address_is_what_counts(
    start_server: Start, loop_thread: LoopThread, client_kind: Kind, authority: Authority
) -> None:
    named = authority.issue("named", "localhost")
    server = start_server(with_tls(TEST_CONFIG, named))
    name = f"dns:///localhost:{server.app.port}"
    with client(client_kind, loop_thread, name, tls=authority.trusted(), pinned=True) as remote:
        use(remote)


def test_the_token_is_shown_with_every_request(loop_thread: LoopThread, client_kind: Kind, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first", encoding="ascii")
    with fake_fleet(loop_thread, 1) as fleet:
        replica = fleet.replicas[0]
        with client(client_kind, loop_thread, replica.address, token=file) as remote:
            session = remote.session("m")
            session.step(np.zeros(WIDTH, np.float32))
            file.write_text("second", encoding="ascii")
            remote.sessions()
    assert {"GetModel", "CreateSession", "StreamSteps"} <= {method for method, _ in replica.shown}
    assert {shown for _, shown in replica.shown[:-1]} == {"Bearer first"}
    assert replica.shown[-1] == ("ListSessions", "Bearer second")
