"""Which issuers vouch for a client's certificate, of those that it shows along and those that a server trusts."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from cellserve_server.security.client_certificates import Vouching
from tests.certificates import FAR_AHEAD, LONG_AGO


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Party:
    """Who has a name and a key."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def named(cls, text: str) -> Party:
        return cls(name_of(text), ec.generate_private_key(ec.SECP256R1()))

    def issue(self, whose: Party, *, is_authority: bool = True) -> x509.Certificate:
        builder = x509.CertificateBuilder(self.name, whose.name, whose.key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(LONG_AGO).not_valid_after(FAR_AHEAD)
        return builder.add_extension(x509.BasicConstraints(is_authority, None), True).sign(self.key, SHA256())


OLD, NEW, BETWEEN, CLIENT = (Party.named(text) for text in ("old", "new", "between", "client"))
LEAF = BETWEEN.issue(CLIENT, is_authority=False)


def trusting(*issuers: x509.Certificate) -> Any:
    """The files of a server that trusts these issuers."""
    return SimpleNamespace(latest=SimpleNamespace(client_issuers=issuers))


@pytest.mark.parametrize("order", [1, -1])
def test_one_trusted_way_of_several_is_enough(order: int) -> None:
    files = trusting(OLD.issue(OLD))
    stands = Vouching(LEAF, [OLD.issue(BETWEEN), NEW.issue(BETWEEN)][::order], files)
    assert stands()
    files.latest = trusting(NEW.issue(NEW)).latest
    assert stands()
    files.latest = trusting(OLD.issue(Party(OLD.name, NEW.key))).latest  # Its name alone does not help.
    assert not stands()
    files.latest = trusting(OLD.issue(OLD)).latest  # Renewed: the same key.
    assert stands()


def test_who_is_no_authority_vouches_for_nobody() -> None:
    assert not Vouching(LEAF, [NEW.issue(BETWEEN, is_authority=False)], trusting(NEW.issue(NEW)))()


def test_without_what_is_between_nobody_is_found() -> None:
    assert not Vouching(LEAF, [], trusting(OLD.issue(OLD)))()
    assert Vouching(LEAF, [], trusting(OLD.issue(BETWEEN)))()
