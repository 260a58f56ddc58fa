"""Records in this process's memory: the store of a server that stands alone, and of fleets in tests."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cellserve_server.keys import SessionKey
from cellserve_server.stores.base import Burial, Draft, Found, Held, Ref, Rewrite, Store, Stored, Write, next_epoch


@dataclass
class _Record:
    key: SessionKey
    ref: int
    epoch: int
    owner: str
    meta: bytes
    states: tuple[bytes, bytes]
    expire_time: float
    tombstone: bytes = b""


@dataclass
class _Model:
    content: bytes
    expire_time: float


class MemoryStore(Store):
    """Keeps records in dictionaries.

    No operation awaits anything, so each is done in one turn of the event loop: that makes it a transaction.

    Args:
        clock: unix seconds.
        is_volatile: what it says of itself. False: servers of one process that share it write to it, as to any store.
    """

    def __init__(self, clock: Callable[[], float], is_volatile: bool = True) -> None:
        self.url = "memory:"
        self.is_volatile = is_volatile
        self._clock = clock
        self._refs = itertools.count(1)
        self._by_key: dict[SessionKey, _Record] = {}
        self._by_ref: dict[Ref, _Record] = {}
        self._models: dict[tuple[str, str], _Model] = {}

    async def open(self) -> None:
        """There is nothing to make ready."""

    async def close(self) -> None:
        """There is nothing to let go: servers that share it go on."""

    async def look(self, keys: Sequence[SessionKey]) -> list[Found | None]:
        """What there is of each; None: nothing."""
        found = map(self._find, keys)
        return [Found(record.epoch, record.owner, record.tombstone) if record else None for record in found]

    async def claim(self, found: Sequence[tuple[SessionKey, int]], owner: str) -> list[Stored | None]:
        """Takes records that are at these epochs; None: another epoch, or nothing lives there."""
        return [self._claim(key, epoch, owner) for key, epoch in found]

    def _claim(self, key: SessionKey, epoch: int, owner: str) -> Stored | None:
        record = self._find(key)
        if record is None or record.tombstone or record.epoch != epoch:
            return None
        record.epoch = next_epoch(epoch, self._clock())
        record.owner = owner
        return _stored(record)

    async def create(self, drafts: Sequence[Draft]) -> list[Held | None]:
        """Makes records; None: a living one is there."""
        return [self._create(draft) for draft in drafts]

    def _create(self, draft: Draft) -> Held | None:
        epoch = draft.epoch
        old = self._by_key.get(draft.key)
        if old is not None:
            if not old.tombstone and old.expire_time > self._clock():
                return None
            epoch = max(epoch, old.epoch + 1)
            del self._by_ref[old.ref]
        record = _Record(draft.key, next(self._refs), epoch, *draft[2:])
        self._by_key[draft.key] = self._by_ref[record.ref] = record
        return Held(record.ref, epoch)

    async def write(self, writes: Sequence[Write]) -> list[bool]:
        """Overwrites one state each. False: another holds the record now, or it is gone."""
        return [self._write(write) for write in writes]

    def _write(self, write: Write) -> bool:
        record = self._held(write.ref, write.epoch)
        if record is None:
            return False
        first, second = record.states
        record.states = (first, write.state) if write.place else (write.state, second)
        record.expire_time = write.expire_time
        return True

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        """Overwrites records. False: as of ``write``."""
        return [self._rewrite(rewrite) for rewrite in rewrites]

    def _rewrite(self, rewrite: Rewrite) -> bool:
        record = self._held(rewrite.ref, rewrite.epoch)
        if record is None:
            return False
        record.meta, record.states, record.expire_time = rewrite.meta, rewrite.states, rewrite.expire_time
        return True

    async def bury(self, burials: Sequence[Burial]) -> list[bool]:
        """Puts tombstones in records' places. False: as of ``write``."""
        return [self._bury(burial, keep=False) for burial in burials]

    async def set_aside(self, burials: Sequence[Burial]) -> list[bool]:
        """As ``bury``, but keeps what the record was."""
        return [self._bury(burial, keep=True) for burial in burials]

    def _bury(self, burial: Burial, keep: bool) -> bool:
        record = self._held(burial.ref, burial.epoch)
        if record is None:
            return False
        record.tombstone, record.expire_time, record.owner = burial.tombstone, burial.expire_time, ""
        if not keep:
            record.meta, record.states = b"", (b"", b"")
        return True

    async def release(self, held: Sequence[Held]) -> None:
        """Lets records go; those that others hold stay theirs."""
        for ref, epoch in held:
            record = self._held(ref, epoch)
            if record is not None:
                record.owner = ""

    async def list_after(self, tenant: str, after_id: str, limit: int) -> list[Stored]:
        """The tenant's living records by id, from the first above ``after_id``."""
        living = (record for record in self._living(tenant) if record.key.id > after_id)
        return [_stored(record) for record in heapq.nsmallest(limit, living, key=lambda record: record.key.id)]

    async def count(self, tenant: str) -> int:
        """How many living records the tenant has."""
        return len(self._living(tenant))

    async def tenants(self) -> list[str]:
        """Everyone who has records, or had some lately."""
        return sorted({key.tenant for key in self._by_key})

    async def put_model(self, tenant: str, name: str, content: bytes, expire_time: float) -> None:
        """Keeps a model that a client defined, at least until then."""
        old = self._model(tenant, name)
        until = expire_time if old is None else max(expire_time, old.expire_time)
        self._models[tenant, name] = _Model(content, until)

    async def get_model(self, tenant: str, name: str) -> bytes | None:
        """Such a model; None: it is not there."""
        model = self._model(tenant, name)
        return None if model is None else model.content

    async def keep_model(self, tenant: str, name: str, expire_time: float) -> bool:
        """Puts a model's expiry off; False: it is not there."""
        model = self._model(tenant, name)
        if model is None:
            return False
        model.expire_time = max(model.expire_time, expire_time)
        return True

    async def sweep(self, limit: int) -> int:
        """Removes records and models that expired, so many at most; returns how many."""
        now = self._clock()
        gone = [record for record in self._by_key.values() if record.expire_time <= now][:limit]
        for record in gone:
            del self._by_key[record.key], self._by_ref[record.ref]
        names = [name for name, model in self._models.items() if model.expire_time <= now][: limit - len(gone)]
        for name in names:
            del self._models[name]
        return len(gone) + len(names)

    def _find(self, key: SessionKey) -> _Record | None:
        """A record that has not expired, be it a tombstone."""
        record = self._by_key.get(key)
        return record if record is not None and record.expire_time > self._clock() else None

    def _held(self, ref: Ref, epoch: int) -> _Record | None:
        """A living record, if it is still at this epoch."""
        record = self._by_ref.get(ref)
        if record is None or record.epoch != epoch or record.tombstone or record.expire_time <= self._clock():
            return None
        return record

    def _living(self, tenant: str) -> list[_Record]:
        now = self._clock()
        records = self._by_key.values()
        return [item for item in records if item.key.tenant == tenant and not item.tombstone and item.expire_time > now]

    def _model(self, tenant: str, name: str) -> _Model | None:
        model = self._models.get((tenant, name))
        return model if model is not None and model.expire_time > self._clock() else None


def _stored(record: _Record) -> Stored:
    return Stored(record.key, record.ref, record.epoch, record.owner, record.meta, record.states, record.expire_time)
