"""The server's metrics, read once a second beside a load test."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from cellserve.errors import UnavailableError
from cellserve_client.address import parse_addresses
from cellserve_client.load.document import ServerMetrics, ServerSecond
from cellserve_client.load.plan import LoadPlan
from cellserve_client.server_metrics import Change, Snapshot, default_url, fetch

STEPS = "cellserve_steps_total"
INTERVAL_S = 1.0


class MetricsWatch:
    """Reads pages, and tells what lies between the readings; of several pages the sum.

    Args:
        before: a reading of each page, from before the test.
        is_asked_for: whether they were named; otherwise they may be another server's.
    """

    def __init__(self, before: Sequence[Snapshot], is_asked_for: bool) -> None:
        self._latest = before
        self._counted = before
        self._grown = 0.0
        self._is_restarted = False
        self._is_asked_for = is_asked_for
        self._next = 0
        self._timeline: list[ServerSecond] = []

    async def watch(self, measure_from: float, measured_s: float, clock: Callable[[], float]) -> None:
        """Reads at each second of the measured time.

        Args:
            measure_from: when it begins, in the clock's seconds.
            measured_s: how long it is.
        """
        for second in range(math.ceil(measured_s / INTERVAL_S) + 1):
            await asyncio.sleep(max(measure_from + second * INTERVAL_S - clock(), 0.0))
            try:
                latest = await _read([snapshot.url for snapshot in self._latest])
            except UnavailableError:
                continue  # The next reading tells of a longer time.
            self._count(latest)
            self._note(second, latest)

    def _count(self, latest: Sequence[Snapshot]) -> None:
        """Counts the steps from reading to reading: a server that is started again counts from 0."""
        for pair in zip(self._counted, latest, strict=True):
            change = Change(*pair)
            self._grown += change.increase(STEPS)
            self._is_restarted |= change.is_restart
        self._counted = latest

    def _note(self, second: int, latest: Sequence[Snapshot]) -> None:
        """Takes a reading from the beginning of a second: it tells of the one before."""
        if second > 0:
            changes = [Change(*pair) for pair in zip(self._latest, latest, strict=True)]
            self._timeline.append(_second(second - 1, changes))
        self._latest = latest
        self._next = second + 1

    async def result(self, own_steps: int, seconds: int) -> ServerMetrics | None:
        """What they told. None: a page that nobody asked for tells less than the test knows: it is another server's.

        Args:
            own_steps: that were answered to this test.
            seconds: of the measured time that are to be told of, the last one by the reading that is made now.
        """
        urls = tuple(snapshot.url for snapshot in self._counted)
        try:
            after = await _read(urls)
        except UnavailableError:
            return ServerMetrics(urls, None, tuple(self._timeline)) if self._is_asked_for else None
        self._count(after)
        # What a server did between its last reading and its end nobody has read.
        if self._grown < own_steps and not self._is_asked_for and not self._is_restarted:
            return None
        if 0 < self._next <= seconds:
            self._note(seconds, after)
        return ServerMetrics(urls, round(self._grown), tuple(self._timeline))


async def begin_watch(plan: LoadPlan) -> MetricsWatch | None:
    """Reads the pages a first time; None: there are none.

    Raises:
        UnavailableError: one that was asked for cannot be read.
    """
    if plan.metrics is not None:
        return MetricsWatch(await _read(plan.metrics), True) if plan.metrics else None
    fixed = parse_addresses(plan.connection.address).fixed
    if len(fixed) != 1:
        return None
    try:
        return MetricsWatch(await _read([default_url(fixed[0])]), False)
    except UnavailableError:
        return None


async def _read(urls: Sequence[str]) -> list[Snapshot]:
    return await asyncio.gather(*(asyncio.to_thread(fetch, url) for url in urls))


def _second(number: int, changes: Sequence[Change]) -> ServerSecond:
    def gauge(name: str) -> float:
        return sum(change.after.value(name) or 0.0 for change in changes)

    def mean(histogram: str) -> float | None:
        count = sum(change.increase(f"{histogram}_count") for change in changes)
        return sum(change.increase(f"{histogram}_sum") for change in changes) / count if count else None

    tick_s = mean("cellserve_tick_seconds")
    return ServerSecond(
        second=number,
        steps_per_second=round(sum(change.rate(STEPS) for change in changes), 1),
        rows_per_tick=mean("cellserve_tick_rows"),
        queue_runs=gauge("cellserve_queue_runs"),
        sessions=gauge("cellserve_sessions"),
        tick_ms=None if tick_s is None else tick_s * 1e3,
    )
