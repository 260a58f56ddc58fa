"""Records for the tests of the stores, and what runs the stores' coroutines."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from cellserve_server.keys import SessionKey
from cellserve_server.stores.base import Draft, Held, Rewrite, Store, Write
from tests.clocks import START_S

T = TypeVar("T")
TENANT = "default"
TTL_S = 3600.0
OWNER = "10.0.0.1:50051"
OTHER = "10.0.0.2:50051"
# An epoch of the present; the next one is higher by one as long as the clock stands.
FIRST = int(START_S * 1e6)
# Every byte there is: nothing may be taken for text.
BYTES = bytes(range(256))
STATES = (b"first" + BYTES, b"")
SMALL = b"s" * 1100


class Run(Protocol):
    """Runs a coroutine to its end."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


def key(id_: str, tenant: str = TENANT) -> SessionKey:
    return SessionKey(tenant, id_)


def draft(
    id_: str,
    *,
    tenant: str = TENANT,
    epoch: int = FIRST,
    owner: str = OWNER,
    meta: bytes = b"meta" + BYTES,
    states: tuple[bytes, bytes] = STATES,
    expire_time: float = START_S + TTL_S,
) -> Draft:
    return Draft(SessionKey(tenant, id_), epoch, owner, meta, states, expire_time)


def write(held: Held, state: bytes = SMALL, place: int = 1, expire_time: float = START_S + TTL_S) -> Write:
    return Write(held.ref, held.epoch, place, state, expire_time)


def rewrite(
    held: Held, meta: bytes = b"new", states: tuple[bytes, bytes] = (b"a", b"b"), expire_time: float = START_S + TTL_S
) -> Rewrite:
    return Rewrite(held.ref, held.epoch, meta, states, expire_time)


async def make(store: Store, *ids: str, **fields: Any) -> list[Held]:
    """Makes records that must not be there yet."""
    made = await store.create([draft(id_, **fields) for id_ in ids])
    held = [item for item in made if item is not None]
    assert len(held) == len(ids)
    return held


async def states_of(store: Store, ids: Sequence[str], tenant: str = TENANT) -> dict[str, tuple[bytes, bytes]]:
    """The states of living records, as listing shows them."""
    return {
        record.key.id: record.states
        for record in await store.list_after(tenant, "", 100_000)
        if record.key.id in set(ids)
    }
