"""The states of one model's sessions of one batch size: an array for each leaf, with two places for every session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellserve.tensors import Array


class Slab:
    """Arrays ``[2 * seats, rows, units]``, one for each leaf of the state.

    Seat s has the places 2s and 2s + 1: the state, and the one from before the last run, change roles at each commit,
    so that nothing is copied and nothing has to be undone. What a place holds is undefined until it is written; who
    takes a seat writes before reading, so nobody sees what the last owner left.

    Args:
        leaf_sizes: the width of each leaf.
        dtype: the element type of all leaves.
        rows: of each place.
        seats: how many there are at first.
    """

    def __init__(self, leaf_sizes: Sequence[int], dtype: np.dtype[Any], rows: int, seats: int) -> None:
        self._rows = rows
        self._sizes = tuple(leaf_sizes)
        self._arrays = [np.zeros((2 * seats, rows, size), dtype) for size in self._sizes]

    @property
    def nbytes(self) -> int:
        """The bytes of the arrays, whoever uses them."""
        return sum(array.nbytes for array in self._arrays)

    def grow(self, seats: int) -> None:
        """Makes room for so many seats in all. What is there stays."""
        for array in self._arrays:
            # Large arrays are moved by the system's page tables, not copied. Nobody else holds them: reading copies.
            array.resize((2 * seats, *array.shape[1:]), refcheck=False)

    def read(self, places: Array) -> list[Array]:
        """A copy of these places of every leaf, ``[len(places) * rows, units]`` each."""
        count = len(places) * self._rows
        return [
            array.take(places, axis=0).reshape(count, size)
            for array, size in zip(self._arrays, self._sizes, strict=True)
        ]

    def write(self, places: Array, leaves: Sequence[Array]) -> None:
        """Overwrites these places of every leaf with ``[len(places) * rows, units]``."""
        for array, leaf, size in zip(self._arrays, leaves, self._sizes, strict=True):
            array[places] = leaf.reshape(len(places), self._rows, size)

    def read_one(self, place: int) -> list[Array]:
        """A copy of one place of every leaf, ``[rows, units]`` each."""
        return [array[place].copy() for array in self._arrays]

    def write_one(self, place: int, leaves: Sequence[Array]) -> None:
        """Overwrites one place of every leaf with ``[rows, units]``."""
        for array, leaf in zip(self._arrays, leaves, strict=True):
            array[place] = leaf

    def zero(self, place: int) -> None:
        """Sets one place of every leaf to 0."""
        for array in self._arrays:
            array[place] = 0
