"""Records in Redis or Valkey: the store of several replicas, on one server or on a cluster.

What belongs to a session lies in its bucket: ``cellserve:{NN}:s:TENANT/ID`` is its record and
``cellserve:{NN}:i:TENANT`` the index of the tenant's living sessions there, a sorted set of ids. The braces make a
cluster keep a bucket on one node, so that a script may touch both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from cellserve.buckets import BUCKETS, bucket_of
from cellserve_server.keys import SessionKey
from cellserve_server.stores import redis_scripts as scripts
from cellserve_server.stores.base import Burial, Draft, Found, Held, Ref, Rewrite, Store, Stored, Write, next_epoch
from cellserve_server.stores.redis_link import Call, RedisLink, ServerFacts, Value, script_call
from cellserve_server.stores.redis_scripts import Script

DEFAULT_TIMEOUT_S = 2.0
# Records of one call of a script: Redis serves nobody else until it is done, about 0.7 ms.
MAX_RECORDS_PER_CALL = 128
TENANTS = "cellserve:tenants"
# A tenant without sessions is forgotten when it has made none for so long.
FORGET_TENANT_S = 86_400.0


_BUCKET_DIGITS = slice(len("cellserve:{"), len("cellserve:{NN"))


class _Item(NamedTuple):
    """One record's part of a script's call; ``record`` is the key of Redis's under which it is."""

    record: str
    arguments: tuple[Value, ...] = ()


def record_key(key: SessionKey) -> str:
    """Under what Redis has a record."""
    return f"cellserve:{{{bucket_of(key.id):02d}}}:s:{key.tenant}/{key.id}"


def key_of(ref: Ref) -> SessionKey:
    """The session whose record is under this name. Ids have no slash; tenants may."""
    tenant, _, id_ = str(ref).split(":", 3)[3].rpartition("/")
    return SessionKey(tenant, id_)


def index_key(bucket: int, tenant: str) -> str:
    """Under what Redis has the ids of a tenant's living sessions of a bucket."""
    return f"cellserve:{{{bucket:02d}}}:i:{tenant}"


def model_key(tenant: str, name: str) -> str:
    """Under what Redis has a model that a client defined."""
    return f"cellserve:{{{bucket_of(name):02d}}}:m:{tenant}/{name}"


