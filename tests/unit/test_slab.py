"""The slab: rows given out and taken back."""

from __future__ import annotations

import numpy as np
import pytest

from cellserve_server.slab import INITIAL_ROWS, Slab

FLOAT32 = np.dtype(np.float32)


def test_rows_are_distinct_and_come_back() -> None:
    slab = Slab((3, 2), FLOAT32)
    first, second = slab.take(10), slab.take(5)
    assert len(set(first) | set(second)) == 15
    slab.give_back(first)
    assert slab.rows_in_use == 5
    slab.give_back(second)
    assert slab.rows_in_use == 0


def test_growing_keeps_what_was_written() -> None:
    slab = Slab((3, 2), FLOAT32)
    rows = slab.take(2)
    leaves = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([[7, 8], [9, np.nan]], np.float32)]
    slab.write(rows, leaves)
    more = slab.take(5 * INITIAL_ROWS)
    assert slab.capacity == 8 * INITIAL_ROWS
    assert not set(rows) & set(more)
    for got, want in zip(slab.read(rows), leaves, strict=True):
        np.testing.assert_array_equal(got, want)


def test_memory_is_let_go_when_nobody_holds_a_row() -> None:
    slab = Slab((4,), FLOAT32)
    small = slab.nbytes
    slab.give_back(slab.take(100 * INITIAL_ROWS))
    assert slab.nbytes == small
    assert slab.capacity == INITIAL_ROWS


def test_reading_gives_copies() -> None:
    slab = Slab((2,), FLOAT32)
    rows = slab.take(1)
    slab.zero(rows)
    slab.read(rows)[0][:] = 5
    np.testing.assert_array_equal(slab.read(rows)[0], [[0, 0]])


def test_rows_given_back_twice_are_found_out() -> None:
    slab = Slab((2,), FLOAT32)
    rows = slab.take(1)
    slab.give_back(rows)
    with pytest.raises(AssertionError, match="twice"):
        slab.give_back(rows)


def test_copy() -> None:
    slab = Slab((2,), FLOAT32)
    source, target = slab.take(2), slab.take(2)
    slab.write(source, [np.array([[1, 2], [3, 4]], np.float32)])
    slab.copy(source, target)
    np.testing.assert_array_equal(slab.read(target)[0], [[1, 2], [3, 4]])
