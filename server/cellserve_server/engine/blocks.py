"""A block: single steps of many sessions that came in one message and are carried through the engine in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.engine.admission import overload_error, spare_s, too_late_error
from cellserve_server.keys import Client
from cellserve_server.sessions.seats import BUSY, ENGAGED, EXPIRE, FLAGS, LIFE, RUN_ID, STEP_COUNT, Seats
from cellserve_server.sessions.session import Session


class StepSink(Protocol):
    """Who is told what became of a block's steps. Every position is told of once."""

    def stepped(self, positions: Array, step_counts: Array, outputs: Sequence[Array]) -> None:
        """These steps were applied.

        Args:
            positions: ascending, int64.
            step_counts: of the sessions, after their steps.
            outputs: for each output of the model the rows of these positions, ``[positions * rows, ...]``. They are a
                part of the tick's: what is to be kept has to be copied, or one step would keep them all alive.
        """
        ...

    def fail(self, position: int, error: CellServeError) -> None:
        """This step was not applied."""
        ...


class StepBlock:
    """Steps of sessions that are at one ``Seats``, each session at most once.

    Args:
        seats: where the sessions are.
        index: their seats, int64 ``[steps]``.
        lives: the lives that are meant, int64 ``[steps]``.
        inputs: one ``[steps, rows, ...]`` for each input of the model.
        run_ids: uint64 ``[steps]``; 0: none.
        digests: of the inputs, uint64 ``[steps]``.
        deadlines: on the engine's clock, float64 ``[steps]``; None: none has one.
        positions: what the sink knows the steps by, int64 ``[steps]``, ascending.
        sink: is told what became of them.
        client: who sent them.
        step_bytes: what each counts for in the queue.
    """

    __slots__ = (
        "arrived",
        "client",
        "deadlines",
        "digests",
        "earliest",
        "index",
        "inputs",
        "lives",
        "positions",
        "ready",
        "refusal",
        "refusals",
        "returns",
        "run_ids",
        "seats",
        "sink",
        "step_bytes",
        "taken",
        "traces",
    )

    def __init__(
        self,
        seats: Seats[Session],
        *,
        index: Array,
        lives: Array,
        inputs: Sequence[Array],
        run_ids: Array,
        digests: Array,
        deadlines: Array | None,
        positions: Array,
        sink: StepSink,
        client: Client,
        step_bytes: int,
    ) -> None:
        self.seats = seats
        self.index = index
        self.lives = lives
        self.inputs = inputs
        self.run_ids = run_ids
        self.digests = digests
        self.deadlines = deadlines
        self.earliest = float("inf") if deadlines is None else float(deadlines.min())
        self.positions = positions
        self.sink = sink
        self.client = client
        self.arrived = 0.0  # on time.perf_counter, when it is submitted
        self.ready = 0.0  # on the engine's clock, when it could have begun
        self.step_bytes = step_bytes
        self.returns = seats.returns
        self.taken = 0  # Steps before this one were taken by ticks.
        self.traces: Mapping[int, object] | None = None  # those of single positions, of whoever traces
        self.refusal: CellServeError | None = None  # of all that no tick has taken
        self.refusals: dict[int, CellServeError] = {}  # of single positions

    def __len__(self) -> int:
        return len(self.index)

    def cancel(self, error: CellServeError, positions: Sequence[int] | None = None) -> None:
        """Has these positions fail with this error, unless a tick has them already; None: all."""
        if positions is None:
            self.refusal = self.refusal or error
        else:
            for position in positions:
                self.refusals.setdefault(position, error)

    def occupy(self) -> None:
        """Its sessions are its from now on."""
        self.seats.records[self.index, FLAGS] |= BUSY

    def alive(self, steps: slice | Array) -> Array | None:
        """Which of these steps are of the life that is meant, bool; None: all of them, for no session has ended."""
        if self.seats.returns == self.returns:
            return None
        same: Array = self.seats.column(LIFE, self.index[steps]) == self.lives[steps]
        return same

    def is_in_time(self, now: float, tick_s: float) -> bool:
        """Whether all its steps are wanted and can be done in time by a tick that takes so long."""
        return self.earliest - now > spare_s(now - self.ready, tick_s) and self.refusal is None and not self.refusals

    def errors_of(self, steps: slice | Array, now: float, tick_s: float) -> list[CellServeError | None]:
        """Why each of these steps is not to be done any more, by a tick that takes so long; None: it is."""
        waited_s = now - self.ready
        least_s = spare_s(waited_s, tick_s)
        positions = self.positions[steps].tolist()
        lefts_s = [float("inf")] * len(positions) if self.deadlines is None else (self.deadlines[steps] - now).tolist()
        return [
            self.refusal
            or self.refusals.get(position)
            or (too_late_error() if left_s <= 0 else overload_error(waited_s, left_s) if left_s < least_s else None)
            for position, left_s in zip(positions, lefts_s, strict=True)
        ]

    def take(self, count: int) -> slice:
        """The next so many steps, for a tick."""
        part = slice(self.taken, self.taken + count)
        self.taken += count
        return part


def admissible(
    seats: Seats[Session], index: Array, lives: Array, expected_steps: Array, run_ids: Array, now: float
) -> Array:
    """Which steps can go into a block as they are: their sessions live, are idle, and are at the expected step.

    All others (a repeat too) are to be made runs of their own, which says what is wrong with them, or waits.

    Args:
        index: seats, -1 where there is none; each at most once.
        lives, run_ids: as of ``StepBlock``.
        expected_steps: int64; -1: not checked.
        now: unix seconds.

    Returns:
        bool ``[steps]``.
    """
    # For seat -1 the first one is read; nothing of it is used.
    records = seats.records.take(index, axis=0, mode="clip")
    unfit = (records[:, LIFE] ^ lives) | (records[:, FLAGS] & ENGAGED)
    moved = records[:, STEP_COUNT] ^ expected_steps
    lasting = (index >= 0) & (records.view(np.float64)[:, EXPIRE] > now)
    new_id = run_ids != records.view(np.uint64)[:, RUN_ID]
    good: Array = ((unfit | moved) == 0) & lasting & new_id
    if np.count_nonzero(good) < len(good):  # Hardly ever: a block is nearly always good as a whole.
        good = (unfit == 0) & ((moved == 0) | (expected_steps == -1)) & lasting & (new_id | (run_ids == 0))
    return good