class RedisStore(Store):
    """Keeps records in Redis or Valkey.

    Args:
        url: ``redis://[USER:PASSWORD@]HOST:PORT/DB`` or ``rediss://...``, with options of redis-py after ``?``.
        clock: unix seconds.
        timeout_s: how long connecting may take, and then each answer.
    """

    def __init__(self, url: str, clock: Callable[[], float], timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._link = RedisLink(url, timeout_s)
        self.url = self._link.shown_url
        self.is_volatile = False
        self._clock = clock
        # How far sweeping has come: the tenants that are left of this round, and in each bucket the last id seen.
        self._to_sweep: list[str] = []
        self._swept_to: dict[int, str] = {}

    async def open(self) -> None:
        """Connects.

        Raises:
            StartError: it cannot be used; the message says what is wrong and what to do.
        """
        await self._link.open()

    async def close(self) -> None:
        """Lets the connections go. Operations under way are finished."""
        await self._link.close()

    async def facts(self) -> ServerFacts:
        """What the server says of itself.

        Raises:
            StoreUnavailableError: it does not answer.
        """
        return await self._link.facts()

    async def look(self, keys: Sequence[SessionKey]) -> list[Found | None]:
        """What there is of each; None: nothing."""
        answers = await self._run(scripts.LOOK, map(_Item, map(record_key, keys)))
        return [None if answer is None else _found(answer) for answer in answers]

    async def claim(self, found: Sequence[tuple[SessionKey, int]], owner: str) -> list[Stored | None]:
        """Takes records that are at these epochs; None: another epoch, or nothing lives there."""
        now = self._clock()
        items = (_Item(record_key(key), (epoch, owner, next_epoch(epoch, now))) for key, epoch in found)
        answers = await self._run(scripts.CLAIM, items)
        return [_stored(key, answer) for (key, _), answer in zip(found, answers, strict=True)]

    async def create(self, drafts: Sequence[Draft]) -> list[Held | None]:
        """Makes records; None: a living one is there."""
        now = self._clock()
        names = sorted({draft.key.tenant for draft in drafts})
        # Before the records, so that none is ever without its tenant.
        await self._link.send([Call(TENANTS, ("ZADD", TENANTS, now, name)) for name in names])
        items = (
            _Item(
                record_key(item.key), (item.epoch, item.owner, item.meta, *item.states, item.expire_time, item.key.id)
            )
            for item in drafts
        )
        answers = await self._run(scripts.CREATE, items)
        return [
            None if answer is None else Held(record_key(draft.key), int(answer))
            for draft, answer in zip(drafts, answers, strict=True)
        ]

    async def write(self, writes: Sequence[Write]) -> list[bool]:
        """Overwrites one state each. False: another holds the record now, or it is gone."""
        items = (_Item(str(item.ref), (item.epoch, item.place, item.state, item.expire_time)) for item in writes)
        return [answer is not None for answer in await self._run(scripts.WRITE, items)]

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        """Overwrites records. False: as of ``write``."""
        items = (_Item(str(item.ref), (item.epoch, item.meta, *item.states, item.expire_time)) for item in rewrites)
        return list(map(bool, await self._run(scripts.REWRITE, items)))

    async def bury(self, burials: Sequence[Burial]) -> list[bool]:
        """Puts tombstones in records' places. False: as of ``write``."""
        return await self._bury(scripts.BURY, burials)

    async def set_aside(self, burials: Sequence[Burial]) -> list[bool]:
        """As ``bury``, but keeps what the record was."""
        return await self._bury(scripts.SET_ASIDE, burials)

    async def _bury(self, script: Script, burials: Sequence[Burial]) -> list[bool]:
        items = (
            _Item(str(item.ref), (item.epoch, item.tombstone, item.expire_time, key_of(item.ref).id))
            for item in burials
        )
        return list(map(bool, await self._run(script, items)))

    async def release(self, held: Sequence[Held]) -> None:
        """Lets records go; those that others hold stay theirs."""
        await self._run(scripts.RELEASE, (_Item(str(ref), (epoch,)) for ref, epoch in held))

    async def list_after(self, tenant: str, after_id: str, limit: int) -> list[Stored]:
        """The tenant's living records by id, from the first above ``after_id``."""
        found: list[Stored] = []
        is_last = False
        while len(found) < limit and not is_last:
            ids, is_last = await self._ids_after(tenant, after_id, limit - len(found))
            keys = [SessionKey(tenant, id_) for id_ in ids]
            records = list(map(_stored, keys, await self._run(scripts.READ, map(_Item, map(record_key, keys)))))
            found += filter(None, records)
            await self._purge([key for key, record in zip(keys, records, strict=True) if record is None])
            after_id = ids[-1] if ids else after_id
        return found

    async def _ids_after(self, tenant: str, after_id: str, limit: int) -> tuple[list[str], bool]:
        """The first ids of a tenant's indices above one, in order, and whether there are no more after them."""
        # Ids are spread evenly, so that a fair part of each bucket, and some more, nearly always has enough of them.
        part = 2 * limit // BUCKETS + 8
        ids: list[str] = []
        ends = []
        for found in await self._read_indices(tenant, dict.fromkeys(range(BUCKETS), after_id), part):
            ids += found
            if len(found) == part:
                ends.append(found[-1])
        end = min(ends, default=None)  # Above it, ids may be missing.
        ids = sorted(id_ for id_ in ids if end is None or id_ <= end)
        return ids[:limit], end is None and len(ids) <= limit

    async def _read_indices(self, tenant: str, after_ids: dict[int, str], limit: int) -> list[list[str]]:
        calls = []
        for bucket, after_id in after_ids.items():
            key = index_key(bucket, tenant)
            start = f"({after_id}" if after_id else "-"
            calls.append(Call(key, ("ZRANGEBYLEX", key, start, "+", "LIMIT", 0, limit)))
        return [[id_.decode() for id_ in ids] for ids in await self._link.send(calls)]

    async def count(self, tenant: str) -> int:
        """How many living records the tenant has; those that expired lately may be among them."""
        keys = [index_key(bucket, tenant) for bucket in range(BUCKETS)]
        return sum(await self._link.send([Call(key, ("ZCARD", key)) for key in keys]))

    async def tenants(self) -> list[str]:
        """Everyone who has records, or had some lately."""
        (names,) = await self._link.send([Call(TENANTS, ("ZRANGE", TENANTS, 0, -1))])
        return sorted(name.decode() for name in names)

    async def put_model(self, tenant: str, name: str, content: bytes, expire_time: float) -> None:
        """Keeps a model that a client defined, at least until then."""
        await self._run_model(scripts.PUT_MODEL, tenant, name, content, expire_time)

    async def get_model(self, tenant: str, name: str) -> bytes | None:
        """Such a model; None: it is not there."""
        content: bytes | None = await self._run_model(scripts.GET_MODEL, tenant, name)
        return content

    async def keep_model(self, tenant: str, name: str, expire_time: float) -> bool:
        """Puts a model's expiry off; False: it is not there."""
        return bool(await self._run_model(scripts.KEEP_MODEL, tenant, name, expire_time))

    async def sweep(self, limit: int) -> int:
        """Takes names out of the indices whose records Redis has removed; about so many are looked at."""
        if not self._to_sweep:
            self._to_sweep, self._swept_to = await self.tenants(), {}
        if not self._to_sweep:
            return 0
        tenant = self._to_sweep[0]
        after_ids = self._swept_to or dict.fromkeys(range(BUCKETS), "")
        part = limit // len(after_ids) + 1
        found = await self._read_indices(tenant, after_ids, part)
        # What was removed meanwhile by somebody else is no harm.
        removed = await self._purge([SessionKey(tenant, id_) for ids in found for id_ in ids])
        self._swept_to = {bucket: ids[-1] for bucket, ids in zip(after_ids, found, strict=True) if len(ids) == part}
        if not self._swept_to:
            self._to_sweep = self._to_sweep[1:]
            await self._forget_if_idle(tenant)
        return removed

    async def _forget_if_idle(self, tenant: str) -> None:
        if await self.count(tenant) == 0:
            (last_made,) = await self._link.send([Call(TENANTS, ("ZSCORE", TENANTS, tenant))])
            if last_made is not None and float(last_made) < self._clock() - FORGET_TENANT_S:
                await self._link.send([Call(TENANTS, ("ZREM", TENANTS, tenant))])

    async def _purge(self, keys: Sequence[SessionKey]) -> int:
        return sum(map(bool, await self._run(scripts.PURGE, (_Item(record_key(key), (key.id,)) for key in keys))))

    async def _run_model(self, script: Script, tenant: str, name: str, *arguments: Value) -> Any:
        call = script_call(script, [model_key(tenant, name)], [self._clock(), *arguments])
        ((answer,),) = await self._link.send([call])
        return answer

    async def _run(self, script: Script, items: Iterable[_Item]) -> list[Any]:
        """Runs a script for records, as few calls as may be; gives its answer for each, in order."""
        records = list(items)
        parts = self._split(records)
        now = self._clock()
        calls = []
        for part in parts:
            chosen = [records[position] for position in part]
            keys = [item.record for item in chosen]
            if script.keys_each == 2:
                keys = [name for key in keys for name in (key, _index_of(key))]
            arguments: list[Value] = [now]
            for item in chosen:
                arguments += item.arguments
            calls.append(script_call(script, keys, arguments))
        found: list[Any] = [None] * len(records)
        for part, answers in zip(parts, await self._link.send(calls) if calls else [], strict=True):
            for position, answer in zip(part, answers, strict=True):
                found[position] = answer
        return found

    def _split(self, items: Sequence[_Item]) -> list[Sequence[int]]:
        """The positions of the items of each call; on a cluster a call has one bucket's alone."""
        groups: dict[str, list[int]] = {}
        if self._link.is_cluster:
            for position, item in enumerate(items):
                groups.setdefault(item.record[_BUCKET_DIGITS], []).append(position)
        lines: list[Sequence[int]] = [*groups.values()] if self._link.is_cluster else [range(len(items))]
        size = MAX_RECORDS_PER_CALL
        return [line[start : start + size] for line in lines for start in range(0, len(line), size)]


def _index_of(record: str) -> str:
    key = key_of(record)
    return index_key(bucket_of(key.id), key.tenant)


def _found(answer: Sequence[bytes | None]) -> Found:
    epoch, owner, tombstone = answer
    return Found(int(epoch or 0), (owner or b"").decode(), tombstone or b"")


def _stored(key: SessionKey, answer: Sequence[bytes | None] | None) -> Stored | None:
    """A record as a script gave it; one of which a part is missing has an empty ``meta``, which no sound one has."""
    if answer is None:
        return None
    epoch, owner, meta, first, second, expire = answer
    whole = meta is not None and first is not None and second is not None
    states = (first or b"", second or b"") if whole else (b"", b"")
    return Stored(
        key,
        record_key(key),
        int(epoch or 0),
        (owner or b"").decode(),
        (meta or b"") if whole else b"",
        states,
        float(expire or 0),
    )
