"""JWTs: which are let in, as whom, and what the others are told."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms
from prometheus_client import CollectorRegistry

from cellserve_server.binding import StartError
from cellserve_server.config import ServerConfig
from cellserve_server.security.authentication import Authenticator
from cellserve_server.security.grants import CredentialsError
from cellserve_server.security.jwts import LEEWAY_S, read_keys
from tests.clocks import ManualClock

ISSUER, AUDIENCE = "https://login.example", "cellserve"


class Key(NamedTuple):
    """A signing key."""

    private: Any
    algorithm: str
    kid: str

    def public(self, **fields: str) -> dict[str, Any]:
        """Its entry of a JWKS."""
        entry = get_default_algorithms()[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return {**entry, "kid": self.kid, "alg": self.algorithm, **fields}

    def sign(self, claims: Mapping[str, Any], **headers: str) -> str:
        """A token."""
        return jwt.encode(dict(claims), self.private, self.algorithm, headers={"kid": self.kid, **headers})


RSA = Key(rsa.generate_private_key(65537, 2048), "RS256", "rsa")
PSS = Key(RSA.private, "PS256", "pss")
EC = Key(ec.generate_private_key(ec.SECP256R1()), "ES256", "ec")
ED = Key(ed25519.Ed25519PrivateKey.generate(), "EdDSA", "ed")
WEAK = Key(rsa.generate_private_key(65537, 1024), "PS256", "weak")
STRANGER = Key(ec.generate_private_key(ec.SECP256R1()), "ES256", "ec")


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims, but for some; None leaves one out."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 600, "tenant": "clinic"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def key_file(path: Path, *keys: Key) -> Path:
    path.write_text(json.dumps({"keys": [key.public() for key in keys]}), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    file = key_file(tmp_path / "jwks.json", RSA, PSS, EC, ED)
    return ServerConfig(jwks_file=str(file), jwt_issuer=ISSUER, jwt_audience=AUDIENCE)


def door(config: ServerConfig) -> Authenticator:
    return Authenticator(config, CollectorRegistry(), time.time)


@pytest.mark.parametrize("key", [RSA, PSS, EC, ED], ids=lambda key: key.algorithm)
def test_a_good_token(config: ServerConfig, key: Key) -> None:
    until = time.time() + 100
    identity = door(config).of_header(f"Bearer {key.sign(claims(exp=until))}").identity
    assert (identity.tenant, identity.rights) == ("clinic", frozenset())
    assert identity.expire_time == pytest.approx(until + LEEWAY_S)


@pytest.mark.parametrize("scope", ["openid cellserve:admin", ["cellserve:admin", "admin"], "cellserve:admin metrics"])
def test_rights_have_our_name_before_them(config: ServerConfig, scope: object) -> None:
    assert door(config).of_header(f"Bearer {RSA.sign(claims(scope=scope))}").identity.rights == {"admin"}
    other = replace(config, jwt_rights_claim="roles", jwt_tenant_claim="org")
    assert door(other).of_header(f"Bearer {RSA.sign(claims(org='o', roles=scope))}").identity.rights == {"admin"}


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"exp": 1.0}, "expired", "has expired"),
        ({"exp": None}, "invalid", "lacks one of exp, iss and aud"),
        ({"exp": "tomorrow"}, "invalid", "cannot be read"),
        ({"nbf": 4e9}, "invalid", "not good yet"),
        ({"iat": 4e9}, "invalid", "not good yet"),
        ({"iss": "https://evil.example"}, "invalid", "another issuer"),
        ({"iss": None}, "invalid", "lacks one of"),
        ({"aud": "billing"}, "invalid", "somebody else"),
        ({"aud": None}, "invalid", "lacks one of"),
        ({"tenant": None}, "invalid", "tenant: expected"),
        ({"tenant": "a b"}, "invalid", "tenant: expected"),
        ({"tenant": ["clinic"]}, "invalid", "tenant: expected"),
        ({"tenant": "x" * 200}, "invalid", "tenant: expected"),
    ],
)
def test_claims_that_will_not_do(config: ServerConfig, changes: dict[str, Any], reason: str, words: str) -> None:
    refused(config, RSA.sign(claims(**changes)), reason, words)


def refused(config: ServerConfig, token: str, reason: str, words: str) -> None:
    with pytest.raises(CredentialsError, match=words) as caught:
        door(config).of_header(f"Bearer {token}")
    assert caught.value.why == reason
    assert token not in str(caught.value)


def test_signatures_that_are_not_the_keys(config: ServerConfig) -> None:
    good = RSA.sign(claims())
    head, body, signature = good.split(".")
    for token in (
        STRANGER.sign(claims()),
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head}.{body[:-4]}AAAA.{signature}",
    ):
        refused(config, token, "invalid", "signature is not its key's|cannot be read")
    refused(config, f"{head}.{body}.", "invalid", "signature")
    refused(config, RSA.sign(claims(), kid="none"), "invalid", "key that is not known here")
    refused(config, "a.b.c", "invalid", "cannot be read")
    refused(config, "abc", "unknown", "that this server knows")


def test_what_a_token_says_of_its_algorithm_counts_for_nothing(config: ServerConfig) -> None:
    unsigned = jwt.encode(claims(), None, "none", headers={"kid": "rsa"})  # type: ignore[arg-type]
    refused(config, unsigned, "invalid", "another algorithm")
    # The public key as the secret of a symmetric one, which is no secret.
    public = RSA.public()["n"].encode()
    refused(config, jwt.encode(claims(), public, "HS256", headers={"kid": "rsa"}), "invalid", "another algorithm")
    refused(config, Key(RSA.private, "RS512", "rsa").sign(claims()), "invalid", "another algorithm")


def test_a_key_that_is_withdrawn_is_known_no_longer(config: ServerConfig) -> None:
    asked = door(config)
    tokens = [RSA.sign(claims()), EC.sign(claims())]
    grants = [asked.of_header(f"Bearer {token}") for token in tokens]
    assert asked.of_header(f"Bearer {tokens[0]}") is grants[0], "it is verified once"
    key_file(Path(config.jwks_file), EC)
    asked.refresh()
    assert [grant.stands() for grant in grants] == [False, True]
    with pytest.raises(CredentialsError, match="not known here"):
        asked.of_header(f"Bearer {tokens[0]}")
    assert asked.of_header(f"Bearer {tokens[1]}") is grants[1]
    nameless = jwt.encode(claims(), EC.private, "ES256")
    assert asked.of_header(f"Bearer {nameless}").identity.tenant == "clinic", "there is one key only"


def test_what_is_remembered_is_bounded_and_expires(config: ServerConfig) -> None:
    clock = ManualClock(time.time())
    asked = Authenticator(replace(config, max_remembered_grants=2), CollectorRegistry(), clock)
    tokens = [EC.sign(claims(exp=clock() + 100, jti=str(number))) for number in range(3)]
    grants = [asked.of_header(f"Bearer {token}") for token in tokens]
    assert len(asked._cache) == 2
    assert [asked.of_header(f"Bearer {tokens[place]}") is grants[place] for place in (2, 1, 0)] == [True, True, False]
    clock.advance(100 + LEEWAY_S)
    with pytest.raises(CredentialsError, match="expired"):
        asked.of_header(f"Bearer {tokens[0]}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "expected a JSON Web Key Set"),
        ("[]", "expected a JSON Web Key Set"),
        ('{"keys": 3}', "keys: expected a list"),
        ('{"keys": []}', "keys: expected a public key"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "keys: expected a public key"),
        (json.dumps({"keys": [RSA.public(use="enc")]}), "keys: expected a public key"),
        (json.dumps({"keys": [RSA.public(), RSA.public()]}), r"keys\[1\]: expected each kid once"),
        (json.dumps({"keys": [{**EC.public(), "d": "AQAB"}]}), r"keys\[0\]: expected a public key; got a private one"),
        (
            json.dumps({"keys": [EC.public(), WEAK.public()]}),
            r"keys\[1\]: n: expected an RSA key of at least 2048 bits; got 1024",
        ),
        (json.dumps({"keys": [{**EC.public(), "crv": "P-192"}]}), "keys: expected a public key"),
    ],
)
def test_files_that_will_not_do(config: ServerConfig, content: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_keys(content.encode())
    Path(config.jwks_file).write_text(content, encoding="utf-8")
    with pytest.raises(StartError, match=f"^--jwks-file: .*jwks.json: {words}"):
        door(config)


def test_settings_that_belong_together() -> None:
    with pytest.raises(ValueError, match="jwks_file: expected jwt_issuer and jwt_audience"):
        ServerConfig(jwks_file="keys", jwt_issuer=ISSUER)
