"""JSON Web Tokens: what an issuer says of who calls, signed by a key of a file (JWKS)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cellserve_server.binding import StartError
from cellserve_server.security.grants import CredentialsError
from cellserve_server.security.identity import RIGHTS, TENANT_FORM, Identity, is_tenant

if TYPE_CHECKING:
    from jwt import PyJWK

# Signatures of a private key alone: with a symmetric one, whoever may verify could sign.
ALGORITHMS = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")  # RFC 7518, RFC 8037
)
KEY_TYPES = ("RSA", "EC", "OKP")
# RFC 7518, 3.3 and 3.5. Of the other algorithms above every curve is as strong.
MIN_RSA_BITS = 2048
# By how much the issuer's clock and ours may differ.
LEEWAY_S = 30.0
# In the claim of rights, so that another service's "admin" is not ours.
RIGHT_PREFIX = "cellserve:"


def require_library() -> None:
    """Looks whether JWTs can be verified here.

    Raises:
        StartError: the library is not installed.
    """
    try:
        import jwt  # noqa: F401
    except ImportError as error:
        raise StartError("--jwks-file: needs PyJWT; pip install 'cellserve-server[auth]'") from error


@dataclass(frozen=True)
class Expected:
    """What tokens have to say.

    Attributes:
        issuer: who they are from (``iss``).
        audience: whom they are for (``aud``).
        tenant_claim: where the tenant stands.
        rights_claim: where rights stand, as ``cellserve:admin``: words in a text, or a list.
    """

    issuer: str
    audience: str
    tenant_claim: str
    rights_claim: str


class SigningKey(NamedTuple):
    """A key, with what it is known by when the file is read again."""

    key: PyJWK
    fingerprint: bytes


class SigningKeys:
    """The keys of a file.

    Args:
        keys: by ``kid``; of a key without one: an empty text.
    """

    def __init__(self, keys: Mapping[str, SigningKey]) -> None:
        self._keys = keys

    def find(self, kid: object) -> SigningKey | None:
        """The key that a token names; one that names none (None) has the only one there is."""
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid) if isinstance(kid, str) else None

    def has(self, fingerprint: bytes) -> bool:
        """Whether a key is among them."""
        return any(key.fingerprint == fingerprint for key in self._keys.values())


def read_keys(content: bytes) -> SigningKeys:
    """Reads a JSON Web Key Set (RFC 7517). Keys that are not for signatures, or of algorithms not known here, are left.

    Raises:
        ValueError: it is none, has a private key, one that is too weak, or no key that is of use.
    """
    from jwt import PyJWK, PyJWTError

    try:
        entries = json.loads(content)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError('expected a JSON Web Key Set, {"keys": [...]}; got something else') from None
    if not isinstance(entries, list):
        raise ValueError("keys: expected a list; got something else")
    keys: dict[str, SigningKey] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") not in KEY_TYPES:
            continue
        if "d" in entry:
            raise ValueError(f"keys[{number}]: expected a public key; got a private one, which belongs to the issuer")
        try:
            key = PyJWK(entry)
        except PyJWTError:
            continue
        kid = entry.get("kid", "")
        if key.algorithm_name not in ALGORITHMS or not isinstance(kid, str):
            continue
        if entry["kty"] == "RSA" and key.key.key_size < MIN_RSA_BITS:
            bits = key.key.key_size
            raise ValueError(f"keys[{number}]: n: expected an RSA key of at least {MIN_RSA_BITS} bits; got {bits}")
        if kid in keys:
            raise ValueError(f"keys[{number}]: expected each kid once; this one is there already")
        keys[kid] = SigningKey(key, hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).digest())
    if not keys:
        raise ValueError("keys: expected a public key for signatures (RSA, EC or OKP) at least; got none")
    return SigningKeys(keys)


def verify(token: str, keys: SigningKeys, expected: Expected) -> tuple[Identity, bytes]:
    """Who shows a token, and the fingerprint of the key that has signed it.

    Raises:
        CredentialsError: it is not good; the message says why.
    """
    import jwt

    try:
        signed_by = keys.find(jwt.get_unverified_header(token).get("kid"))
        if signed_by is None:
            raise CredentialsError("invalid", "authorization: the token is signed by a key that is not known here")
        claims = jwt.decode(
            token,
            signed_by.key,
            # Its own: what a token says of itself counts for nothing.
            algorithms=[signed_by.key.algorithm_name],
            issuer=expected.issuer,
            audience=expected.audience,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss", "aud"]},
        )
        expire_time = float(claims["exp"]) + LEEWAY_S
    except jwt.ExpiredSignatureError:
        raise CredentialsError("expired", "authorization: the token has expired") from None
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CredentialsError("invalid", f"authorization: {_words(error)}") from None
    tenant = claims.get(expected.tenant_claim)
    if not is_tenant(tenant):
        words = f"authorization: {expected.tenant_claim}: expected a claim with {TENANT_FORM}; the token has none"
        raise CredentialsError("invalid", words)
    return Identity(tenant, _rights(claims.get(expected.rights_claim)), expire_time), signed_by.fingerprint


def _rights(claim: Any) -> frozenset[str]:
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(right for right in RIGHTS if f"{RIGHT_PREFIX}{right}" in words)


def _words(error: Exception) -> str:
    """Why a token is not good, without a word of what stands in it."""
    import jwt

    for kind, words in (
        (jwt.MissingRequiredClaimError, "the token lacks one of exp, iss and aud"),
        (jwt.InvalidIssuerError, "the token is of another issuer"),
        (jwt.InvalidAudienceError, "the token is for somebody else (aud)"),
        (jwt.ImmatureSignatureError, "the token is not good yet"),
        (jwt.InvalidAlgorithmError, "the token is signed by another algorithm than its key is for"),
        (jwt.InvalidSignatureError, "the token's signature is not its key's"),
    ):
        if isinstance(error, kind):
            return words
    return "the token cannot be read"
