"""What the clients say when TLS does not come about."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import pytest

from cellserve.errors import TlsError, UnavailableError
from cellserve_client import RetryPolicy, TlsSettings
from cellserve_server.config import ServerConfig
from tests.certificates import LONG_AGO, Authority, Pair, with_tls
from tests.clients import Kind, client
from tests.integration.tls.using import Start
from tests.servers import TEST_CONFIG, LoopThread, running_app


def self_signed(authority: Authority) -> Pair:
    """An authority's own certificate, as a server's."""
    return Pair(authority.file, authority.key)


TROUBLES: dict[str, tuple[Callable[[Authority, Authority], tuple[ServerConfig, TlsSettings | bool]], str]] = {
    "expired": (
        lambda ours, _: (with_tls(TEST_CONFIG, ours.issue("expired", until=LONG_AGO)), ours.trusted()),
        r"its certificate, or an issuer's, has expired; the clock here says \d{4}-\d\d-\d\d \d\d:\d\d UTC$",
    ),
    "self-signed": (
        lambda ours, theirs: (with_tls(TEST_CONFIG, self_signed(theirs)), ours.trusted()),
        r"its certificate is self-signed, and not one that tls\.ca_file, '.*ca\.pem', trusts; .* tls\.ca_file$",
    ),
    "unknown issuer": (
        lambda ours, theirs: (with_tls(TEST_CONFIG, theirs.issue("theirs")), ours.trusted()),
        r"its certificate is from an issuer whom tls\.ca_file, '.*ca\.pem', does not trust; ",
    ),
    "unknown to the machine": (
        lambda ours, _: (with_tls(TEST_CONFIG, ours.issue("server")), True),
        r"its certificate is from an issuer whom this machine does not trust; tls\.ca_file names ",
    ),
    "another name": (
        lambda ours, _: (with_tls(TEST_CONFIG, ours.issue("other", "a.example", "10.0.0.1")), ours.trusted()),
        r"its certificate is for a\.example, 10\.0\.0\.1, not for '127\.0\.0\.1'; ",
    ),
    "another expected name": (
        lambda ours, _: (with_tls(TEST_CONFIG, ours.issue("server")), ours.trusted(server_name="b.example")),
        r"its certificate is for localhost, 127\.0\.0\.1, not for 'b\.example'; ",
    ),
    "no client certificate": (
        lambda ours, _: (with_tls(TEST_CONFIG, ours.issue("server"), clients=ours), ours.trusted()),
        r"it asks for a client's certificate \(.+\); tls\.cert_file and tls\.key_file name yours$",
    ),
    "a stranger's client certificate": (
        lambda ours, theirs: (
            with_tls(TEST_CONFIG, ours.issue("server"), clients=ours),
            ours.trusted(theirs.issue("their-client")),
        ),
        r"it does not accept the client's certificate in '.*their-client\.pem' ",
    ),
    "an expired client certificate": (
        lambda ours, _: (
            with_tls(TEST_CONFIG, ours.issue("server"), clients=ours),
            ours.trusted(ours.issue("old-client", until=LONG_AGO)),
        ),
        r"it does not accept the client's certificate in '.*old-client\.pem' ",
    ),
    "a server without TLS": (
        lambda ours, _: (TEST_CONFIG, ours.trusted()),
        r"it does not speak TLS; connect\(\.\.\., tls=False\), or CELLSERVE_TLS=0, speaks without$",
    ),
    "a client without TLS": (
        lambda ours, _: (with_tls(TEST_CONFIG, ours.issue("server")), False),
        r"it speaks TLS, and was spoken to without; connect\(\.\.\., tls=True\), or CELLSERVE_TLS=1, speaks TLS$",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_why_tls_does_not_come_about_is_said_at_once(
    start_server: Start,
    loop_thread: LoopThread,
    client_kind: Kind,
    authority: Authority,
    stranger: Authority,
    trouble: str,
) -> None:
    case, words = TROUBLES[trouble]
    config, tls = case(authority, stranger)
    server = start_server(config)
    begin = rf"^cannot speak to the server at {server.address}: "
    patient = RetryPolicy(max_attempts=50, max_first_contact_attempts=50)
    with client(client_kind, loop_thread, server.address, tls=tls, retry=patient) as remote:
        with pytest.raises(TlsError, match=begin + words):
            remote.models()
        with pytest.raises(UnavailableError, match=begin + words):
            remote.session("speaker-id")


@pytest.mark.parametrize("trouble", ["expired", "a server without TLS"])
def test_every_replica_is_asked_before_it_is_said(
    start_server: Start, loop_thread: LoopThread, authority: Authority, stranger: Authority, pair: Pair, trouble: str
) -> None:
    case, words = TROUBLES[trouble]
    config, tls = case(authority, stranger)
    bad = [start_server(config).address for _ in range(2)]
    with client("aio", loop_thread, ",".join(bad), tls=tls) as remote, pytest.raises(TlsError, match=words):
        remote.models()
    good = start_server(with_tls(TEST_CONFIG, pair)).address
    with client("aio", loop_thread, ",".join([*bad, good]), tls=tls) as remote:
        for _ in range(4):
            assert remote.models() == []


def test_a_server_that_is_not_there_is_not_a_matter_of_tls(loop_thread: LoopThread, authority: Authority) -> None:
    with running_app(loop_thread) as server:
        address = server.address
    with (
        client("aio", loop_thread, address, tls=authority.trusted()) as remote,
        pytest.raises(UnavailableError, match=r"no server answers at .*connection refused") as caught,
    ):
        remote.models()
    assert type(caught.value) is UnavailableError


def test_a_client_connects_with_the_files_of_now_when_it_has_to_connect_again(
    loop_thread: LoopThread, client_kind: Kind, authority: Authority, stranger: Authority
) -> None:
    own = authority.issue("client-of-today")
    server_pair = authority.issue("server-of-today")
    config = with_tls(TEST_CONFIG, server_pair, clients=authority)
    with ExitStack() as stack:
        with running_app(loop_thread, config) as server:
            connected = stack.enter_context(
                client(client_kind, loop_thread, server.address, tls=authority.trusted(own))
            )
            assert connected.models() == []
            port = server.app.port
        # Meanwhile the issuer of the clients' certificates is another one.
        stack.enter_context(
            running_app(loop_thread, replace(with_tls(config, server_pair, clients=stranger), port=port))
        )
        with pytest.raises(TlsError, match="it does not accept the client's certificate"):
            connected.models()
        own.replace_with(stranger.issue("client-of-tomorrow"))
        assert connected.models() == []
