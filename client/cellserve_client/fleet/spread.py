"""The ways of many sessions, in columns: a million of them have no Python object each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cellserve.buckets import BUCKET_KEY, bucket_of
from cellserve.tensors import Array
from cellserve_client.fleet.rendezvous import first_of_many, keys_of
from cellserve_client.fleet.replica import Replica
from cellserve_client.fleet.routes import PROXIED_STREAMS, Members
from cellserve_client.streaming.mux import Mux


class Place(NamedTuple):
    """Where steps go: a replica, and one of the streams to it."""

    replica: Replica
    mux: Mux


class Spread:
    """Where each of many sessions goes, by its index.

    Args:
        fleet: the replicas.
    """

    def __init__(self, fleet: Members) -> None:
        self._fleet = fleet
        self._has_keys = fleet.is_many
        self._has_streams = fleet.is_proxied
        self._keys: Array = np.zeros(0, np.uint64)
        self._streams: Array = np.zeros(0, np.int64)
        self._replicas: Array = np.zeros(0, np.int64)
        self._moved_to: dict[int, Replica] = {}
        self._generation = -1

    @property
    def is_bound(self) -> bool:
        """Whether no other replica will do."""
        return self._fleet.is_pinned or not self._fleet.is_many

    def put(self, indices: Array, ids: Sequence[str]) -> None:
        """Sessions of these ids have these indices from now on."""
        self._grow(int(indices.max(initial=-1)) + 1)
        for index in indices.tolist() if self._moved_to else ():
            self._moved_to.pop(index, None)
        if self._has_streams:
            self._streams[indices] = [bucket_of(id_) % PROXIED_STREAMS for id_ in ids]
        if self._has_keys:
            self._keys[indices] = keys_of(ids, len(ids))
            self._replicas[indices] = self._choose(self._keys[indices])
        else:
            self._replicas[indices] = next(iter(self._fleet.replicas))

    def _grow(self, length: int) -> None:
        missing = length - len(self._keys)
        if missing > 0:
            self._keys = np.concatenate([self._keys, np.zeros(missing, np.uint64)])
            self._streams = np.concatenate([self._streams, np.zeros(missing, np.int64)])
            self._replicas = np.concatenate([self._replicas, np.zeros(missing, np.int64)])

    def _choose(self, keys: Array) -> Array:
        """The first replica that is up in the order of each session; pinned, or where none is up, the first of all."""
        replicas = list(self._fleet.replicas.values())
        if not self._fleet.is_pinned:
            replicas = [replica for replica in replicas if replica.is_up] or replicas
        numbers = np.array([replica.number for replica in replicas], np.int64)
        chosen: Array = numbers[first_of_many(keys, [replica.key for replica in replicas])]
        return chosen

    def places(self, indices: Array) -> Array:
        """The number of the place where each goes now, int64."""
        if self._has_keys and self._generation != self._fleet.generation:
            self._look_again()
        if not self._has_streams:
            replicas: Array = self._replicas[indices]
            return replicas * PROXIED_STREAMS
        both: Array = self._replicas[indices] * PROXIED_STREAMS + self._streams[indices]
        return both

    def _look_again(self) -> None:
        self._generation = self._fleet.generation
        self._replicas = self._choose(self._keys)
        for index, owner in list(self._moved_to.items()):
            if owner.is_up and owner.number in self._fleet.replicas:
                self._replicas[index] = owner.number
            else:
                del self._moved_to[index]

    def place(self, number: int) -> Place | None:
        """A place by its number, to be used in a coroutine; None: the replica is none of the fleet's any more."""
        replica = self._fleet.replicas.get(number // PROXIED_STREAMS)
        if replica is None:
            return None
        metadata = ((BUCKET_KEY, str(number % PROXIED_STREAMS)),) if self._has_streams else ()
        return Place(replica, replica.transport.mux(metadata))

    def follow(self, indices: Array, owner: Replica | None) -> None:
        """Another replica has these sessions; None: it is not known which, and they go where their hash puts them."""
        if self.is_bound:
            return
        for index in indices.tolist():
            if owner is None:
                self._moved_to.pop(index, None)
            else:
                self._moved_to[index] = owner
        if owner is None:
            self._replicas[indices] = self._choose(self._keys[indices])
        else:
            self._replicas[indices] = owner.number
