"""Sessions as bytes: what the stores keep. ``cellserve/v1/record.proto`` has the formats.

A record begins with what it is and the number of its format, and a checksum, so that damage is found out and later
releases read what earlier ones have written.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from cellserve.errors import RecordCorruptError
from cellserve.tensors import Array
from cellserve.v1 import record_pb2
from cellserve_server.sessions.seats import EXPIRE, RUN_DIGEST, RUN_FIRST, RUN_ID, RUN_STEPS, STEP_COUNT

META = b"CSm\x01"
STATE = b"CSs\x01"
_HEAD = Struct("<4sI")
# step_count, run_id, run_first, run_steps, run_digest, expire_time, and 8 bytes of zeros.
_NUMBERS = Struct("<qQqqQdq")
_COLUMNS = (STEP_COUNT, RUN_ID, RUN_FIRST, RUN_STEPS, RUN_DIGEST, EXPIRE)


class StateNumbers(NamedTuple):
    """What is known of a state and of the run that led to it, as of the columns of ``seats``; 64-bit ones unsigned."""

    step_count: int
    run_id: int
    run_first: int
    run_steps: int
    run_digest: int
    expire_time: float


class StoredState(NamedTuple):
    """A state; its leaves are ``[rows, units]`` each, and cannot be written to."""

    numbers: StateNumbers
    leaves: list[Array]


def encode_meta(meta: record_pb2.SessionRecord) -> bytes:
    """What a session is, as bytes."""
    body = meta.SerializeToString()
    return _HEAD.pack(META, zlib.crc32(body)) + body


def decode_meta(data: bytes) -> record_pb2.SessionRecord:
    """What a session is.

    Raises:
        RecordCorruptError: the bytes are not what was written, or of a later release's format.
    """
    try:
        return record_pb2.SessionRecord.FromString(_body(META, data, "record"))
    except DecodeError as error:
        raise RecordCorruptError("the session's record is no message") from error


def encode_states(records: Array, leaves: Sequence[Array], rows: int) -> list[bytes]:
    """The states of some sessions as bytes.

    Args:
        records: their records at their seats, int64 ``[sessions, COLUMNS]``.
        leaves: ``[sessions * rows, units]`` each.
    """
    count = len(records)
    numbers = np.zeros((count, _NUMBERS.size // 8), np.int64)
    numbers[:, : len(_COLUMNS)] = records[:, _COLUMNS]
    parts = [numbers.view(np.uint8)]
    parts += [np.ascontiguousarray(leaf).reshape(count, -1).view(np.uint8) for leaf in leaves]
    body = np.concatenate(parts, axis=1)
    width, joined = body.shape[1], body.tobytes()
    bodies = [joined[start : start + width] for start in range(0, count * width, width)]
    return [_HEAD.pack(STATE, zlib.crc32(piece)) + piece for piece in bodies]


def decode_state(data: bytes, leaf_sizes: Sequence[int], dtype: np.dtype[Any], rows: int) -> StoredState:
    """A state.

    Raises:
        RecordCorruptError: the bytes are not what was written, or of a later release's format.
    """
    body = _body(STATE, data, "state")
    expected = _NUMBERS.size + rows * sum(leaf_sizes) * dtype.itemsize
    if len(body) != expected:
        raise RecordCorruptError(f"the session's state has {len(body)} bytes; expected {expected}")
    leaves, start = [], _NUMBERS.size
    for size in leaf_sizes:
        leaf = np.frombuffer(body, dtype, rows * size, start).reshape(rows, size)
        leaves.append(leaf)
        start += leaf.nbytes
    return StoredState(_numbers(body), leaves)


def numbers_of(data: bytes) -> StateNumbers:
    """What is known of a state.

    Raises:
        RecordCorruptError: as of ``decode_state``.
    """
    return _numbers(_body(STATE, data, "state"))


def newest_numbers(states: Sequence[bytes]) -> StateNumbers:
    """What is known of a record's state: of its two states the one with the higher step count.

    Raises:
        RecordCorruptError: as of ``decode_state``; or there is none.
    """
    there = [numbers_of(state) for state in states if state]
    if not there:
        raise RecordCorruptError("the session's record has no state")
    return max(there)


def _numbers(body: bytes) -> StateNumbers:
    if len(body) < _NUMBERS.size:
        raise RecordCorruptError("the session's state was cut short")
    *numbers, _ = _NUMBERS.unpack_from(body)
    return StateNumbers(*numbers)


def _body(kind: bytes, data: bytes, what: str) -> bytes:
    if len(data) < _HEAD.size:
        raise RecordCorruptError(f"the session's {what} is missing, or was cut short")
    head, checksum = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if head[:3] != kind[:3]:
        raise RecordCorruptError(f"the session's {what} is no {what}")
    # Of the formats there were, this release reads all: there is one so far.
    if head != kind:
        raise RecordCorruptError(f"the session's {what} has format {head[3]}; this release reads up to {kind[3]}")
    if zlib.crc32(body) != checksum:
        raise RecordCorruptError(f"the session's {what} fails its checksum")
    return body
