"""Who calls. Until callers have an identity, everybody is one tenant."""

from __future__ import annotations

DEFAULT_TENANT = "default"


def tenant_of(context: object) -> str:
    """The tenant on whose behalf an RPC is made.

    Args:
        context: the RPC's ``grpc.aio.ServicerContext``; identity will be read from it.
    """
    return DEFAULT_TENANT
