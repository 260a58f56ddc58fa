"""Seats: what the engine knows of the sessions of one model and batch size, in columns, beside their states.

A tick of hundreds of sessions looks up and changes all of them by a few operations on arrays. Hence what it needs of a
session lies here, in a row of one matrix (a session is then one or two cache lines, not ten), and not in its object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from cellserve.tensors import Array
from cellserve_server.slab import Slab

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
ENGAGED = BUSY | WAITING

FIRST_SEATS = 64
# A large table grows by a quarter: its memory is moved by the page tables, not copied, so that costs little.
LARGE_BYTES = 64 << 20

Occupant = TypeVar("Occupant")


class Seats(Generic[Occupant]):
    """The seats of one model's sessions of one batch size.

    Args:
        leaf_sizes, dtype: of the state.
        rows: of each session.

    Attributes:
        records: int64 ``[seats, COLUMNS]``. Replaced when the table grows: never to be kept.
        floats, unsigned: the same memory as float64 and as uint64.
        words, reals: the same memory, flat, as int64 and as float64, for a single session: numpy takes twice as long
            for one number.
        occupants: who has each seat.
        slab: the states.
        returns: how many seats were ever given back: as long as it stands, no life has ended.
    """

    def __init__(self, leaf_sizes: Sequence[int], dtype: np.dtype[Any], rows: int) -> None:
        self.rows = rows
        self.returns = 0
        self._leaf_sizes, self._dtype = tuple(leaf_sizes), dtype
        self._clear()

    def _clear(self) -> None:
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
    def nbytes(self) -> int:
        """The bytes of the states, free places too."""
        return self.slab.nbytes

    def take(self, occupant: Occupant) -> int:
        """Gives a seat out; its record is zeros, its state undefined.

        Raises:
            MemoryError: there is no memory for more of them.
        """
        if self._free:
            seat = self._free.pop()
        else:
            if self._unused == self.capacity:
                self._grow()
            seat = self._unused
            self._unused += 1
        self.occupants[seat] = occupant
        return seat

    def give_back(self, seat: int) -> None:
        """Takes a seat back. When nobody has any, the memory of a table that had grown is let go."""
        assert self.occupants[seat] is not None, "a seat given back twice"
        self.returns += 1
        self.occupants[seat] = None
        self.records[seat] = 0
        self._free.append(seat)
        if self.taken == 0:
            self._clear()

    def column(self, number: int, index: Array) -> Array:
        """One column of the records of some seats, int64.

        Seats beyond the table's end, which were given back with it, get any other's: who may hold such asks for LIFE.
        """
        # Not records[:, number].take(index): that would copy the whole column first.
        values: Array = self._flat.take(index * COLUMNS + number, mode="wrap")
        return values

    def places(self, seats: Array, flags: Array) -> Array:
        """Where the states of seats are, as their FLAGS say; the other place of each is ``places ^ 1``."""
        places: Array = seats * 2 + (flags & PLACE)
        return places

    def _grow(self) -> None:
        capacity = self.capacity
        first = max(FIRST_SEATS // self.rows, 1)
        wanted = max(first, capacity + (capacity if self.nbytes < LARGE_BYTES else capacity // 4))
        self.slab.grow(wanted)
        records = np.zeros((wanted, COLUMNS), np.int64)
        records[:capacity] = self.records[:capacity]
        self._records_are(records)
        self.occupants.extend([None] * (wanted - capacity))
