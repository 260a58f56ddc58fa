"""Where requests go: those on a session to its replica, all others to any."""

from __future__ import annotations

from typing import Protocol

from cellserve.buckets import BUCKET_KEY, bucket_of
from cellserve_client.fleet.rendezvous import key_of, ranked
from cellserve_client.fleet.replica import Replica
from cellserve_client.transport import Metadata

# Streams to a proxy that spreads them over the replicas behind it.
PROXIED_STREAMS = 4


class Members(Protocol):
    """What a way needs of the fleet."""

    @property
    def generation(self) -> int:
        """Changes whenever a replica comes, goes, goes down or comes up."""
        ...

    @property
    def replicas(self) -> dict[int, Replica]:
        """By their numbers."""
        ...

    @property
    def is_many(self) -> bool:
        """Whether there are several replicas, or may be."""
        ...

    @property
    def is_pinned(self) -> bool:
        """Whether sessions stay with the first replica of their order, be it down."""
        ...

    @property
    def is_proxied(self) -> bool:
        """Whether the only address is that of a proxy with replicas behind it."""
        ...

    def next_up(self) -> Replica:
        """A replica for what any can answer: each in turn."""
        ...


class Way(Protocol):
    """Where the attempts of a request go."""

    @property
    def metadata(self) -> Metadata:
        """What is sent beside the request."""
        ...

    @property
    def is_bound(self) -> bool:
        """Whether no other replica will do."""
        ...

    def current(self) -> Replica:
        """Where the next attempt goes."""
        ...

    def follow(self, owner: Replica | None) -> None:
        """The replica that was asked says that another one has the session; None: it is not known which."""
        ...


def bucket_metadata(session_id: str, is_proxied: bool) -> Metadata:
    """What is sent with every request on a session: ``cellserve-bucket``.

    Behind a proxy there are fewer streams than buckets, each of which carries one value; requests on their own
    carry the value of the stream of their session: the bucket modulo the number of streams.
    """
    bucket = bucket_of(session_id)
    return ((BUCKET_KEY, str(bucket % PROXIED_STREAMS if is_proxied else bucket)),)


class Route:
    """The way of one session: the first replica that is up in its rendezvous order, or the one that has it.

    Args:
        fleet: the replicas.
        session_id: the session's.

    Attributes:
        metadata: its bucket.
    """

    __slots__ = ("_fleet", "_generation", "_key", "_moved_to", "_replica", "metadata")

    def __init__(self, fleet: Members, session_id: str) -> None:
        self.metadata = bucket_metadata(session_id, fleet.is_proxied)
        self._fleet = fleet
        self._key = key_of(session_id)
        self._generation = -1
        self._moved_to: Replica | None = None
        self._replica: Replica | None = None

    @property
    def is_bound(self) -> bool:
        """As of ``Way``."""
        return self._fleet.is_pinned or not self._fleet.is_many

    @property
    def stream_metadata(self) -> Metadata:
        """That of the stream on which the session is stepped."""
        return self.metadata if self._fleet.is_proxied else ()

    def current(self) -> Replica:
        """As of ``Way``. A session that has moved is where it has moved to, until that replica is down."""
        if self._replica is None or self._generation != self._fleet.generation:
            self._replica = self._choose()
            self._generation = self._fleet.generation
        return self._replica

    def _choose(self) -> Replica:
        replicas = self._fleet.replicas
        moved_to = self._moved_to
        if moved_to is not None and moved_to.is_up and moved_to.number in replicas:
            return moved_to
        self._moved_to = None
        order = ranked(self._key, {number: replica.key for number, replica in replicas.items()})
        if not self._fleet.is_pinned:
            for number in order:
                if replicas[number].is_up:
                    return replicas[number]
        return replicas[order[0]]

    def follow(self, owner: Replica | None) -> None:
        """As of ``Way``."""
        if not self._fleet.is_pinned:
            self._moved_to = owner
            self._generation = -1


class Anywhere:
    """The way of what any replica can answer. It stays with one as long as that is up, as a list's pages have to."""

    __slots__ = ("_fleet", "_replica", "metadata")

    def __init__(self, fleet: Members) -> None:
        self.metadata: Metadata = ()
        self._fleet = fleet
        self._replica: Replica | None = None

    @property
    def is_bound(self) -> bool:
        """As of ``Way``."""
        return not self._fleet.is_many

    def current(self) -> Replica:
        """As of ``Way``."""
        replica = self._replica
        if replica is None or not replica.is_up or replica.number not in self._fleet.replicas:
            replica = self._replica = self._fleet.next_up()
        return replica

    def follow(self, owner: Replica | None) -> None:
        """As of ``Way``."""
