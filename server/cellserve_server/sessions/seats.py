"""Seats: what the engine knows of the sessions of one model and batch size, in columns, beside their states.

A tick of hundreds of sessions looks up and changes all of them by a few operations on arrays. Hence what it needs of a
session lies here, in a row of one matrix (a session is then one or two cache lines, not ten), and not in its object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from cellserve.errors import QuotaExceededError
from cellserve.tensors import Array
from cellserve_server.sessions.slab import Slab

# The columns of a record; each is 8 bytes wide, int64 but where said.
LIFE = 0  # the number of the session's life; 0: nobody has the seat
STEP_COUNT = 1
FLAGS = 2
RUN_ID = 3  # of the last run; uint64; 0: none
RUN_FIRST = 4  # the first step of the last run
RUN_STEPS = 5
RUN_DIGEST = 6  # of the last run's inputs; uint64
TTL = 7  # seconds; float64
EXPIRE = 8  # unix seconds; float64
CREATE = 9  # unix seconds; float64
COLUMNS = 10

# The bits of FLAGS.
PLACE = 1  # which of the seat's two places has the state
BUSY = 2  # a run is under way
WAITING = 4  # something waits for its turn
DIRTY = 8  # the state is newer than what the store has
NEEDED = 16  # it has come back from the store to be stepped, or is to be stepped with those that do, and was not yet
WRITING = 32  # the state is on its way to the store, which has an older one as far as is known
ENGAGED = BUSY | WAITING

FIRST_SEATS = 64
QUOTA_RETRY_S = 1.0
# A table doubles until it has as much, and then grows by so much: what is added is filled with zeros meanwhile.
GROWTH_BYTES = 32 << 20

Occupant = TypeVar("Occupant")


class StateBudget:
    """How much memory the states of all tables may take, those of free seats too.

    Args:
        limit_bytes: None: no limit.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.used_bytes = 0
        self._limit_bytes = limit_bytes

    def fitting(self, pieces: int, piece_bytes: int) -> int:
        """How many of so many pieces there is room for; at least 1, which ``take`` may refuse."""
        if self._limit_bytes is None:
            return pieces
        return max(min(pieces, (self._limit_bytes - self.used_bytes) // piece_bytes), 1)

    def take(self, size_bytes: int) -> None:
        """Counts what a table is about to set aside.

        Raises:
            QuotaExceededError: that would be too much; nothing was counted.
        """
        wanted = self.used_bytes + size_bytes
        if self._limit_bytes is not None and wanted > self._limit_bytes:
            raise QuotaExceededError(
                f"max_state_bytes: the memory set aside for states would become {wanted} bytes; expected at most "
                f"{self._limit_bytes}, twice the limit. Sessions of many batch sizes, or few that are left of many, "
                "keep more than they use",
                metadata={"quota": "max_state_bytes", "limit": str(self._limit_bytes)},
                retry_after_s=QUOTA_RETRY_S,
            )
        self.used_bytes = wanted


class Seats(Generic[Occupant]):
    """The seats of one model's sessions of one batch size.

    Args:
        leaf_sizes, dtype: of the state.
        rows: of each session.
        budget: what memory is taken from.

    Attributes:
        records: int64 ``[seats, COLUMNS]``. Replaced when the table grows: never to be kept.
        floats, unsigned: the same memory as float64 and as uint64.
        words, reals: the same memory, flat, as int64 and as float64, for a single session: numpy takes twice as long
            for one number.
        occupants: who has each seat.
        slab: the states.
        returns: how many seats were ever given back: as long as it stands, no life has ended.
        moved: what a step adds to FLAGS: DIRTY where states are written to a store later, 0 elsewhere.
    """

    def __init__(
        self, leaf_sizes: Sequence[int], dtype: np.dtype[Any], rows: int, budget: StateBudget | None = None
    ) -> None:
        self.rows = rows
        self.returns = 0
        self.moved = 0
        self._leaf_sizes, self._dtype = tuple(leaf_sizes), dtype
        self._seat_bytes = max(2 * rows * sum(self._leaf_sizes) * dtype.itemsize, 1)
        self._budget = budget or StateBudget()
        self._set_empty()

    def _set_empty(self) -> None:
        # Empty tables take next to nothing: there is one for each batch size that anybody has ever asked for.
        self.slab = Slab(self._leaf_sizes, self._dtype, self.rows, 0)
        self.occupants: list[Occupant | None] = []
        self._records_are(np.zeros((1, COLUMNS), np.int64))
        self._free: list[int] = []
        self._unused = 0  # Seats from here on were never taken: a list of them would take more than the records.

    def _records_are(self, records: Array) -> None:
        self.records: Array = records
        self.floats: Array = records.view(np.float64)
        self.unsigned: Array = records.view(np.uint64)
        self._flat: Array = records.reshape(-1)
        cells = memoryview(records.data).cast("B")
        self.words: memoryview[int] = cells.cast("q")
        self.reals: memoryview[float] = cells.cast("d")

    @property
    def capacity(self) -> int:
        """Seats that there is room for."""
        return len(self.occupants)

    @property
    def taken(self) -> int:
        """Seats that are taken."""
        return self._unused - len(self._free)

    @property
    def used(self) -> int:
        """Seats that were ever taken since the table was empty; those from here on have no records."""
        return self._unused

    @property
    def nbytes(self) -> int:
        """The bytes of the states, free places too."""
        return self.slab.nbytes

    def take(self, occupant: Occupant) -> int:
        """Gives a seat out; its record is zeros, its state undefined.

        Raises:
            MemoryError: there is no memory for more of them.
            QuotaExceededError: there is to be no memory for more of them.
        """
        if self._free:
            seat = self._free.pop()
            self.occupants[seat] = occupant
            return seat
        seat = self._unused
        if seat == self.capacity:
            self._grow()
        self.occupants[seat] = occupant
        self._unused += 1
        return seat

    def give_back(self, seat: int) -> None:
        """Takes a seat back. When nobody has any, the memory of a table that had grown is let go."""
        assert self.occupants[seat] is not None, "a seat given back twice"
        self.returns += 1
        self.occupants[seat] = None
        self.records[seat] = 0
        self._free.append(seat)
        if self.taken == 0:
            self._budget.used_bytes -= self.nbytes
            self._set_empty()

    def idle(self, spared: int) -> tuple[Array, Array]:
        """The seats of sessions that do nothing and are as the store has them, and when each was used, unix seconds.

        Args:
            spared: NEEDED, to leave out those that are about to be stepped; 0: not to.
        """
        records = self.records[: self._unused]
        unready = ENGAGED | DIRTY | WRITING | spared
        seats = np.flatnonzero((records[:, LIFE] != 0) & (records[:, FLAGS] & unready == 0))
        floats = self.floats[seats]
        return seats, floats[:, EXPIRE] - floats[:, TTL]

    def dirty(self) -> Array:
        """The seats whose states are newer than what the store has."""
        records = self.records[: self._unused]
        return np.flatnonzero(records[:, FLAGS] & DIRTY)

    def column(self, number: int, index: Array) -> Array:
        """One column of the records of some seats, int64.

        Seats beyond the table's end, which were given back with it, get any other's: who may hold such asks for LIFE.
        """
        # Not records[:, number].take(index): that would copy the whole column first.
        values: Array = self._flat.take(index * COLUMNS + number, mode="clip")
        return values

    def places(self, seats: Array, flags: Array) -> Array:
        """Where the states of seats are, as their FLAGS say; the other place of each is ``places ^ 1``."""
        places: Array = seats * 2 + (flags & PLACE)
        return places

    def _grow(self) -> None:
        capacity = self.capacity
        doubled = max(capacity, FIRST_SEATS // self.rows)
        wanted = max(min(doubled, GROWTH_BYTES // self._seat_bytes), 1)
        more = self._budget.fitting(wanted, self._seat_bytes)
        added_bytes = more * self._seat_bytes
        self._budget.take(added_bytes)
        try:
            self.slab.grow(capacity + more)
            self._grow_records(capacity + more)
        except BaseException:
            self._budget.used_bytes -= added_bytes
            raise
        self.occupants.extend([None] * more)

    def _grow_records(self, seats: int) -> None:
        """Makes room for the records of so many seats. By doubling: they are copied, and cost nothing unused."""
        if seats <= len(self.records):
            return
        records = np.zeros((max(seats, 2 * len(self.records)), COLUMNS), np.int64)
        records[: len(self.records)] = self.records
        self._records_are(records)
