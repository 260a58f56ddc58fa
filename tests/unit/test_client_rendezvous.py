"""Rendezvous hashing: the same everywhere, even, and nobody moves who does not have to."""

from __future__ import annotations

import numpy as np

from cellserve_client.fleet.rendezvous import first_of_many, key_of, keys_of, ranked

ADDRESSES = [f"10.0.0.{number}:50051" for number in range(1, 6)]
KEYS = {number: key_of(address) for number, address in enumerate(ADDRESSES)}
SESSIONS = [f"session-{number}" for number in range(5000)]


def test_the_order_is_the_same_in_every_process_and_release() -> None:
    # Written down once: a client of another release puts a session where this one does.
    assert key_of("speaker-1") == 300344665770207370
    assert [ranked(key_of(name), KEYS) for name in ("speaker-1", "speaker-2", "speaker-3")] == [
        [1, 3, 4, 2, 0],
        [2, 1, 3, 0, 4],
        [2, 3, 4, 0, 1],
    ]


def test_the_order_does_not_depend_on_the_order_of_the_addresses() -> None:
    turned = dict(reversed([(number + 100, key) for number, key in KEYS.items()]))
    for name in SESSIONS[:100]:
        assert [number - 100 for number in ranked(key_of(name), turned)] == ranked(key_of(name), KEYS)


def test_sessions_are_spread_evenly() -> None:
    counts = np.bincount([ranked(key_of(name), KEYS)[0] for name in SESSIONS])
    expected = len(SESSIONS) / len(ADDRESSES)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_without_a_replica_only_its_sessions_move_each_to_its_second_and_evenly() -> None:
    without = {number: key for number, key in KEYS.items() if number != 2}
    moved = []
    for name in SESSIONS:
        before, after = ranked(key_of(name), KEYS), ranked(key_of(name), without)
        if before[0] == 2:
            assert after[0] == before[1]
            moved.append(after[0])
        else:
            assert after[0] == before[0]
    counts = np.bincount(moved, minlength=5)[[0, 1, 3, 4]]
    assert (np.abs(counts - len(moved) / 4) < 5 * np.sqrt(len(moved) / 4)).all()


def test_many_at_once_go_where_each_goes() -> None:
    keys = keys_of(SESSIONS, len(SESSIONS))
    assert keys.tolist() == [key_of(name) for name in SESSIONS]
    found = first_of_many(keys, list(KEYS.values()))
    assert found.tolist() == [ranked(key_of(name), KEYS)[0] for name in SESSIONS]
