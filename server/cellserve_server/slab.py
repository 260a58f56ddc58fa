"""The states of one model's sessions and runs: one array per state part, rows given out and taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellserve.tensors import Array

INITIAL_ROWS = 64


class Slab:
    """Arrays ``[capacity, units]``, one for each leaf of the state, that grow by doubling.

    A row's contents are undefined when it is taken: the taker writes before it reads. So nobody sees what the row's
    last owner left.

    Args:
        leaf_sizes: the width of each leaf.
        dtype: the element type of all leaves.
    """

    def __init__(self, leaf_sizes: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._sizes = tuple(leaf_sizes)
        self._dtype = dtype
        self._clear()

    @property
    def capacity(self) -> int:
        """Rows that there is room for."""
        return self._capacity

    @property
    def rows_in_use(self) -> int:
        """Rows that are given out."""
        return self._capacity - len(self._free)

    @property
    def nbytes(self) -> int:
        """The bytes of the arrays, free rows too."""
        return sum(array.nbytes for array in self._arrays)

    def take(self, count: int) -> tuple[int, ...]:
        """Gives out rows; their contents are undefined."""
        while len(self._free) < count:
            self._grow()
        rows = tuple(self._free[len(self._free) - count :])
        del self._free[len(self._free) - count :]
        return rows

    def give_back(self, rows: tuple[int, ...]) -> None:
        """Takes rows back. When nobody holds any, the memory of a slab that had grown is let go."""
        self._free.extend(rows)
        assert len(self._free) <= self._capacity, "rows given back twice"
        if len(self._free) == self._capacity > INITIAL_ROWS:
            self._clear()

    def read(self, rows: Sequence[int]) -> list[Array]:
        """A copy of these rows of every leaf, ``[len(rows), units]`` each."""
        index = np.array(rows, dtype=np.intp)
        return [array.take(index, axis=0) for array in self._arrays]

    def write(self, rows: Sequence[int], leaves: Sequence[Array]) -> None:
        """Overwrites these rows of every leaf with ``[len(rows), units]``."""
        index = np.array(rows, dtype=np.intp)
        for array, leaf in zip(self._arrays, leaves, strict=True):
            array[index] = leaf

    def zero(self, rows: Sequence[int]) -> None:
        """Sets these rows of every leaf to 0."""
        index = np.array(rows, dtype=np.intp)
        for array in self._arrays:
            array[index] = 0

    def copy(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copies rows onto other rows."""
        self.write(target, self.read(source))

    def _clear(self) -> None:
        self._capacity = INITIAL_ROWS
        self._arrays = [np.zeros((INITIAL_ROWS, size), self._dtype) for size in self._sizes]
        self._free = list(range(INITIAL_ROWS - 1, -1, -1))

    def _grow(self) -> None:
        grown = [np.zeros((2 * self._capacity, size), self._dtype) for size in self._sizes]
        for old, new in zip(self._arrays, grown, strict=True):
            new[: self._capacity] = old
        self._arrays = grown
        self._free[:0] = range(2 * self._capacity - 1, self._capacity - 1, -1)
        self._capacity *= 2
