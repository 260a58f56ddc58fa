"""What a session is known by, and a client."""

from __future__ import annotations

from typing import NamedTuple

from cellserve_server.security import DEFAULT_TENANT


class SessionKey(NamedTuple):
    """Whose session, and its id."""

    tenant: str
    id: str


class Client(NamedTuple):
    """Who sends requests: whose, and by which connection. Tenants share the engine fairly, and the clients of each."""

    tenant: str
    connection: str


NOBODY = Client(DEFAULT_TENANT, "")
