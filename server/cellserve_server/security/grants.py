"""What whoever calls has shown, and whether it is still good; and why it was not enough."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cellserve.errors import UnauthenticatedError
from cellserve_server.security.identity import ANYBODY, Identity

Clock: TypeAlias = Callable[[], float]
# Why credentials are refused, in the words of the metric.
REFUSALS = ("missing", "malformed", "unknown", "expired", "invalid", "certificate", "revoked", "peer")


class CredentialsError(UnauthenticatedError):
    """Credentials that are not enough. The message says why, and never what they were.

    Args:
        why: of ``REFUSALS``.
        message: for the caller.
    """

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True)
class Grant:
    """What shown credentials are good for.

    Attributes:
        identity: who has shown them.
        stands: asked later: whether they would be taken again, their expiry apart.
    """

    identity: Identity
    stands: Callable[[], bool]

    def require_good(self, now: float) -> None:
        """Refuses what was good once.

        Raises:
            CredentialsError: it has expired, or is taken back.
        """
        if now >= self.identity.expire_time:
            raise CredentialsError("expired", "authorization: the credentials have expired")
        if not self.stands():
            raise CredentialsError("revoked", "authorization: the credentials are no longer good")


FOR_ANYBODY = Grant(ANYBODY, lambda: True)


class GrantCache:
    """Grants whose making takes long, by what was shown. The least recently used ones are forgotten. For any thread.

    Args:
        max_grants: how many are kept.
    """

    def __init__(self, max_grants: int) -> None:
        self._max_grants = max_grants
        self._grants: OrderedDict[bytes, Grant] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._grants)

    def get(self, digest: bytes) -> Grant | None:
        """The grant of what has this digest."""
        with self._lock:
            grant = self._grants.get(digest)
            if grant is not None:
                self._grants.move_to_end(digest)
            return grant

    def put(self, digest: bytes, grant: Grant) -> None:
        """Keeps a grant."""
        with self._lock:
            self._grants[digest] = grant
            self._grants.move_to_end(digest)
            if len(self._grants) > self._max_grants:
                self._grants.popitem(last=False)

    def drop(self, digest: bytes) -> None:
        """Forgets a grant."""
        with self._lock:
            self._grants.pop(digest, None)
