"""The contract of the stores: where records live. Every store passes the suite in ``tests/stores``.

A record is a session as the store sees it: key, epoch, owner, expiry, and bytes that the store does not look into
(``records.py`` does). Every change is a compare-and-set on the epoch: who claims a record raises it, and whoever held
it by an earlier one is refused from then on (fencing). All operations take many records at once and are one
transaction, or one pipeline, each; one record that is refused keeps none of the others back.

A record whose expiry has passed is not there any more.

A store may find that it cannot read a record though the others are well. To ``look`` it is there, perhaps at epoch 0,
``claim`` gives it with an empty ``meta``, ``create`` takes its name for taken, and what would change it is refused; so
whoever holds it comes upon the damage by the way of a record that was lost to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from cellserve_server.keys import SessionKey

# How a store finds a record again: what ``create`` and ``claim`` gave. The store's own.
Ref: TypeAlias = int | str | bytes


class Draft(NamedTuple):
    """A record that is to be made.

    Attributes:
        key: of the session.
        epoch: a number that no earlier record of the key had, below 2^63; a store that remembers an earlier one takes
            a higher number when it has to.
        owner: the address of the replica that holds it.
        meta: what the session is.
        states: its states, one for each place; empty: none there.
        expire_time: unix seconds.
    """

    key: SessionKey
    epoch: int
    owner: str
    meta: bytes
    states: tuple[bytes, bytes]
    expire_time: float


class Held(NamedTuple):
    """A record that its maker or claimant holds, until somebody claims it."""

    ref: Ref
    epoch: int


class Found(NamedTuple):
    """What is to be known of a record before it is claimed.

    Attributes:
        epoch: of its holder.
        owner: the holder's address; empty: it was let go.
        tombstone: of a session that was buried, why and by whom; empty: it lives.
    """

    epoch: int
    owner: str
    tombstone: bytes


class Stored(NamedTuple):
    """A record as it is; the fields are those of ``Draft``. ``ref`` finds it again."""

    key: SessionKey
    ref: Ref
    epoch: int
    owner: str
    meta: bytes
    states: tuple[bytes, bytes]
    expire_time: float


class Write(NamedTuple):
    """A state that a held record is to have in one of its two places; the other one stays.

    ``expire_time`` puts the record's expiry off. To bring it forward takes a ``Rewrite``: where it is earlier than it
    was, a store may keep the later one.
    """

    ref: Ref
    epoch: int
    place: int
    state: bytes
    expire_time: float


class Rewrite(NamedTuple):
    """What a held record is to be from now on, states and all."""

    ref: Ref
    epoch: int
    meta: bytes
    states: tuple[bytes, bytes]
    expire_time: float


class Burial(NamedTuple):
    """A held record whose session has ended: a tombstone, without states, takes its place."""

    ref: Ref
    epoch: int
    tombstone: bytes
    expire_time: float


def next_epoch(epoch: int, now: float) -> int:
    """The epoch of a claim: above the one before, and above what was given to a claim that the store has lost since.

    Args:
        epoch: that the record has.
        now: unix seconds.
    """
    return max(epoch + 1, int(now * 1e6))


class Store(Protocol):
    """Where records live. Used from one event loop; operations may overlap.

    Every operation may raise ``StoreUnavailableError``: then it is unknown whether it was done, and who holds records
    that it was to change has to claim them again before trusting any copy of them. A store that has raised it is asked
    again at the next operation and recovers by itself.

    Attributes:
        url: as it was given, without a password: for logs.
        is_volatile: whether the records end with the process, so that there is no use in writing to it.
    """

    url: str
    is_volatile: bool

    async def open(self) -> None:
        """Makes it ready.

        Raises:
            StartError: it cannot be used; the message says what is wrong and what to do.
        """
        ...

    async def close(self) -> None:
        """Lets everything go. Operations under way are finished."""
        ...

    async def look(self, keys: Sequence[SessionKey]) -> list[Found | None]:
        """What there is of each, tombstones too; None: nothing."""
        ...

    async def claim(self, found: Sequence[tuple[SessionKey, int]], owner: str) -> list[Stored | None]:
        """Takes records that are at these epochs: each gets ``next_epoch``, and this owner.

        Returns:
            The records with their new epochs; None where the epoch was another by now, or nothing lives there.

        Raises:
            RecordCorruptError: never for content, which is the caller's; a record that the store itself cannot read
                gives a ``Stored`` with an empty ``meta``.
        """
        ...

    async def create(self, drafts: Sequence[Draft]) -> list[Held | None]:
        """Makes records; a tombstone gives way. None: a living one is there."""
        ...

    async def write(self, writes: Sequence[Write]) -> list[bool]:
        """Overwrites one state each. False: another holds the record now, or it is gone or cannot be read."""
        ...

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        """Overwrites records. False: as of ``write``."""
        ...

    async def bury(self, burials: Sequence[Burial]) -> list[bool]:
        """Puts tombstones in records' places. False: as of ``write``."""
        ...

    async def set_aside(self, burials: Sequence[Burial]) -> list[bool]:
        """As ``bury``, but keeps what the record was for people to look at, for as long as the tombstone."""
        ...

    async def release(self, held: Sequence[Held]) -> None:
        """Lets records go: nobody has to be asked for them any more. Those that others hold stay theirs."""
        ...

    async def list_after(self, tenant: str, after_id: str, limit: int) -> list[Stored]:
        """The tenant's living records by id, from the first above ``after_id``, at most so many.

        Held ones too; they are read, not claimed. One that the store cannot read has an empty ``meta``.
        """
        ...

    async def count(self, tenant: str) -> int:
        """How many living records the tenant has; those that expired lately may be among them."""
        ...

    async def tenants(self) -> list[str]:
        """Everyone who has records, or had some lately."""
        ...

    async def put_model(self, tenant: str, name: str, content: bytes, expire_time: float) -> None:
        """Keeps a model that a client defined, at least until then; what was kept for longer stays for longer."""
        ...

    async def get_model(self, tenant: str, name: str) -> bytes | None:
        """Such a model; None: it is not there."""
        ...

    async def keep_model(self, tenant: str, name: str, expire_time: float) -> bool:
        """Puts a model's expiry off, never forward; False: it is not there."""
        ...

    async def sweep(self, limit: int) -> int:
        """Removes records and models that expired, about so many at most; returns how many. A store may do it alone."""
        ...
