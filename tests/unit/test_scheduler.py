"""The scheduler: who is in the next tick."""

from __future__ import annotations

import pytest

from cellserve_server.scheduler import Scheduler


def drain(scheduler: Scheduler[str, str]) -> list[tuple[str, list[tuple[str, int]]]]:
    ticks = []
    while scheduler:
        lane, taken = scheduler.next_tick()
        ticks.append((lane, [(entry.item, entry.positions) for entry in taken]))
    return ticks


def items(scheduler: Scheduler[str, str]) -> list[list[str]]:
    """The items of each tick until nothing is left."""
    return [[item for item, _ in taken] for _, taken in drain(scheduler)]


def test_nothing_is_ready() -> None:
    scheduler: Scheduler[str, str] = Scheduler(8)
    assert not scheduler
    with pytest.raises(LookupError, match="nothing is ready"):
        scheduler.next_tick()


def test_work_of_one_client_shares_a_tick_up_to_its_rows() -> None:
    scheduler: Scheduler[str, str] = Scheduler(4)
    for name, rows in [("a", 2), ("b", 1), ("c", 2), ("d", 1)]:
        scheduler.add("lane", "client", name, rows)
    assert items(scheduler) == [["a", "b"], ["c", "d"]]


def test_a_block_is_taken_apart() -> None:
    scheduler: Scheduler[str, str] = Scheduler(8)
    scheduler.add("lane", "client", "first", 1)
    scheduler.add("lane", "client", "block", 2, positions=7)
    scheduler.add("lane", "client", "last", 1)
    assert drain(scheduler) == [
        ("lane", [("first", 1), ("block", 3)]),
        ("lane", [("block", 4)]),
        ("lane", [("last", 1)]),
    ]


def test_what_is_too_large_is_taken_alone() -> None:
    scheduler: Scheduler[str, str] = Scheduler(4)
    for name, rows in [("small", 1), ("large", 9), ("next", 1)]:
        scheduler.add("lane", "client", name, rows)
    assert items(scheduler) == [["small"], ["large"], ["next"]]


def test_what_is_too_large_is_taken_though_others_keep_coming() -> None:
    scheduler: Scheduler[str, str] = Scheduler(4)
    scheduler.add("lane", "others", "step", 1)
    scheduler.add("lane", "large", "large", 9)
    ticks = 0
    while True:
        _, taken = scheduler.next_tick()
        ticks += 1
        if "large" in [item for item, _ in taken]:
            break
        scheduler.add("lane", "others", "step", 1)
    assert ticks == 2


def test_lanes_take_turns() -> None:
    scheduler: Scheduler[str, str] = Scheduler(1)
    for name in ("a1", "a2", "a3"):
        scheduler.add("a", "client", name, 1)
    scheduler.add("b", "client", "b1", 1)
    assert items(scheduler) == [["a1"], ["b1"], ["a2"], ["a3"]]


def test_a_clients_backlog_holds_no_other_client_up() -> None:
    scheduler: Scheduler[str, str] = Scheduler(8)
    scheduler.add("lane", "greedy", "backlog", 1, positions=1000)
    scheduler.add("lane", "modest", "step", 1)
    assert drain(scheduler)[0] == ("lane", [("backlog", 4), ("step", 1), ("backlog", 3)])


def test_more_clients_than_rows_are_served_in_turn() -> None:
    scheduler: Scheduler[str, str] = Scheduler(2)
    for client in "abcde":
        scheduler.add("lane", client, client + "1", 1)
        scheduler.add("lane", client, client + "2", 1)
    assert items(scheduler) == [["a1", "b1"], ["c1", "d1"], ["e1", "a2"], ["b2", "c2"], ["d2", "e2"]]


@pytest.mark.parametrize("clients", [1, 3])
def test_a_steps_wait_behind_endless_sequences_is_bounded_in_ticks(clients: int) -> None:
    """Sequences have a lane of their own, so a step's lane has its turn in the second tick, however many they are."""
    scheduler: Scheduler[str, str] = Scheduler(4)
    for number in range(100):
        scheduler.add("sequences", f"client {number % clients}", f"sequence {number}", 1)
    scheduler.next_tick()
    scheduler.add("steps", "client 0", "step", 1)
    ticks = 0
    while True:
        lane, taken = scheduler.next_tick()
        ticks += 1
        if lane == "steps":
            break
        for item, _ in taken:  # A sequence wants another step.
            scheduler.add("sequences", "client 0", item, 1)
    assert ticks <= 2


def test_the_bound_of_the_docstring_holds() -> None:
    """L lanes, C clients in each: the first work in a client's line is in the L-th tick if its rows are a C-th."""
    lanes, clients, rows = 3, 4, 8
    scheduler: Scheduler[str, str] = Scheduler(rows)
    for lane in range(lanes):
        for client in range(clients):
            scheduler.add(f"lane {lane}", f"client {client}", f"backlog {client}", 1, positions=500)
    for lane in range(lanes):
        scheduler.add(f"lane {lane}", "late", "late", rows // (clients + 1))
    seen = {}
    for tick in range(1, lanes + 1):
        lane_name, taken = scheduler.next_tick()
        assert sum(count * (1 if item != "late" else rows // (clients + 1)) for item, count in taken) <= rows
        if "late" in [item for item, _ in taken]:
            seen[lane_name] = tick
    assert sorted(seen.values()) == [1, 2, 3]
