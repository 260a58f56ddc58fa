"""Seats: records and states given out and taken back, and what they hold meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

from cellserve.errors import QuotaExceededError
from cellserve_server.sessions.seats import (
    COLUMNS,
    FIRST_SEATS,
    FLAGS,
    LIFE,
    PLACE,
    STEP_COUNT,
    TTL,
    Seats,
    StateBudget,
)

FLOAT32 = np.dtype(np.float32)


def make(rows: int = 1) -> Seats[str]:
    return Seats((3, 2), FLOAT32, rows)


def places(seats: Seats[str], taken: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    index = np.array(taken)
    return seats.places(index, seats.records[index, FLAGS])


def test_seats_are_distinct_and_come_back() -> None:
    seats = make()
    first = [seats.take(f"a{i}") for i in range(10)]
    second = [seats.take(f"b{i}") for i in range(5)]
    assert len(set(first) | set(second)) == seats.taken == 15
    for seat in first:
        seats.give_back(seat)
    assert seats.taken == 5
    assert [seats.occupants[seat] for seat in second] == [f"b{i}" for i in range(5)]
    assert seats.take("again") in first


def test_a_table_that_nobody_uses_takes_no_memory() -> None:
    seats = make()
    assert (seats.capacity, seats.nbytes) == (0, 0)
    taken = [seats.take("x") for _ in range(5 * FIRST_SEATS)]
    assert seats.nbytes >= len(taken) * 2 * 5 * 4
    for seat in taken:
        seats.give_back(seat)
    assert (seats.capacity, seats.nbytes, seats.taken) == (0, 0, 0)


@pytest.mark.parametrize("rows", [1, 3])
def test_growing_keeps_what_was_written(rows: int) -> None:
    seats = make(rows)
    taken = [seats.take("a"), seats.take("b")]
    seats.records[taken, STEP_COUNT] = 7, 8
    seats.floats[taken[1], TTL] = 0.5
    leaves = [np.arange(2 * rows * size, dtype=np.float32).reshape(2 * rows, size) for size in (3, 2)]
    leaves[1][0, 1] = np.nan
    seats.slab.write(places(seats, taken), leaves)
    more = [seats.take("c") for _ in range(3 * FIRST_SEATS)]
    assert not set(taken) & set(more)
    assert seats.records[taken, STEP_COUNT].tolist() == [7, 8]
    assert seats.floats[taken[1], TTL] == 0.5
    for got, want in zip(seats.slab.read(places(seats, taken)), leaves, strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_two_places_of_a_seat_are_apart() -> None:
    seats = make()
    taken = [seats.take("a"), seats.take("b")]
    old = [np.full((2, 3), 1, np.float32), np.full((2, 2), 2, np.float32)]
    new = [np.full((2, 3), 3, np.float32), np.full((2, 2), 4, np.float32)]
    here = places(seats, taken)
    seats.slab.write(here, old)
    seats.slab.write(here ^ 1, new)
    seats.records[taken[1], FLAGS] ^= PLACE
    now = seats.slab.read(places(seats, taken))
    np.testing.assert_array_equal(now[0], [[1, 1, 1], [3, 3, 3]])
    np.testing.assert_array_equal(now[1], [[2, 2], [4, 4]])


def test_reading_gives_copies() -> None:
    seats = make()
    here = places(seats, [seats.take("a")])
    seats.slab.zero(int(here[0]))
    seats.slab.read(here)[0][:] = 5
    np.testing.assert_array_equal(seats.slab.read(here)[0], [[0, 0, 0]])


def test_a_record_is_empty_when_its_seat_is_taken_again() -> None:
    seats = make()
    keeper, seat = seats.take("keeper"), seats.take("first")
    seats.records[seat] = np.arange(1, COLUMNS + 1)
    seats.give_back(seat)
    assert seats.take("second") == seat
    assert not seats.records[seat].any()
    assert seats.records[keeper, LIFE] == 0


def test_a_seat_given_back_twice_is_found_out() -> None:
    seats = make()
    seats.take("keeper")
    seat = seats.take("x")
    seats.give_back(seat)
    with pytest.raises(AssertionError, match="twice"):
        seats.give_back(seat)


def test_tables_of_large_seats_grow_one_by_one() -> None:
    budget = StateBudget()
    seats: Seats[str] = Seats((3 << 20,), FLOAT32, 2, budget)  # 48 MiB a seat; nothing of it is touched but one row.
    taken = [seats.take(name) for name in "abc"]
    assert taken == [0, 1, 2]
    assert seats.capacity == 3
    assert budget.used_bytes == seats.nbytes == 3 * 48 << 20
    for seat in taken:
        seats.give_back(seat)
    assert budget.used_bytes == 0


def test_all_tables_share_one_budget() -> None:
    seat_bytes = 2 * 5 * 4
    budget = StateBudget(100 * seat_bytes)
    first, second = (Seats[str]((3, 2), FLOAT32, 1, budget) for _ in range(2))
    taken = [first.take("a") for _ in range(FIRST_SEATS)]
    assert second.take("b") == 0
    assert second.capacity == 100 - FIRST_SEATS  # What was left.
    with pytest.raises(QuotaExceededError, match="max_state_bytes"):
        first.take("one more")
    assert (first.taken, first.capacity) == (FIRST_SEATS, FIRST_SEATS)
    assert budget.used_bytes == first.nbytes + second.nbytes
    first.give_back(taken[3])
    assert first.take("again") == taken[3]
