"""The numbers and names that the client makes up. They come from the system's random source, so that processes that
were forked from one another never make the same ones."""

from __future__ import annotations

import secrets
import uuid

RUN_ID_BITS = 64


def new_run_id() -> int:
    """A number for one run, kept by its retries: 1 to 2**64 - 1, since 0 means "none" on the wire."""
    return secrets.randbits(RUN_ID_BITS) or 1


def new_session_id() -> str:
    """An id for a session: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def new_request_id() -> str:
    """An id for one mutating request, kept by its retries: 32 hexadecimal digits."""
    return uuid.uuid4().hex
