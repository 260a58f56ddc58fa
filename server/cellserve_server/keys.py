"""What a session is known by."""

from __future__ import annotations

from typing import NamedTuple


class SessionKey(NamedTuple):
    """Whose session, and its id."""

    tenant: str
    id: str
