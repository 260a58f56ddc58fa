"""Who calls: the tenant on whose behalf an RPC is made, and what it may do beside having sessions of its own."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, TypeGuard

from cellserve.errors import PermissionDeniedError

DEFAULT_TENANT = "default"
# May load and unload models, and read the metrics.
ADMIN = "admin"
# May read the metrics, and look at the inspector.
METRICS = "metrics"
RIGHTS = (ADMIN, METRICS)

MAX_TENANT_CHARS = 128
# Stores have it in their keys, logs in their lines.
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
TENANT_FORM = f"1 to {MAX_TENANT_CHARS} of the characters A-Z a-z 0-9 . _ : / @ -, the first a letter or a digit"


@dataclass(frozen=True)
class Identity:
    """Who has shown what it takes.

    Attributes:
        tenant: whose sessions it sees; no others are there for it.
        rights: of ``RIGHTS``.
        expire_time: until when it is good, in unix seconds.
    """

    tenant: str
    rights: frozenset[str] = frozenset()
    expire_time: float = math.inf


# Where nobody is asked who he is, everybody is one tenant and may do everything.
ANYBODY = Identity(DEFAULT_TENANT, frozenset(RIGHTS))


class IdentifiedContext:
    """An RPC's context that knows who calls; all else is the context's own.

    Args:
        context: the RPC's ``grpc.aio.ServicerContext``.
        identity: who calls.
    """

    __slots__ = ("_context", "identity")

    def __init__(self, context: Any, identity: Identity) -> None:
        self._context = context
        self.identity = identity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def identity_of(context: object) -> Identity:
    """Who makes an RPC.

    Args:
        context: as the interceptor hands it to the servicers.
    """
    assert isinstance(context, IdentifiedContext), "an RPC that nobody was asked about"
    return context.identity


def tenant_of(context: object) -> str:
    """The tenant on whose behalf an RPC is made.

    Args:
        context: as of ``identity_of``.
    """
    return identity_of(context).tenant


def require_right(context: object, right: str) -> None:
    """Refuses an RPC to those who may not make it.

    Args:
        context: as of ``identity_of``.
        right: of ``RIGHTS``.

    Raises:
        PermissionDeniedError: naming the right.
    """
    require_one_of(identity_of(context), right)


def require_one_of(identity: Identity, *rights: str) -> None:
    """Refuses those who have none of some rights.

    Raises:
        PermissionDeniedError: naming them.
    """
    if identity.rights.isdisjoint(rights):
        had = ", ".join(sorted(identity.rights)) or "none"
        wanted = " or ".join(repr(right) for right in rights)
        raise PermissionDeniedError(f"expected the right {wanted}; tenant {identity.tenant!r} shows {had}")


def is_tenant(name: object) -> TypeGuard[str]:
    """Whether something can be a tenant's name: ``TENANT_FORM`` says which can."""
    return isinstance(name, str) and len(name) <= MAX_TENANT_CHARS and _TENANT.fullmatch(name) is not None
