"""What a server tells about a session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from cellserve.errors import FieldInvalidError
from cellserve.v1 import session_pb2

SESSIONS_PREFIX = "sessions/"
MAX_ID_CHARS = 128
# What sessions can be sorted by besides their ids, as people and as servers call it; and how many at most.
SORTS = {"rate": "steps_per_second", "steps": "step_count", "used": "last_used_time", "created": "create_time"}
MAX_SORTED = 1000


@dataclass(frozen=True)
class SessionInfo:
    """What a server tells about a session.

    Attributes:
        id: its name, without ``sessions/``.
        uid: made by the server, new at creation, at reset and when the state is set.
        model: ``models/{model}/versions/{version}``.
        batch_size: its rows; None: one row, and its arrays have no batch dimension.
        step_count: the steps applied since creation or reset.
        ttl_s: how long it lives without being used, in seconds.
        create_time: when it was made.
        expire_time: when it goes if nobody uses it.
        last_used_time: when it was made, reset, set or stepped last.
        steps_per_second: lately, in a list that is ordered by activity; 0 elsewhere. See ``aio.Server.sessions``.
    """

    id: str
    uid: str
    model: str
    batch_size: int | None
    step_count: int
    ttl_s: float
    create_time: datetime
    expire_time: datetime
    last_used_time: datetime
    steps_per_second: float


def info_from_proto(session: session_pb2.Session) -> SessionInfo:
    """Unpacks a ``Session``."""
    return SessionInfo(
        id=session.name.removeprefix(SESSIONS_PREFIX),
        uid=session.uid,
        model=session.model,
        batch_size=session.batch_size or None,
        step_count=session.step_count,
        ttl_s=session.ttl.ToNanoseconds() / 1e9,
        create_time=session.create_time.ToDatetime(UTC),
        expire_time=session.expire_time.ToDatetime(UTC),
        last_used_time=_last_used_time(session),
        steps_per_second=session.steps_per_second,
    )


def _last_used_time(session: session_pb2.Session) -> datetime:
    if session.HasField("last_used_time"):
        return session.last_used_time.ToDatetime(UTC)
    return session.expire_time.ToDatetime(UTC) - session.ttl.ToTimedelta()  # A server that is older than the field.


def session_name(session_id: str) -> str:
    """``sessions/{id}``.

    Raises:
        FieldInvalidError: no id. Its letters are checked by the server.
    """
    if not isinstance(session_id, str) or not 0 < len(session_id) <= MAX_ID_CHARS:
        raise FieldInvalidError(f"session_id: expected 1 to {MAX_ID_CHARS} characters; got {session_id!r}"[:300])
    return SESSIONS_PREFIX + session_id


def checked_batch_size(batch_size: int | None) -> int | None:
    """The rows of each session, as an int; None stays None: one row without a batch dimension.

    Raises:
        FieldInvalidError: not an integer from 1. How large it may be is the server's to say.
    """
    if batch_size is None:
        return None
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise FieldInvalidError(f"batch_size: expected an integer of at least 1, or None; got {batch_size!r}")
    return int(batch_size)
