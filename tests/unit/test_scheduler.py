"""The scheduler: who is in the next tick."""

from __future__ import annotations

import random

import pytest

from cellserve_server.engine.scheduler import LEAST_SHARE_ROWS, Scheduler

STEPS, RUNS = "steps", "runs"
TestedScheduler = Scheduler[str, str, str]


def ticks_of(rows: int) -> TestedScheduler:
    """A scheduler of ticks of at most so many rows."""
    return Scheduler(lambda _: rows)


def drain(scheduler: TestedScheduler) -> list[tuple[str, str, list[tuple[str, int]]]]:
    ticks = []
    while scheduler:
        lane, queue, taken = scheduler.next_tick()
        ticks.append((lane, queue, [(entry.item, entry.positions) for entry in taken]))
    return ticks


def items(scheduler: TestedScheduler) -> list[list[str]]:
    """The items of each tick until nothing is left."""
    return [[item for item, _ in taken] for _, _, taken in drain(scheduler)]


def test_nothing_is_ready() -> None:
    scheduler = ticks_of(8)
    assert not scheduler
    with pytest.raises(LookupError, match="nothing is ready"):
        scheduler.next_tick()


def test_work_of_one_client_shares_a_tick_up_to_its_rows() -> None:
    scheduler = ticks_of(4)
    for name, rows in [("a", 2), ("b", 1), ("c", 2), ("d", 1)]:
        scheduler.add("lane", STEPS, "client", name, rows)
    assert items(scheduler) == [["a", "b"], ["c", "d"]]


def test_a_block_is_taken_apart() -> None:
    scheduler = ticks_of(8)
    scheduler.add("lane", STEPS, "client", "first", 1)
    scheduler.add("lane", STEPS, "client", "block", 2, positions=7)
    scheduler.add("lane", STEPS, "client", "last", 1)
    assert [taken for _, _, taken in drain(scheduler)] == [[("first", 1), ("block", 3)], [("block", 4)], [("last", 1)]]


def test_what_is_too_large_is_taken_alone() -> None:
    scheduler = ticks_of(4)
    for name, rows in [("small", 1), ("large", 9), ("next", 1)]:
        scheduler.add("lane", STEPS, "client", name, rows)
    assert items(scheduler) == [["small"], ["large"], ["next"]]


def test_what_is_too_large_is_taken_though_others_keep_coming() -> None:
    scheduler = ticks_of(4)
    scheduler.add("lane", STEPS, "others", "step", 1)
    scheduler.add("lane", STEPS, "large", "large", 9)
    ticks = 0
    while True:
        _, _, taken = scheduler.next_tick()
        ticks += 1
        if "large" in [item for item, _ in taken]:
            break
        scheduler.add("lane", STEPS, "others", "step", 1)
    assert ticks == 2


def test_lanes_take_turns() -> None:
    scheduler = ticks_of(1)
    for name in ("a1", "a2", "a3"):
        scheduler.add("a", STEPS, "client", name, 1)
    scheduler.add("b", STEPS, "client", "b1", 1)
    assert items(scheduler) == [["a1"], ["b1"], ["a2"], ["a3"]]


def test_a_clients_backlog_holds_no_other_client_up() -> None:
    scheduler = ticks_of(8)
    scheduler.add("lane", STEPS, "greedy", "backlog", 1, positions=1000)
    scheduler.add("lane", STEPS, "modest", "step", 1)
    assert drain(scheduler)[0] == ("lane", STEPS, [("backlog", 4), ("step", 1), ("backlog", 3)])


def test_nor_do_many_queues_of_one_client() -> None:
    """Each batch size is a queue: their number is a client's to choose."""
    scheduler = ticks_of(8)
    for rows in range(1, 101):
        scheduler.add("lane", f"{rows} rows", "greedy", "step", rows)
    scheduler.add("lane", "1 rows", "modest", "modest step", 1)
    scheduler.add("lane", "0 rows", "other", "other step", 1)
    assert ["modest step" in tick for tick in items(scheduler)].index(True) <= 1
    for rows in range(1, 101):
        scheduler.add("lane", f"{rows} rows", "greedy", "step", rows)
    scheduler.add("lane", "0 rows", "other", "other step", 1)
    assert ["other step" in tick for tick in items(scheduler)].index(True) == 1


def test_more_clients_than_rows_are_served_in_turn() -> None:
    scheduler = ticks_of(2)
    for client in "abcde":
        scheduler.add("lane", STEPS, client, client + "1", 1)
        scheduler.add("lane", STEPS, client, client + "2", 1)
    assert items(scheduler) == [["a1", "b1"], ["c1", "d1"], ["e1", "a2"], ["b2", "c2"], ["d2", "e2"]]


