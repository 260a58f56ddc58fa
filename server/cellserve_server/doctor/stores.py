"""Whether the store can be reached and written, and whether it keeps what it is given."""

from __future__ import annotations

import time

from cellserve.errors import StoreUnavailableError
from cellserve_server.binding import StartError
from cellserve_server.config import MIB, ServerConfig
from cellserve_server.doctor.findings import Finding, State, heard
from cellserve_server.keys import SessionKey
from cellserve_server.stores.memory import MemoryStore
from cellserve_server.stores.opening import make_store
from cellserve_server.stores.redis import RedisStore
from cellserve_server.stores.redis_link import ServerFacts
from cellserve_server.stores.sqlite_checks import look_at

AREA = "store"
# SQLite's log alone may take a quarter of that.
LITTLE_ROOM_BYTES = 1024 * MIB
# Expiries and epochs go by the clocks of the replicas; within one machine's care they differ by milliseconds.
CLOCK_OFF_S = 1.0
NEARLY_FULL = 0.9


async def check_store(config: ServerConfig) -> list[Finding]:
    """Looks at the store that the settings name. Nothing is written."""
    timeout_s = config.store_timeout_ms / 1000
    try:
        store = make_store(config.store, time.time, fsync=config.store_fsync, timeout_s=timeout_s)
    except StartError as error:
        return [Finding(AREA, State.WRONG, str(error))]
    if isinstance(store, MemoryStore):
        return [Finding(AREA, State.OK, "memory: sessions end with the process")]
    if isinstance(store, RedisStore):
        return await _check_redis(store)
    return _check_sqlite(store.url, config.store.partition(":")[2], timeout_s)


def _check_sqlite(url: str, path: str, timeout_s: float) -> list[Finding]:
    seen = look_at(path, timeout_s)
    if seen.trouble:
        advice = "a file that this user may write, its -wal and -shm too, in a folder that may be written"
        return [Finding(AREA, State.WRONG, f"{url}: {seen.trouble}", advice)]
    found = []
    if seen.sessions is None:
        found.append(Finding(AREA, State.OK, f"{url}: will be made"))
    else:
        size = f"{seen.sessions:,} records, {seen.file_bytes / MIB:,.1f} MiB"
        found.append(Finding(AREA, State.OK, f"{url}: can be read and written; {size}"))
    if seen.network:
        what = f"{url}: is on a file system of a network ({seen.network}), over which SQLite's locks do not work"
        found.append(Finding(AREA, State.WRONG, what, "a local disk; Redis, for several machines"))
    room = f"{url}: {seen.free_bytes / MIB:,.0f} MiB are free on its disk"
    if seen.free_bytes < LITTLE_ROOM_BYTES:
        found.append(Finding(AREA, State.WARNING, room, "make room: a full disk refuses steps"))
    else:
        found.append(Finding(AREA, State.OK, room))
    return found


async def _check_redis(store: RedisStore) -> list[Finding]:
    with heard(AREA) as said:
        try:
            await store.open()
            # A script, as every step is one: users may be allowed to connect and no more.
            await store.look([SessionKey("default", "cellserve-doctor")])
            facts = await store.facts()
        except StartError as error:
            return [Finding(AREA, State.WRONG, str(error), "is it there, and do address, user and password fit?")]
        except StoreUnavailableError as error:
            return [Finding(AREA, State.WRONG, error.message)]
        finally:
            await store.close()
    return [*_of_facts(store.url, facts), *said]


def _of_facts(url: str, facts: ServerFacts) -> list[Finding]:
    found = [Finding(AREA, State.OK, f"{url}: answers; version {facts.version}")]
    if facts.role == "slave":
        what = f"{url}: is a read-only replica: no session could be kept"
        found.append(Finding(AREA, State.WRONG, what, "name its primary"))
    if facts.max_bytes and facts.used_bytes > NEARLY_FULL * facts.max_bytes:
        what = f"{url}: {facts.used_bytes / MIB:,.0f} of {facts.max_bytes / MIB:,.0f} MiB of its memory are used"
        found.append(Finding(AREA, State.WARNING, what, "raise maxmemory: one that is full refuses writes"))
    ahead_s = facts.clock_ahead_s
    if ahead_s is None:
        return [*found, Finding("clock", State.OK, f"{url}: its user may not ask for its clock")]
    clock = f"its clock is {abs(ahead_s):.3f} s {'ahead of' if ahead_s >= 0 else 'behind'} this machine's"
    if abs(ahead_s) > CLOCK_OFF_S:
        advice = "set both by NTP: sessions expire by these clocks, and claims are ordered by them"
        found.append(Finding("clock", State.WARNING, f"{url}: {clock}", advice))
    else:
        found.append(Finding("clock", State.OK, f"{url}: {clock}"))
    return found
