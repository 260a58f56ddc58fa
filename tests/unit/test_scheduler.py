"""The scheduler: who is in the next tick."""

from __future__ import annotations

import pytest

from cellserve_server.scheduler import Scheduler


def drain(scheduler: Scheduler[str, str]) -> list[tuple[str, list[str]]]:
    ticks = []
    while scheduler:
        ticks.append(scheduler.next_tick())
    return ticks


def test_nothing_is_ready() -> None:
    scheduler: Scheduler[str, str] = Scheduler(8)
    assert not scheduler
    with pytest.raises(LookupError, match="nothing is ready"):
        scheduler.next_tick()


def test_runs_of_one_lane_share_a_tick_up_to_its_rows() -> None:
    scheduler: Scheduler[str, str] = Scheduler(4)
    for name, rows in [("a", 2), ("b", 1), ("c", 2), ("d", 1)]:
        scheduler.add("lane", name, rows)
    assert drain(scheduler) == [("lane", ["a", "b"]), ("lane", ["c", "d"])]


def test_a_run_of_too_many_rows_is_taken_alone() -> None:
    scheduler: Scheduler[str, str] = Scheduler(4)
    for name, rows in [("small", 1), ("large", 9), ("next", 1)]:
        scheduler.add("lane", name, rows)
    assert drain(scheduler) == [("lane", ["small"]), ("lane", ["large"]), ("lane", ["next"])]


def test_lanes_take_turns() -> None:
    scheduler: Scheduler[str, str] = Scheduler(1)
    for name in ("a1", "a2", "a3"):
        scheduler.add("a", name, 1)
    scheduler.add("b", "b1", 1)
    assert [runs for _, runs in drain(scheduler)] == [["a1"], ["b1"], ["a2"], ["a3"]]


def test_a_steps_wait_behind_endless_sequences_is_bounded_in_ticks() -> None:
    scheduler: Scheduler[str, str] = Scheduler(4)
    sequences = [f"sequence {i}" for i in range(10)]
    for name in sequences:
        scheduler.add("lane", name, 1)
    scheduler.add("lane", "step", 1)
    ticks = 0
    while True:
        _, runs = scheduler.next_tick()
        ticks += 1
        if "step" in runs:
            break
        for run in runs:  # A sequence wants another step.
            scheduler.add("lane", run, 1)
    assert ticks == 3  # ceil(11 ready rows / 4 rows a tick)
