"""What every store does, in words of the contract."""

from __future__ import annotations

import pytest

from cellserve_server.stores.base import Burial, Found, Held, Store, Stored
from tests.clocks import START_S, ManualClock
from tests.stores.samples import (
    BYTES,
    FIRST,
    OTHER,
    OWNER,
    STATES,
    TENANT,
    TTL_S,
    Run,
    draft,
    key,
    make,
    rewrite,
    states_of,
    write,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALL_CHARACTERS = LETTERS + LETTERS.upper() + "0123456789-_.~:"
MANY = 5000


def test_what_is_created_is_found(store: Store, run: Run) -> None:
    (held,) = run(store.create([draft("a", epoch=7)]))
    assert held is not None
    assert held.epoch == 7
    assert run(store.look([key("a"), key("b")])) == [Found(7, OWNER, b""), None]


def test_a_living_record_is_not_created_again(store: Store, run: Run) -> None:
    run(make(store, "a"))
    first, second = run(store.create([draft("a", epoch=9), draft("b", epoch=9)]))
    assert first is None
    assert second is not None
    assert run(store.look([key("a")])) == [Found(FIRST, OWNER, b"")]


def test_one_name_twice_in_a_batch_is_made_once(store: Store, run: Run) -> None:
    first, second = run(store.create([draft("a"), draft("a", meta=b"later")]))
    assert first is not None
    assert second is None
    (record,) = run(store.list_after(TENANT, "", 10))
    assert record.meta == draft("a").meta


def test_a_claim_raises_the_epoch_and_gives_everything(store: Store, run: Run) -> None:
    run(make(store, "a"))
    (record,) = run(store.claim([(key("a"), FIRST)], OTHER))
    assert record is not None
    expected = Stored(key("a"), record.ref, FIRST + 1, OTHER, b"meta" + BYTES, STATES, START_S + TTL_S)
    assert record == expected
    assert run(store.look([key("a")])) == [Found(FIRST + 1, OTHER, b"")]


def test_an_epoch_is_not_given_twice_even_if_the_store_has_lost_a_claim(
    store: Store, run: Run, clock: ManualClock
) -> None:
    run(make(store, "a", epoch=5))
    clock.advance(1)
    (record,) = run(store.claim([(key("a"), 5)], OTHER))
    assert record is not None
    assert record.epoch == int(clock() * 1e6)


def test_a_claim_at_another_epoch_takes_nothing(store: Store, run: Run) -> None:
    run(make(store, "a", "b", epoch=5))
    wrong, right, missing = run(store.claim([(key("a"), 4), (key("b"), 5), (key("c"), 5)], OTHER))
    assert wrong is None
    assert missing is None
    assert right is not None
    assert run(store.look([key("a")])) == [Found(5, OWNER, b"")]


def test_one_record_claimed_twice_in_a_batch_is_taken_once(store: Store, run: Run) -> None:
    run(make(store, "a"))
    first, second = run(store.claim([(key("a"), FIRST), (key("a"), FIRST)], OTHER))
    assert first is not None
    assert second is None


def test_epochs_have_all_their_digits(store: Store, run: Run) -> None:
    epoch = (1 << 62) + 1
    run(make(store, "a", epoch=epoch))
    (record,) = run(store.claim([(key("a"), epoch)], OTHER))
    assert record is not None
    assert record.epoch == epoch + 1
    assert run(store.write([write(Held(record.ref, epoch)), write(Held(record.ref, epoch + 1))])) == [False, True]


def test_writes_go_to_their_place_alone(store: Store, run: Run) -> None:
    a, b, c = run(make(store, "a", "b", "c"))
    writes = [write(a, b"1", 1), write(b, b"0", 0), write(a, BYTES, 0), write(c, b"", 0), write(b, b"00", 0)]
    assert run(store.write(writes)) == [True] * 5
    assert run(states_of(store, "abc")) == {"a": (BYTES, b"1"), "b": (b"00", b""), "c": (b"", b"")}


def test_a_write_puts_the_expiry_off(store: Store, run: Run, clock: ManualClock) -> None:
    (held,) = run(make(store, "a"))
    for place in (0, 1, 1, 0):
        clock.advance(TTL_S - 1)
        assert run(store.write([write(held, place=place, expire_time=clock() + TTL_S)])) == [True]
    (record,) = run(store.list_after(TENANT, "", 1))
    assert record.expire_time == clock() + TTL_S
    assert run(store.sweep(100)) == 0
    clock.advance(TTL_S)
    assert run(store.look([key("a")])) == [None]


def test_a_rewrite_changes_everything_but_the_owner(store: Store, run: Run) -> None:
    (held,) = run(make(store, "a"))
    assert run(store.rewrite([rewrite(held, BYTES, (b"x", BYTES), START_S + 5)])) == [True]
    assert run(store.list_after(TENANT, "", 1)) == [
        Stored(key("a"), held.ref, held.epoch, OWNER, BYTES, (b"x", BYTES), START_S + 5)
    ]


def test_a_rewrite_may_bring_the_expiry_forward(store: Store, run: Run, clock: ManualClock) -> None:
    (held,) = run(make(store, "a"))
    run(store.rewrite([rewrite(held, expire_time=START_S + 5)]))
    clock.advance(5)
    assert run(store.look([key("a")])) == [None]
    assert run(store.rewrite([rewrite(held)])) == [False]


@pytest.mark.parametrize("operation", ["bury", "set_aside"])
def test_a_buried_record_leaves_its_tombstone(store: Store, run: Run, clock: ManualClock, operation: str) -> None:
    buried, other = run(make(store, "a", "b"))
    burials = [
        Burial(buried.ref, buried.epoch, BYTES, START_S + 60),
        Burial(other.ref, other.epoch + 1, BYTES, START_S + 60),
    ]
    assert run(getattr(store, operation)(burials)) == [True, False]
    found, living = run(store.look([key("a"), key("b")]))
    assert found is not None
    assert found.tombstone == BYTES
    assert living == Found(FIRST, OWNER, b"")
    assert [record.key.id for record in run(store.list_after(TENANT, "", 10))] == ["b"]
    assert run(store.count(TENANT)) == 1
    assert run(store.claim([(key("a"), found.epoch)], OTHER)) == [None]
    clock.advance(60)
    assert run(store.look([key("a")])) == [None]


@pytest.mark.parametrize("operation", ["bury", "set_aside"])
def test_nobody_writes_to_a_tombstone(store: Store, run: Run, operation: str) -> None:
    (held,) = run(make(store, "a", epoch=0))
    burial = Burial(held.ref, held.epoch, b"deleted", START_S + 60)
    assert run(getattr(store, operation)([burial])) == [True]
    assert run(store.write([write(held, place=0), write(held, place=1)])) == [False, False]
    assert run(store.rewrite([rewrite(held)])) == [False]
    assert run(store.bury([burial])) == [False]
    assert run(store.set_aside([burial])) == [False]
    run(store.release([held]))
    (found,) = run(store.look([key("a")]))
    assert found is not None
    assert found.tombstone == b"deleted"


@pytest.mark.parametrize("end", ["tombstone", "set aside", "expiry", "swept"])
def test_a_name_has_a_new_life_and_the_old_holder_is_refused(
    store: Store, run: Run, clock: ManualClock, end: str
) -> None:
    (old,) = run(make(store, "a", epoch=10))
    burial = Burial(old.ref, old.epoch, b"deleted", START_S + 2 * TTL_S)
    if end == "tombstone":
        assert run(store.bury([burial])) == [True]
    elif end == "set aside":
        assert run(store.set_aside([burial])) == [True]
    else:
        clock.advance(TTL_S)
        if end == "swept":
            run(store.sweep(100_000))
    # The new life's epoch comes from somebody whose clock is behind, unless nobody knows of the old one any more.
    late = START_S + 3 * TTL_S
    (new,) = run(make(store, "a", epoch=11 if end == "swept" else 3, expire_time=late, states=(b"", b"")))
    assert new.epoch > old.epoch
    assert run(store.write([write(old), write(old, place=0), write(new, b"mine", expire_time=late)])) == [
        False,
        False,
        True,
    ]
    assert run(store.rewrite([rewrite(old)])) == [False]
    assert run(store.bury([burial])) == [False]
    assert run(store.claim([(key("a"), old.epoch)], OTHER)) == [None]
    run(store.release([old]))
    assert run(store.look([key("a")])) == [Found(new.epoch, OWNER, b"")]
    assert run(states_of(store, "a")) == {"a": (b"", b"mine")}


def test_only_what_was_claimed_elsewhere_is_refused(store: Store, run: Run) -> None:
    held = run(make(store, *LETTERS))
    taken = {"c", "x"}
    claimed = run(store.claim([(key(id_), FIRST) for id_ in sorted(taken)], OTHER))
    assert None not in claimed
    expected = [id_ not in taken for id_ in LETTERS]
    assert run(store.write([write(item, place=0) for item in held])) == expected
    assert run(store.write([write(item, place=index % 2) for index, item in enumerate(held)])) == expected
    assert run(store.rewrite([rewrite(item) for item in held])) == expected
    states = run(states_of(store, LETTERS))
    assert {id_ for id_ in LETTERS if states[id_] == STATES} == taken
    assert run(store.bury([Burial(*item, b"gone", START_S + 1) for item in held])) == expected
    assert {record.key.id for record in run(store.list_after(TENANT, "", 100))} == taken


def test_released_records_have_no_owner_but_can_be_claimed(store: Store, run: Run) -> None:
    mine, lost = run(make(store, "a", "b"))
    run(store.claim([(key("b"), FIRST)], OTHER))
    run(store.release([mine, lost, Held(mine.ref, 77)]))
    assert run(store.look([key("a"), key("b")])) == [Found(FIRST, "", b""), Found(FIRST + 1, OTHER, b"")]
    (record,) = run(store.claim([(key("a"), FIRST)], OTHER))
    assert record is not None
    assert (record.owner, record.epoch) == (OTHER, FIRST + 1)


def test_expired_records_are_not_there(store: Store, run: Run, clock: ManualClock) -> None:
    (held, _) = run(make(store, "a", "b"))
    (kept,) = run(make(store, "c", expire_time=START_S + 2 * TTL_S))
    clock.advance(TTL_S)
    assert run(store.look([key("a"), key("b")])) == [None, None]
    assert run(store.claim([(key("a"), FIRST)], OTHER)) == [None]
    assert run(store.write([write(held, expire_time=clock() + 9), write(kept, expire_time=clock() + 9)])) == [
        False,
        True,
    ]
    assert run(store.rewrite([rewrite(held)])) == [False]
    assert run(store.bury([Burial(*held, b"x", clock() + 9)])) == [False]
    assert [record.key.id for record in run(store.list_after(TENANT, "", 10))] == ["c"]
    run(store.sweep(1000))
    assert run(store.count(TENANT)) == 1


def test_sweeping_ends_though_it_takes_little_at_a_time(store: Store, run: Run, clock: ManualClock) -> None:
    ids = [f"s{index:03d}" for index in range(100)]
    run(make(store, *ids))
    run(make(store, "kept", expire_time=START_S + 2 * TTL_S))
    clock.advance(TTL_S)
    for _ in range(40):
        run(store.sweep(10))
    assert run(store.count(TENANT)) == 1
    assert run(store.look([key("kept")])) == [Found(FIRST, OWNER, b"")]


def test_listing_goes_through_ids_in_order(store: Store, run: Run) -> None:
    ids = sorted({f"{first}{second}" for first in "aAzZ09-_.~:" for second in ("", *"aAzZ09-_.~:")})
    run(make(store, *reversed(ids)))
    run(make(store, *ids, tenant="other"))
    listed: list[str] = []
    while page := run(store.list_after(TENANT, listed[-1] if listed else "", 7)):
        assert len(page) <= 7
        listed += [record.key.id for record in page]
    assert listed == ids
    (first,) = run(store.list_after(TENANT, "", 1))
    assert (first.owner, first.epoch, first.meta, first.states) == (OWNER, FIRST, b"meta" + BYTES, STATES)


def test_listing_passes_over_what_has_gone(store: Store, run: Run, clock: ManualClock) -> None:
    ids = [f"s{index:03d}" for index in range(300)]
    held = run(make(store, *ids))
    run(store.bury([Burial(*item, b"gone", START_S + 9 * TTL_S) for item in held[:200]]))
    late = START_S + 2 * TTL_S
    assert all(run(store.write([write(item, expire_time=late) for item in held[290:]])))
    clock.advance(TTL_S)
    assert [record.key.id for record in run(store.list_after(TENANT, "", 4))] == ids[290:294]
    assert [record.key.id for record in run(store.list_after(TENANT, "s295", 100))] == ids[296:]


@pytest.mark.parametrize("tenant", ["default", "a/b", "Käthe {1}:2", "x" * 100])
def test_ids_of_every_kind(store: Store, run: Run, tenant: str) -> None:
    ids = [*ALL_CHARACTERS, ALL_CHARACTERS[:128], "x" * 128, "..", "a:b~c"]
    held = run(make(store, *ids, tenant=tenant))
    assert run(store.write([write(item) for item in held])) == [True] * len(ids)
    assert {record.key.id for record in run(store.list_after(tenant, "", 1000))} == set(ids)
    assert all(run(store.claim([(key(id_, tenant), FIRST) for id_ in ids], OTHER)))
    assert run(store.bury([Burial(item.ref, FIRST + 1, b"x", START_S + 1) for item in held])) == [True] * len(ids)
    assert run(store.count(tenant)) == 0


def test_tenants_are_apart(store: Store, run: Run) -> None:
    run(make(store, "a", "b", tenant="one", meta=b"1"))
    run(make(store, "a", tenant="two", meta=b"2"))
    assert run(store.look([key("b", "two")])) == [None]
    assert [record.meta for record in run(store.list_after("two", "", 10))] == [b"2"]
    assert (run(store.count("one")), run(store.count("two")), run(store.count("three"))) == (2, 1, 0)
    assert set(run(store.tenants())) == {"one", "two"}
    run(store.claim([(key("a", "one"), FIRST)], OTHER))
    assert run(store.look([key("a", "two")])) == [Found(FIRST, OWNER, b"")]


def test_models_are_kept_as_long_as_they_are_needed(store: Store, run: Run, clock: ManualClock) -> None:
    assert run(store.get_model(TENANT, "m")) is None
    assert not run(store.keep_model(TENANT, "m", START_S + 100))
    run(store.put_model(TENANT, "m", BYTES * 1000, START_S + 10))
    run(store.put_model("other", "m", b"another", START_S + 10))
    assert run(store.get_model(TENANT, "m")) == BYTES * 1000
    assert run(store.keep_model(TENANT, "m", START_S + 100))
    assert run(store.keep_model(TENANT, "m", START_S + 20))
    run(store.put_model(TENANT, "m", BYTES, START_S + 30))
    clock.advance(99)
    run(store.sweep(100))
    assert run(store.get_model(TENANT, "m")) == BYTES
    assert run(store.get_model("other", "m")) is None
    clock.advance(1)
    assert run(store.get_model(TENANT, "m")) is None
    assert not run(store.keep_model(TENANT, "m", START_S + 1000))


def test_large_batches(store: Store, run: Run) -> None:
    ids = [f"session-{index}" for index in range(MANY)]
    held = run(make(store, *ids))
    assert run(store.write([write(item) for item in held])) == [True] * MANY
    assert run(store.look([key(id_) for id_ in ids])) == [Found(FIRST, OWNER, b"")] * MANY
    claimed = run(store.claim([(key(id_), FIRST) for id_ in ids], OTHER))
    assert [record.key.id for record in claimed if record is not None] == ids
    assert run(store.count(TENANT)) == MANY
    assert len(run(store.list_after(TENANT, "", MANY + 1))) == MANY
    assert run(store.bury([Burial(item.ref, FIRST + 1, b"x", START_S + 1) for item in held])) == [True] * MANY


def test_nothing_is_asked_of_nothing(store: Store, run: Run) -> None:
    assert run(store.look([])) == []
    assert run(store.claim([], OTHER)) == []
    assert run(store.create([])) == []
    assert run(store.write([])) == run(store.rewrite([])) == run(store.bury([])) == run(store.set_aside([])) == []
    run(store.release([]))
    assert run(store.list_after(TENANT, "", 10)) == []
    assert run(store.tenants()) == []
    assert run(store.sweep(10)) == 0
