"""A tick of single steps: many sessions side by side, gathered from their seats and scattered to them again.

What a tick takes are parts of blocks, and single runs of one step. Nothing here is done session by session but for runs
and for what went wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cellserve.tensors import Array
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.runs import Run
from cellserve_server.sessions.seats import (
    BUSY,
    EXPIRE,
    FLAGS,
    NEEDED,
    PLACE,
    RUN_DIGEST,
    RUN_FIRST,
    RUN_ID,
    RUN_STEPS,
    STEP_COUNT,
    TTL,
    WAITING,
    Seats,
)
from cellserve_server.sessions.session import Session


class Part(NamedTuple):
    """What a tick takes of a block: these steps of it, ``slice`` or int64 indices."""

    block: StepBlock
    steps: slice | Array

    @property
    def size(self) -> int:
        """How many they are."""
        if isinstance(self.steps, slice):
            return int(self.steps.stop - self.steps.start)
        return len(self.steps)

    def narrowed(self, kept: Array) -> Part:
        """Those of them that a mask ``[count]`` keeps."""
        indices = np.arange(self.steps.start, self.steps.stop) if isinstance(self.steps, slice) else self.steps
        return Part(self.block, indices[kept])


class Gathered(NamedTuple):
    """The steps of one tick, side by side: those of the parts in order, then those of the runs.

    Attributes:
        seats: where the sessions are.
        parts, runs: whose steps these are.
        taken: the sessions' seats, int64 ``[steps]``.
        inputs: one ``[steps * rows, ...]`` for each input of the model.
        leaves: the states before, ``[steps * rows, units]`` each.
    """

    seats: Seats[Session]
    parts: Sequence[Part]
    runs: Sequence[Run]
    taken: Array
    inputs: list[Array]
    leaves: list[Array]


def gather(seats: Seats[Session], parts: Sequence[Part], runs: Sequence[Run]) -> Gathered:
    """Puts the steps of one tick side by side; there is at least one, and all their sessions live."""
    indices = [part.block.index[part.steps] for part in parts]
    if runs:
        indices.append(np.array([run.session.seat for run in runs if run.session is not None], dtype=np.int64))
    index = _joined(indices)
    inputs = []
    for number in range(len(parts[0].block.inputs if parts else runs[0].inputs)):
        pieces = [part.block.inputs[number][part.steps] for part in parts]
        pieces += [run.inputs[number].reshape(1, seats.rows, *run.inputs[number].shape[2:]) for run in runs]
        joined = _joined(pieces)
        inputs.append(joined.reshape(len(index) * seats.rows, *joined.shape[2:]))
    flags = seats.column(FLAGS, index)
    return Gathered(seats, parts, runs, index, inputs, seats.slab.read(seats.places(index, flags)))


class Committed(NamedTuple):
    """What a commit has done.

    Attributes:
        step_counts: of the sessions, after their steps, int64 ``[steps]``.
        waiting: the sessions in whose lines something waits.
    """

    step_counts: Array
    waiting: list[Session]


def commit(batch: Gathered, leaves: Sequence[Array], now: float) -> Committed:
    """Makes the states after a tick those of its sessions, all at once; the ones before it stay for repeats.

    Args:
        leaves: ``[steps * rows, units]`` each.
        now: unix seconds; the sessions' expiry is put off.
    """
    seats, index = batch.seats, batch.taken
    records = next_records(batch, now)
    seats.slab.write(seats.places(index, records[:, FLAGS]), leaves)
    waiting = records[:, FLAGS] & WAITING
    seats.records[index] = records
    occupants = (seats.occupants[seat] for seat in index[waiting != 0]) if np.count_nonzero(waiting) else ()
    return Committed(records[:, STEP_COUNT].copy(), [session for session in occupants if session is not None])


def next_records(batch: Gathered, now: float) -> Array:
    """The records that the sessions of a tick have once it is committed, int64 ``[steps, COLUMNS]``."""
    seats, index = batch.seats, batch.taken
    run_ids = [part.block.run_ids[part.steps] for part in batch.parts]
    digests = [part.block.digests[part.steps] for part in batch.parts]
    if batch.runs:
        run_ids.append(np.array([run.run_id for run in batch.runs], dtype=np.uint64))
        digests.append(np.array([run.input_digest for run in batch.runs], dtype=np.uint64))
    records = seats.records.take(index, axis=0)
    floats, unsigned = records.view(np.float64), records.view(np.uint64)
    records[:, RUN_FIRST] = records[:, STEP_COUNT]
    records[:, RUN_STEPS] = 1
    records[:, STEP_COUNT] += 1
    records[:, FLAGS] = (records[:, FLAGS] ^ PLACE) & ~(BUSY | NEEDED) | seats.moved
    unsigned[:, RUN_ID] = _joined(run_ids)
    unsigned[:, RUN_DIGEST] = _joined(digests)
    floats[:, EXPIRE] = floats[:, TTL] + now
    return records


def _joined(pieces: Sequence[Array]) -> Array:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
