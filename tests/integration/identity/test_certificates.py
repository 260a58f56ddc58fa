"""Tenants whose clients' certificates say who they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cellserve.errors import UnauthenticatedError
from cellserve_client import TlsSettings, connect
from cellserve_server.config import ServerConfig
from tests.certificates import Authority, with_tls
from tests.identities import TokenBook
from tests.integration.identity.test_tokens import failures
from tests.integration.tls.using import Start, use
from tests.servers import TEST_CONFIG, RunningApp


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