@pytest.mark.parametrize("clients", [1, 3, 100])
def test_a_steps_wait_behind_endless_sequences_is_bounded_in_ticks(clients: int) -> None:
    """Longer runs have a queue of their own, and share its ticks: a step's turn is the next but one."""
    scheduler = ticks_of(1024)
    for number in range(300):
        scheduler.add("lane", RUNS, f"client {number % clients}", f"sequence {number}", 1)
    scheduler.next_tick()
    for number in range(300):  # Each wants another step.
        scheduler.add("lane", RUNS, f"client {number % clients}", f"sequence {number}", 1)
    scheduler.add("lane", STEPS, "client 0", "step", 1)
    ticks = 0
    while True:
        _, queue, taken = scheduler.next_tick()
        ticks += 1
        if queue == STEPS:
            break
        for item, _ in taken:
            scheduler.add("lane", RUNS, f"client {int(item.split()[1]) % clients}", item, 1)
    assert ticks <= 2


@pytest.mark.parametrize("seed", range(20))
def test_nobody_waits_longer_than_the_docstring_says(seed: int) -> None:
    """L lanes, C clients in each: at most L * C ticks, whatever is in line and whatever comes meanwhile."""
    dice = random.Random(seed)
    scheduler = ticks_of(8)
    lanes, clients = dice.randint(1, 4), dice.randint(1, 5)

    def more(count: int) -> None:
        for _ in range(count):
            queue = dice.choice([STEPS, RUNS, "other steps"])
            lane, client = f"lane {dice.randrange(lanes)}", f"client {dice.randrange(clients)}"
            scheduler.add(lane, queue, client, "backlog", dice.randint(1, 12), dice.randint(1, 50))

    more(60)
    for _ in range(dice.randint(0, 20)):
        scheduler.next_tick()
    scheduler.add("lane 0", STEPS, "late", "late", dice.randint(1, 12))
    waited = 0
    while True:
        waited += 1
        if "late" in [item for item, _ in scheduler.next_tick()[2]]:
            break
        more(dice.randint(0, 3))
    assert waited <= lanes * (clients + 1)


@pytest.mark.parametrize("seed", range(20))
def test_everything_is_taken_once_and_in_its_clients_order(seed: int) -> None:
    dice = random.Random(seed)
    scheduler = ticks_of(dice.randint(1, 16))
    wanted: dict[tuple[str, str, str], list[str]] = {}
    left: dict[str, int] = {}
    for number in range(200):
        key = (dice.choice("ab"), dice.choice([STEPS, RUNS]), dice.choice("xyz"))
        positions, name = dice.randint(1, 9), str(number)
        scheduler.add(*key, name, dice.randint(1, 20), positions)
        wanted.setdefault(key, []).append(name)
        left[name] = positions
    order: dict[tuple[str, str], list[str]] = {}
    while scheduler:
        lane, queue, taken = scheduler.next_tick()
        assert taken
        for item, positions in taken:
            left[item] -= positions
            if not left[item]:
                order.setdefault((lane, queue), []).append(item)
    assert set(left.values()) == {0}
    for (lane, queue, _), names in wanted.items():
        assert [name for name in order[lane, queue] if name in names] == names


def test_tenants_share_a_tick_whatever_the_number_of_their_clients() -> None:
    scheduler = ticks_of(8)
    for number in range(20):
        scheduler.add("lane", STEPS, f"client {number}", "greedy", 1, 50, tenant="greedy")
    scheduler.add("lane", STEPS, "client", "modest", 1, 12, tenant="modest")
    for _ in range(3):
        _, _, taken = scheduler.next_tick()
        rows = {name: sum(entry.positions for entry in taken if entry.item == name) for name in ("greedy", "modest")}
        assert rows == {"greedy": 4, "modest": 4}


def test_a_tenants_many_queues_hold_no_other_tenant_up() -> None:
    scheduler = ticks_of(8)
    for number in range(20):
        for client in range(20):
            scheduler.add("lane", f"{number} rows", f"client {client}", "greedy", 1, 50, tenant="greedy")
    scheduler.add("lane", "other rows", "client", "modest", 1, tenant="modest")
    assert [scheduler.next_tick()[2][0].item for _ in range(2)].count("modest") == 1


def small_ticks_of(rows: int, most_small_rows: int) -> TestedScheduler:
    return Scheduler(lambda _: rows, most_small_rows, is_brief=lambda queue: queue != RUNS)


@pytest.mark.parametrize("lane", ["first", "second"])
def test_who_has_little_in_line_has_a_tick_between_others_and_no_lane_loses_its_turn_by_it(lane: str) -> None:
    scheduler = small_ticks_of(4, 2)
    for each in ("first", "second"):
        scheduler.add(each, STEPS, "client", f"{each} greedy", 1, 8, tenant="greedy")
    assert scheduler.next_small() is None
    scheduler.add(lane, STEPS, "client", "modest", 1, 2, tenant="modest")
    assert scheduler.next_small() == (lane, STEPS, [("modest", 2)])
    assert scheduler.next_small() is None
    assert [tick[0] for tick in drain(scheduler)] == ["first", "second", "first", "second"]
    assert scheduler.next_small() is None


