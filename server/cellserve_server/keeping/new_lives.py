"""What the store gets of a session that begins a life, by being made, reset or set, and of one that has ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.tensors import Array
from cellserve.v1 import record_pb2
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.records import encode_meta, encode_states
from cellserve_server.sessions.seats import COLUMNS, EXPIRE, STEP_COUNT
from cellserve_server.sessions.session import NO_ORIGIN, Origin


def meta_of(
    model: LoadedModel, batch_size: int, uid: str, ttl_s: float, create_time: float, origin: Origin
) -> record_pb2.SessionRecord:
    """What a life is, apart from its state; ``origin`` is the request that begins it."""
    return record_pb2.SessionRecord(
        uid=uid,
        model=model.resource_name,
        model_digest=model.digest,
        model_defined=model.tenant is not None,
        batch_size=batch_size,
        leaf_sizes=model.leaf_sizes,
        dtype=np.dtype(model.description.dtype).name,
        ttl=ttl_s,
        create_time=create_time,
        request_id=origin.request_id,
        request_fingerprint=origin.fingerprint,
    )


def first_state(
    model: LoadedModel, rows: int, step_count: int, expire_time: float, leaves: Sequence[Array] | None
) -> bytes:
    """A state with which a life begins; None: zeros."""
    record = np.zeros((1, COLUMNS), np.int64)
    record[0, STEP_COUNT] = step_count
    record.view(np.float64)[0, EXPIRE] = expire_time
    if leaves is None:
        leaves = [np.zeros((rows, size), model.description.dtype) for size in model.leaf_sizes]
    (state,) = encode_states(record, leaves, rows)
    return state


def tombstone_of(uid: str, ended: str, origin: Origin = NO_ORIGIN) -> bytes:
    """What takes the place of a life that has ended: why, and by which request."""
    return encode_meta(
        record_pb2.SessionRecord(
            uid=uid, ended=ended, request_id=origin.request_id, request_fingerprint=origin.fingerprint
        )
    )
