"""Bearer tokens, of which a file has the digests: a line a token.

A token is 256 random bits, so its SHA-256 can be published: there is nothing that it could be guessed from. The slow
hashes that passwords need (bcrypt, argon2) protect what people think of; here they would only let anybody keep the
server busy with wrong tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cellserve_server.security.grants import CredentialsError
from cellserve_server.security.identity import RIGHTS, TENANT_FORM, Identity, is_tenant

# So that a token that was left somewhere is known for what it is.
TOKEN_PREFIX = "cs_"
TOKEN_RANDOM_BYTES = 32
# Digests are looked up by their first bytes and compared as a whole, in constant time.
LOOKUP_BYTES = 8
FIELDS = ("tenant", "sha256", "rights", "expires", "note")


def new_token() -> str:
    """A new token."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_RANDOM_BYTES)


def digest_of(token: str) -> bytes:
    """What a token is known by."""
    return hashlib.sha256(token.encode()).digest()


def line_of(token: str, tenant: str, rights: frozenset[str], expires: datetime | None = None, note: str = "") -> str:
    """A token's line of the file, without its end.

    Raises:
        ValueError: no such tenant can be.
    """
    if not is_tenant(tenant):
        raise ValueError(f"tenant: expected {TENANT_FORM}; got {tenant!r}")
    entry: dict[str, object] = {"tenant": tenant}
    if rights:
        entry["rights"] = sorted(rights)
    if expires is not None:
        entry["expires"] = expires.astimezone(UTC).isoformat(timespec="seconds")
    if note:
        entry["note"] = note
    return json.dumps({**entry, "sha256": digest_of(token).hex()})


class Tokens:
    """The tokens of a file.

    Args:
        identities: who shows them, by their digests.
    """

    def __init__(self, identities: Mapping[bytes, Identity]) -> None:
        self._by_begin: dict[bytes, list[tuple[bytes, Identity]]] = {}
        for digest, identity in identities.items():
            self._by_begin.setdefault(digest[:LOOKUP_BYTES], []).append((digest, identity))
        self.count = len(identities)

    def expire_times(self) -> list[float]:
        """Until when each is good, in unix seconds; infinite: without end."""
        return [identity.expire_time for known in self._by_begin.values() for _, identity in known]

    def find(self, digest: bytes) -> Identity | None:
        """Who shows the token with this digest; None: there is no such token."""
        for known, identity in self._by_begin.get(digest[:LOOKUP_BYTES], ()):
            if hmac.compare_digest(known, digest):
                return identity
        return None


def read_tokens(content: bytes) -> Tokens:
    """Reads a file: an object of JSON in each line; what begins with ``#`` is a comment.

    Raises:
        ValueError: a line is not as it should be. What stands in it is not shown: it may be a token.
    """
    identities: dict[bytes, Identity] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            digest, identity = _entry(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if digest in identities:
            raise ValueError(f"line {number}: expected each token once; it has a line already")
        identities[digest] = identity
    return Tokens(identities)


def _entry(line: str) -> tuple[bytes, Identity]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("expected an object of JSON, as `cellserve token new` prints it; got something else") from None
    if not isinstance(entry, dict) or not entry.keys() <= set(FIELDS):
        raise ValueError(f"expected an object of JSON with fields of {', '.join(FIELDS)}; got something else")
    if not is_tenant(tenant := entry.get("tenant")):
        raise ValueError(f"tenant: expected {TENANT_FORM}; got something else")
    digest = entry.get("sha256")
    if not isinstance(digest, str) or len(digest) != 64 or not digest.isascii() or not digest.isalnum():
        raise ValueError("sha256: expected 64 hexadecimal digits; got something else")
    rights = entry.get("rights", [])
    if not isinstance(rights, list) or not all(right in RIGHTS for right in rights):
        raise ValueError(f"rights: expected a list of {', '.join(RIGHTS)}; got something else")
    try:
        known_by = bytes.fromhex(digest)
    except ValueError:
        raise ValueError("sha256: expected 64 hexadecimal digits; got something else") from None
    return known_by, Identity(tenant, frozenset(rights), _expiry(entry.get("expires")))


def _expiry(expires: Any) -> float:
    if expires is None:
        return math.inf
    try:
        moment = datetime.fromisoformat(expires)
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return moment.timestamp()
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            "expires: expected a time with its zone, as 2027-01-31T12:00:00Z; got something else"
        ) from None


def missing_token() -> CredentialsError:
    """What whoever shows nothing is told."""
    return CredentialsError("missing", "authorization: expected 'Bearer' and a token; got none")


def unknown_token() -> CredentialsError:
    """What whoever shows a token is told that nobody knows."""
    return CredentialsError("unknown", "authorization: expected a token that this server knows; got another one")
