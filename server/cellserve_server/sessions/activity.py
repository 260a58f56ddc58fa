"""Which sessions are the most active: found by a few operations on the columns of the seats, for people who look on.

A rate needs two looks at the step counts. They are kept only while somebody asks, so that nobody pays who does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from cellserve.tensors import Array
from cellserve_server.sessions.lanes import LaneTable
from cellserve_server.sessions.seats import CREATE, ENGAGED, EXPIRE, FLAGS, LIFE, STEP_COUNT, TTL, Seats
from cellserve_server.sessions.session import Session, SessionSnapshot

# Two looks are so far apart at least, for of shorter times a rate says little; who asks every second has new ones.
LOOK_S = 0.9
# The last look is forgotten when nobody has asked for so long.
KEEP_S = 12.0
# Seats that are looked through, and sessions whose names are read, before others have their turn.
SEATS_AT_ONCE = 32_768
READ_AT_ONCE = 1000
NAMES_AT_ONCE = 4096
# Where too few of those first in order have the names that are wanted, so many times as many are read; then all names.
READ_GROWTH = 16

OrderField: TypeAlias = Literal["steps_per_second", "step_count", "last_used_time", "create_time"]
ORDER_FIELDS: tuple[OrderField, ...] = ("steps_per_second", "step_count", "last_used_time", "create_time")


@dataclass(frozen=True)
class Order:
    """By what sessions are ordered; among equals those used last come first."""

    field: OrderField
    descending: bool


@dataclass(frozen=True)
class ActiveSession:
    """A session as it is now.

    Attributes:
        session: it.
        steps_per_second: between the last two looks; 0 when there was no look before, or its life began since.
    """

    session: SessionSnapshot
    steps_per_second: float


class _Counts(NamedTuple):
    """One table of seats at a look: by seat the life that has it, its steps, and its rate since the look before."""

    lives: Array
    steps: Array
    rates: Array

    def rates_of(self, seats: Array, lives: Array) -> Array:
        """The rates of the lives that have these seats now."""
        rates = np.zeros(len(seats))
        known = np.flatnonzero(seats < len(self.lives))
        known = known[self.lives[seats[known]] == lives[known]]
        rates[known] = self.rates[seats[known]]
        return rates


@dataclass(frozen=True)
class _Look:
    time: float  # unix seconds
    counts: dict[Seats[Session], _Counts]


class _Columns(NamedTuple):
    """Sessions to choose from, in columns.

    Attributes:
        table, seat, life: the number of its table of seats, its seat, and the life that has it.
        rate: steps a second.
        key, second: whose are least comes first; the second counts among equals.
    """

    table: Array
    seat: Array
    life: Array
    rate: Array
    key: Array
    second: Array

    def take(self, index: Array) -> _Columns:
        return _Columns(*(column[index] for column in self))

    def part(self, start: int, stop: int) -> _Columns:
        return _Columns(*(column[start:stop] for column in self))

    def with_others(self, others: _Columns) -> _Columns:
        return _Columns(*(np.concatenate(pair) for pair in zip(self, others, strict=True)))

    def first(self, count: int) -> _Columns:
        """The first ones, in their order. In linear time but for those."""
        chosen = np.arange(len(self.key))
        if count < len(chosen):
            below, equal = _least(self.key, count)
            count -= len(below)
            if count < len(equal):
                surely, perhaps = _least(self.second[equal], count)
                equal = equal[np.concatenate([surely, perhaps[: count - len(surely)]])]
            chosen = np.concatenate([below, equal])
        return self.take(chosen[np.lexsort((self.second[chosen], self.key[chosen]))])


def _least(keys: Array, count: int) -> tuple[Array, Array]:
    """Where the least of them are: those that are among the first for sure, and the equals of which some are."""
    # argpartition takes ten times as long where many are equal, as rates of idle sessions are.
    level = np.partition(keys, count - 1)[count - 1]
    return np.flatnonzero(keys < level), np.flatnonzero(keys == level)


_NO_COUNTS = _Counts(*(np.empty(0, dtype) for dtype in (int, int, float)))
_NONE = _Columns(*(np.empty(0, dtype) for dtype in (int, int, int, float, float, float)))


class Activity:
    """Finds the most active sessions in memory. Belongs to the event loop.

    Args:
        lanes: where they are.
        clock: unix seconds.
    """

    def __init__(self, lanes: LaneTable, clock: Callable[[], float]) -> None:
        self._lanes = lanes
        self._clock = clock
        self._look: _Look | None = None
        self._asked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_looked(self) -> bool:
        """Whether a look is kept, from which the next rates will be."""
        return self._look is not None

    async def first(
        self, tenant: str, order: Order, limit: int, *, model: str = "", id_contains: str = ""
    ) -> list[ActiveSession]:
        """The first of a tenant's sessions in memory.

        Args:
            order: by what.
            limit: at most so many.
            model: only sessions of this model, ``models/{model}`` or with a version; empty: all.
            id_contains: only sessions with this in their ids.
        """
        look = await self._look_at(self._clock())
        prefix = f"{model}/" if model else ""
        lanes = [lane for lane in self._lanes if f"{lane.model.resource_name}/".startswith(prefix)]
        tables = [seats for lane in lanes for seats in lane.tables()]
        for count in (limit, READ_GROWTH * limit):
            # Names are objects, which are dear to read: only those that are first by their columns are.
            chosen = await _first_of(_parts(tables, SEATS_AT_ONCE), tables, look, order, count, self._clock())
            found = await _read_all(tables, chosen, tenant, id_contains, limit)
            if len(found) == limit or len(chosen.seat) < count:
                return found
        named = _parts(tables, NAMES_AT_ONCE)
        chosen = await _first_of(named, tables, look, order, limit, self._clock(), (tenant, id_contains))
        return await _read_all(tables, chosen, tenant, id_contains, limit)

    def stop(self) -> None:
        """Forgets everything."""
        self._look = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _look_at(self, now: float) -> _Look:
        """The look whose rates are to be told: a new one, when the last is old enough."""
        last = self._look
        if last is not None and now - last.time > KEEP_S:
            last = None
        self._asked_at = now
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEEP_S, self._forget)
        if last is None or now - last.time >= LOOK_S:
            last = self._look = await _new_look(self._lanes.tables(), last, now)
        return last

    def _forget(self) -> None:
        left_s = self._asked_at + KEEP_S - self._clock()
        if left_s <= 0:
            self.stop()
        else:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._forget)


async def _parts(tables: Sequence[Seats[Session]], at_once: int) -> AsyncIterator[tuple[int, slice]]:
    """All seats, as numbers of tables and some seats of each; others have their turn in between."""
    seen = 0
    for number, seats in enumerate(tables):
        for start in range(0, seats.used, at_once):
            if seen >= at_once:
                await asyncio.sleep(0)
                seen = 0
            part = slice(start, min(start + at_once, seats.used))
            seen += part.stop - start
            yield number, part


async def _new_look(tables: Sequence[Seats[Session]], last: _Look | None, now: float) -> _Look:
    found = [[_NO_COUNTS] for _ in tables]
    async for number, part in _parts(tables, SEATS_AT_ONCE):
        seats = tables[number]
        before = None if last is None else last.counts.get(seats)
        elapsed_s = 0.0 if last is None else now - last.time
        found[number].append(_count(seats, part, before, elapsed_s))
    joined = (_Counts(*map(np.concatenate, zip(*parts, strict=True))) for parts in found)
    return _Look(now, dict(zip(tables, joined, strict=True)))


def _count(seats: Seats[Session], part: slice, before: _Counts | None, elapsed_s: float) -> _Counts:
    lives, steps = seats.records[part, [LIFE, STEP_COUNT]].T
    rates = np.zeros(len(lives))
    if before is not None:
        known = before.lives[part]
        same = np.flatnonzero(lives[: len(known)] == known)
        rates[same] = (steps[same] - before.steps[part][same]) / elapsed_s
    return _Counts(lives, steps, rates)


async def _first_of(
    parts: AsyncIterator[tuple[int, slice]],
    tables: Sequence[Seats[Session]],
    look: _Look,
    order: Order,
    count: int,
    now: float,
    names: tuple[str, str] | None = None,
) -> _Columns:
    """The first sessions of these parts of tables that have not expired; of a tenant, with this in their ids."""
    first = _NONE
    async for number, part in parts:
        columns = _columns(tables[number], number, part, look, order, now)
        if names is not None:
            columns = _named(columns, tables[number], *names)
        first = first.with_others(columns.first(count)).first(count)
    return first


def _named(columns: _Columns, seats: Seats[Session], tenant: str, id_contains: str) -> _Columns:
    """Those that are a tenant's and have this in their ids."""
    occupants = (seats.occupants[seat] for seat in columns.seat.tolist())
    return columns.take(np.flatnonzero([_has_name(occupant, tenant, id_contains) for occupant in occupants]))


