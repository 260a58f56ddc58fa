"""Checksums of a step's inputs, for many steps at once: a run_id that comes back with other inputs is found out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cellserve.specs import ArraySpec
from cellserve.tensors import Array

WORD_BYTES = 8


class InputDigests:
    """Multilinear hashes modulo 2**64 with fixed odd weights (Carter and Wegman's family; no secret is kept here).

    An odd weight can be undone modulo 2**64, so inputs that differ in one word have different digests for sure, others
    with all but certainty.

    Args:
        specs: what one step of one row takes.
    """

    def __init__(self, specs: Sequence[ArraySpec]) -> None:
        self._row_bytes = [math.prod(spec.shape) * spec.dtype.itemsize for spec in specs]
        words = -(-sum(self._row_bytes) // WORD_BYTES)
        self._are_words = len(specs) == 1 and self._row_bytes[0] % WORD_BYTES == 0 and specs[0].shape != ()
        self._weights = _odd_numbers(words, 0)

    def of_steps(self, inputs: Sequence[Array], rows: int) -> Array:
        """The digest of each of some steps.

        Args:
            inputs: one array for each input, ``[steps, rows, ...]`` in memory, whatever the shape says.
            rows: rows of a step.

        Returns:
            uint64 ``[steps]``.
        """
        first = inputs[0]
        if self._are_words and rows == 1 and first.flags.c_contiguous:
            words: Array = first.reshape(-1).view(np.uint64).reshape(-1, len(self._weights))
            digests: Array = np.add.reduce(words * self._weights, axis=1)
            return digests
        joined = self._joined(inputs)
        # Not the method sum, which goes a longer way to the same.
        digests = np.add.reduce(joined.view(np.uint64) * self._weights, axis=1)
        if rows > 1:
            weights = _odd_numbers(rows, len(self._weights))
            digests = np.add.reduce(digests.reshape(-1, rows) * weights, axis=1)
        return digests

    def _joined(self, inputs: Sequence[Array]) -> Array:
        """The bytes of each row, C-contiguous, a multiple of a word."""
        columns = [
            np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, row_bytes)
            for array, row_bytes in zip(inputs, self._row_bytes, strict=True)
        ]
        joined = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
        short = -joined.shape[1] % WORD_BYTES
        return np.pad(joined, ((0, 0), (0, short))) if short else joined


def _odd_numbers(count: int, start: int) -> Array:
    """Well mixed odd numbers, uint64: the splitmix64 sequence (Steele, Lea and Flood, 2014) from ``start``."""
    mixed = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) | np.uint64(1)
