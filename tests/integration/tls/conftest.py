"""Fixtures of the tests of TLS: authorities, and either client."""

from __future__ import annotations

import pytest

from tests.certificates import Authority, Pair
from tests.clients import KINDS, Kind


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom both sides trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """A server's certificate."""
    return authority.issue("server")


@pytest.fixture(params=KINDS)
def client_kind(request: pytest.FixtureRequest) -> Kind:
    """Which client: a test that connects is run with each."""
    kind: Kind = request.param
    return kind