def _has_name(session: Session | None, tenant: str, id_contains: str) -> bool:
    return session is not None and session.key.tenant == tenant and id_contains in session.key.id


def _columns(seats: Seats[Session], table: int, part: slice, look: _Look, order: Order, now: float) -> _Columns:
    """The sessions of a part of a table that have not expired."""
    records, floats = seats.records[part], seats.floats[part]
    lasting = (floats[:, EXPIRE] > now) | (records[:, FLAGS] & ENGAGED != 0)
    index = np.flatnonzero((records[:, LIFE] != 0) & lasting)
    seat, life = index + part.start, records[index, LIFE]
    counts = look.counts.get(seats)
    rate = np.zeros(len(index)) if counts is None else counts.rates_of(seat, life)
    used = floats[index, EXPIRE] - floats[index, TTL]
    key: Array
    match order.field:
        case "steps_per_second":
            key = rate
        case "step_count":
            key = records[index, STEP_COUNT]
        case "last_used_time":
            key = used
        case "create_time":
            key = floats[index, CREATE]
    return _Columns(np.full(len(index), table), seat, life, rate, -key if order.descending else key, -used)


async def _read_all(
    tables: Sequence[Seats[Session]], columns: _Columns, tenant: str, id_contains: str, limit: int
) -> list[ActiveSession]:
    """As of ``_read``, at most ``limit``; others have their turn in between."""
    found: list[ActiveSession] = []
    for start in range(0, len(columns.seat), READ_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        found += _read(tables, columns.part(start, start + READ_AT_ONCE), tenant, id_contains)
        if len(found) >= limit:
            return found[:limit]
    return found


def _read(
    tables: Sequence[Seats[Session]], columns: _Columns, tenant: str, id_contains: str
) -> Iterator[ActiveSession]:
    """Those of them that are the tenant's and have this in their ids, and are still what they were."""
    for table, seat, life, rate in zip(*(column.tolist() for column in columns[:4]), strict=True):
        occupants = tables[table].occupants
        session = occupants[seat] if seat < len(occupants) else None
        if session is not None and session.life == life and _has_name(session, tenant, id_contains):
            yield ActiveSession(session.snapshot(), rate)