def test_those_who_have_little_take_turns_wherever_it_is() -> None:
    scheduler = small_ticks_of(1, 4)
    for tenant, lane, queue in [("a", "one", STEPS), ("b", "one", "more steps"), ("c", "two", STEPS)]:
        scheduler.add(lane, queue, "client", tenant, 1, 3, tenant=tenant)
    order = []
    while (tick := scheduler.next_small()) is not None:
        order.append(tick[2][0].item)
        if order[-1] == "a" and order.count("a") < 3:
            scheduler.add("one", STEPS, "client", "a", 1, tenant="a")  # Who brings ever more shuts nobody out.
    assert order == ["a", "b", "c"] * 3 + ["a", "a"]


def test_what_one_has_in_several_places_takes_turns() -> None:
    scheduler = small_ticks_of(1, 4)
    for lane in ("one", "two"):
        scheduler.add(lane, STEPS, "client", lane, 1, 2, tenant="a")
    ticks = [scheduler.next_small() for _ in range(5)]
    assert [tick and tick[0] for tick in ticks] == ["one", "two", "one", "two", None]


def test_those_who_have_little_in_one_place_share_the_tick_and_nobody_else_is_in_it() -> None:
    scheduler = small_ticks_of(4, 8)
    for tenant in ("greedy", "modest", "shy"):
        scheduler.add("lane", STEPS, "client", tenant, 1, 9 if tenant == "greedy" else 8, tenant=tenant)
    assert scheduler.next_small() == ("lane", STEPS, [("modest", 2), ("shy", 2)])
    scheduler.next_tick()
    assert scheduler.next_small() is not None


def test_who_has_much_has_little_once_most_of_it_is_done_but_what_takes_long_is_never_little() -> None:
    scheduler = small_ticks_of(4, 2)
    scheduler.add("lane", RUNS, "client", "sequence", 1, tenant="a")
    scheduler.add("lane", STEPS, "client", "steps", 1, 5, tenant="a")
    assert scheduler.next_small() is None
    assert scheduler.next_tick()[2] == [("sequence", 1)]
    assert scheduler.next_small() is None
    assert scheduler.next_tick()[2] == [("steps", 4)]
    assert scheduler.next_small() == ("lane", STEPS, [("steps", 1)])
    assert not scheduler


def test_a_part_of_a_tick_is_worth_a_message() -> None:
    scheduler = ticks_of(8 * LEAST_SHARE_ROWS)
    for number in range(100):
        scheduler.add("lane", STEPS, f"client {number}", str(number), 1, 1000)
    served: dict[str, int] = {}
    for _ in range(13):
        _, _, taken = scheduler.next_tick()
        assert {entry.positions for entry in taken} == {LEAST_SHARE_ROWS}
        for entry in taken:
            served[entry.item] = served.get(entry.item, 0) + 1
    assert len(served) == 100, "in turn"


def test_a_lane_may_have_smaller_ticks() -> None:
    scheduler: TestedScheduler = Scheduler({"heavy": 2, "light": 8}.__getitem__)
    for lane in ("heavy", "light"):
        scheduler.add(lane, STEPS, "client", lane, 1, 10)
    sizes = [
        (lane, sum(entry.positions for entry in taken)) for lane, _, taken in (scheduler.next_tick() for _ in "123")
    ]
    assert sizes == [("heavy", 2), ("light", 8), ("heavy", 2)]


def test_more_is_taken_for_the_same_tick_from_the_same_queue_alone() -> None:
    scheduler = ticks_of(2)
    scheduler.add("lane", STEPS, "client", "steps", 1, 5)
    scheduler.add("lane", RUNS, "client", "run", 1)
    assert scheduler.next_tick() == ("lane", STEPS, [("steps", 2)])
    assert scheduler.has("lane", STEPS)
    assert scheduler.more("lane", STEPS, 2) == [("steps", 2)]
    assert scheduler.more("lane", STEPS, 2) == [("steps", 1)]
    assert not scheduler.has("lane", STEPS)
    assert scheduler.more("lane", STEPS, 2) == []
    assert items(scheduler) == [["run"]]
    assert scheduler.more("lane", RUNS, 1) == []


def test_more_is_dealt_as_a_tick_is() -> None:
    scheduler = ticks_of(1)
    for tenant in ("greedy", "modest"):
        for client in range(3 if tenant == "greedy" else 1):
            scheduler.add("lane", STEPS, f"{tenant} {client}", tenant, 1, 10, tenant=tenant)
    scheduler.next_tick()
    taken = scheduler.more("lane", STEPS, 4)
    assert sum(entry.positions for entry in taken if entry.item == "modest") == 2
