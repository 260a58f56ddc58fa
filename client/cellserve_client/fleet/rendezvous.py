"""Rendezvous hashing: every client puts a session's replicas in the same order, without asking anybody.

A session goes to the replica for which the hash of both is highest (Thaler and Ravishankar, "A Name-Based Mapping
Scheme for Rendezvous", 1996): when a replica comes or goes, only those sessions move that it gets or had. Each name is
hashed once (BLAKE2b, 8 bytes, little-endian); a pair's hash is the finalizer of splitmix64 (Steele, Lea and Flood,
2014) over the exclusive or of both, which numpy computes for a million sessions at once. It is the same in every
process and release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cellserve.tensors import Array

_MASK = (1 << 64) - 1
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def key_of(name: str) -> int:
    """The hash of an address or of a session's id, 0 to 2**64 - 1."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def keys_of(names: Iterable[str], count: int) -> Array:
    """The same of so many names, uint64 ``[count]``."""
    digests = b"".join([hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names])
    return np.frombuffer(digests, "<u8", count).astype(np.uint64)


def weight(session_key: int, address_key: int) -> int:
    """How much a session is drawn to an address, 0 to 2**64 - 1."""
    mixed = session_key ^ address_key
    mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _MASK
    return mixed ^ (mixed >> 31)


def ranked(session_key: int, address_keys: Mapping[int, int]) -> list[int]:
    """The numbers of addresses in the order in which a session wants them.

    Args:
        address_keys: the hash of each address, by its number.
    """
    # Two addresses of one weight are told apart by their hashes, which unlike their numbers everybody knows.
    return sorted(address_keys, key=lambda number: (-weight(session_key, address_keys[number]), address_keys[number]))


def first_of_many(session_keys: Array, address_keys: Sequence[int]) -> Array:
    """Which address each of many sessions wants first: its position in ``address_keys``, int64 ``[n]``."""
    by_key = sorted(range(len(address_keys)), key=address_keys.__getitem__)
    best = np.zeros(len(session_keys), np.uint64)
    chosen = np.full(len(session_keys), by_key[0], np.int64)
    for rank, position in enumerate(by_key):
        mixed = session_keys ^ np.uint64(address_keys[position])
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
        mixed ^= mixed >> np.uint64(31)
        better = mixed > best if rank else np.ones(len(session_keys), bool)
        best[better] = mixed[better]
        chosen[better] = position
    return chosen
