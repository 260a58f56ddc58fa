"""Memory for the temporaries of a cell, kept from step to step.

Fresh arrays of some hundred kilobytes cost more than the arithmetic on them wherever the allocator gives pages back
and fetches them again. So only results are made anew.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

from cellserve.tensors import Array

MAX_ROWS = 256
"""The most rows that cells compute at once: it bounds what a workspace keeps, whatever batches come. A product of more
rows is no faster, and temporaries of more rows leave the processor's cache."""

Views = TypeVar("Views")


class Memory:
    """The arrays behind one workspace in one thread: as large as the largest that were asked for."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._buffers: list[Array] = []
        self._used = 0

    def begin(self) -> None:
        """Gives all arrays free, to be handed out again in the same order."""
        self._used = 0

    def array(self, *shape: int) -> Array:
        """A C-contiguous array. What it holds is undefined: whoever takes it writes before it reads."""
        size = math.prod(shape)
        if self._used == len(self._buffers):
            self._buffers.append(np.empty(0, self._dtype))
        if self._buffers[self._used].size < size:
            self._buffers[self._used] = np.empty(size, self._dtype)
        buffer = self._buffers[self._used]
        self._used += 1
        return buffer[:size].reshape(shape)


class Workspace(threading.local, Generic[Views]):
    """A cell's temporaries, for each thread its own.

    Args:
        dtype: of all arrays.
        lay_out: makes the views for a number of rows, taking its arrays from the memory, the same ones in the same
            order each time. They are kept until another number of rows is asked for.
    """

    def __init__(self, dtype: np.dtype[Any], lay_out: Callable[[Memory, int], Views]) -> None:
        self._lay_out = lay_out
        self._memory = Memory(dtype)
        self._rows = 0
        self._views = lay_out(self._memory, 0)

    def for_rows(self, rows: int) -> Views:
        """The views for 0 to ``MAX_ROWS`` rows; they are the thread's until it asks again."""
        if rows != self._rows:
            assert rows <= MAX_ROWS, rows
            self._memory.begin()
            self._views = self._lay_out(self._memory, rows)
            self._rows = rows
        return self._views
