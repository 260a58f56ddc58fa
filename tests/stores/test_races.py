"""Two replicas, each with a store of its own on the same records, want the same things at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cellserve_server.stores.base import Held, Store, Stored
from tests.stores.samples import FIRST, OTHER, OWNER, TENANT, Run, draft, key, make, states_of, write

IDS = [f"s{index}" for index in range(40)]


def test_a_claim_is_won_once(open_store: Callable[[], Store], run: Run) -> None:
    one, two = open_store(), open_store()
    run(make(one, *IDS))

    async def claim(store: Store, owner: str, ids: list[str]) -> list[Stored]:
        won = []
        for id_ in ids:
            won += [record for record in await store.claim([(key(id_), FIRST)], owner) if record is not None]
        return won

    async def race() -> Sequence[list[Stored]]:
        return await asyncio.gather(
            claim(one, OWNER, IDS), claim(two, OTHER, IDS), claim(two, OTHER, IDS[::-1]), claim(one, OWNER, IDS[::-1])
        )

    won = [record for part in run(race()) for record in part]
    assert sorted(record.key.id for record in won) == sorted(IDS)
    assert {record.epoch for record in won} == {FIRST + 1}
    owners = {record.key.id: record.owner for record in won}
    found = run(two.look([key(id_) for id_ in IDS]))
    assert [item.owner for item in found if item] == [owners[id_] for id_ in IDS]


def test_a_name_is_made_once(open_store: Callable[[], Store], run: Run) -> None:
    one, two = open_store(), open_store()

    async def race() -> list[list[Held | None]]:
        return await asyncio.gather(
            *(store.create([draft(id_, owner=owner)]) for id_ in IDS for store, owner in ((one, OWNER), (two, OTHER)))
        )

    made = [held for batch in run(race()) for held in batch if held is not None]
    assert len(made) == len(IDS)
    assert run(one.count(TENANT)) == len(IDS)


def test_who_lost_a_record_writes_nothing_more(open_store: Callable[[], Store], run: Run) -> None:
    one, two = open_store(), open_store()
    held = run(make(one, *IDS))

    async def writer() -> list[int]:
        """Writes all again and again; says how often each was written before it was refused."""
        counts = [0] * len(IDS)
        while any(still := await one.write([write(item, b"one", place=0) for item in held])):
            counts = [count + good for count, good in zip(counts, still, strict=True)]
            await asyncio.sleep(0)  # A store in memory lets nobody else have a turn.
        return counts

    async def taker() -> None:
        for id_ in IDS:
            (record,) = await two.claim([(key(id_), FIRST)], OTHER)
            assert record is not None
            assert await two.write([write(Held(record.ref, record.epoch), b"two", place=0)]) == [True]

    async def race() -> list[int]:
        counts, _ = await asyncio.gather(writer(), taker())
        return counts

    assert len(run(race())) == len(IDS)
    assert {states[0] for states in run(states_of(two, IDS)).values()} == {b"two"}


def test_operations_overlap(open_store: Callable[[], Store], run: Run) -> None:
    store = open_store()

    async def many() -> None:
        held = await make(store, *IDS)
        reads = [store.look([key(id_) for id_ in IDS]) for _ in range(20)]
        writes = [store.write([write(item, b"%d" % number) for item in held]) for number in range(20)]
        found = await asyncio.gather(*reads)
        assert all(item is not None for batch in found for item in batch)
        assert all(all(batch) for batch in await asyncio.gather(*writes))

    run(many())
    assert len(run(states_of(store, IDS))) == len(IDS)
