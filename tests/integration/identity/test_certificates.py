"""Tenants whose clients' certificates say who they are."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from cellserve.errors import UnauthenticatedError
from cellserve.v1 import model_service_pb2
from cellserve_client import TlsSettings, connect
from cellserve_server.config import ServerConfig
from tests.certificates import Authority, Pair, with_tls
from tests.identities import TokenBook
from tests.integration.identity.test_tokens import failures, look, silence
from tests.integration.tls.using import Start, use
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, error_of_call, stubs_for


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def config_of(authority: Authority, place: str) -> ServerConfig:
    return replace(with_tls(TEST_CONFIG, authority.issue("server"), authority), tls_tenant_from=place)


@pytest.mark.parametrize("place", ["cn", "uri"])
def test_each_certificate_has_its_own_sessions(start_server: Start, authority: Authority, place: str) -> None:
    server = start_server(config_of(authority, place))
    tenants = [f"{'spiffe://cells.example/' if place == 'uri' else ''}{name}" for name in ("clinic", "shop")]
    for tenant in tenants:
        pair = authority.issue_to_uris("u", tenant) if place == "uri" else authority.issue("c", common_name=tenant)
        with connect(server.address, tls=authority.trusted(pair)) as remote:
            assert remote.models() == []
            use(remote)
            assert len(remote.models()) == 1
    assert {model.tenant for model in server.loop.call(lambda: list(server.app.models.defined()))} == set(tenants)


@pytest.mark.parametrize("place", ["cn", "uri"])
def test_a_certificate_that_names_nobody(start_server: Start, authority: Authority, place: str) -> None:
    server = start_server(config_of(authority, place))
    pairs = [authority.issue("nobody"), authority.issue("words", common_name="two words")]
    if place == "uri":
        pairs.append(authority.issue_to_uris("two", "spiffe://cells.example/a", "spiffe://cells.example/b"))
    for pair in pairs:
        with (
            connect(server.address, tls=authority.trusted(pair)) as remote,
            pytest.raises(UnauthenticatedError, match="the client's certificate: expected one"),
        ):
            remote.models()
    assert failures(server) == {"certificate": len(pairs)}


class Caller:
    """A client with a certificate, on one connection."""

    def __init__(self, server: RunningApp, authority: Authority, pair: Pair) -> None:
        own = grpc.ssl_channel_credentials(authority.file.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes())
        self.over = threading.Event()
        self._exit = ExitStack()
        self.stubs = self._exit.enter_context(stubs_for(server.address, own))

    def close(self) -> None:
        self.over.set()
        self._exit.close()

    def list_models(self) -> None:
        self.stubs.models.ListModels(model_service_pb2.ListModelsRequest(), timeout=RPC_TIMEOUT_S)


@pytest.mark.parametrize("way", ["directly", "through another"])
def test_an_issuer_who_is_withdrawn_takes_its_certificates_along(
    start_server: Start, authority: Authority, tmp_path: Path, way: str
) -> None:
    successor = Authority(tmp_path / "successor")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.file.read_bytes())
    server = start_server(replace(config_of(authority, "cn"), tls_client_ca=str(trusted)))
    issue = authority.issue if way == "directly" else authority.issue_through_another
    caller = Caller(server, authority, issue("client", common_name="clinic"))
    with closing(caller):
        stream = caller.stubs.recurrent.StreamSteps(silence(caller.over))
        caller.list_models()
        server.wait_until(lambda: len(server.app.interceptor.lasting) == 1)
        # A file with one more in it puts nobody out, and lets those in who come by the new one, at once.
        trusted.write_bytes(successor.file.read_bytes() + authority.file.read_bytes())
        with closing(Caller(server, authority, successor.issue("new", common_name="shop"))) as newcomer:
            newcomer.list_models()
        look(server)
        caller.list_models()
        assert server.loop.call(lambda: len(server.app.interceptor.lasting)) == 1
        trusted.write_bytes(successor.file.read_bytes())
        look(server)
        assert error_of_call(lambda: next(stream)).message == "authorization: the credentials are no longer good"
        for _ in range(2):
            assert "expected one by an issuer whom this server trusts" in error_of_call(caller.list_models).message
    assert failures(server) == {"revoked": 3}


def test_a_token_goes_before_the_certificate(start_server: Start, authority: Authority, book: TokenBook) -> None:
    server = start_server(book.config(config_of(authority, "cn")))
    pair = authority.issue("client", common_name="clinic")
    tls = authority.trusted(pair)
    assert tenant_of(server, tls, book.issue("shop")) == "shop"
    assert tenant_of(server, tls, "") == "clinic"
    with pytest.raises(UnauthenticatedError, match="a token that this server knows"):
        tenant_of(server, tls, "cs_wrong")


def tenant_of(server: RunningApp, tls: TlsSettings, token: str) -> str:
    """As whom a client is known: it makes a session, of which the server says whose it is."""
    server.loop.run(server.app.look_at_identities())
    before = {model.tenant for model in server.loop.call(lambda: list(server.app.models.defined()))}
    with connect(server.address, tls=tls, token=token) as remote:
        use(remote)
    (tenant,) = {model.tenant for model in server.loop.call(lambda: list(server.app.models.defined()))} - before
    return str(tenant)


def test_without_identity_a_certificate_only_lets_in(start_server: Start, authority: Authority) -> None:
    server = start_server(with_tls(TEST_CONFIG, authority.issue("server"), authority))
    pair = authority.issue("client", common_name="clinic")
    assert tenant_of(server, authority.trusted(pair), "") == "default"


def test_settings_that_belong_together() -> None:
    with pytest.raises(ValueError, match="tls_tenant_from: expected tls_client_ca with it"):
        ServerConfig(tls_tenant_from="cn")
    with pytest.raises(ValueError, match="tls_tenant_from: expected cn or uri; got 'ou'"):
        ServerConfig(tls_tenant_from="ou")
