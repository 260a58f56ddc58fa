"""A soak test: a server is visited for minutes, and what it holds before and after is compared."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from cellserve_client import aio
from tests.soak.premises import REMEMBERED, Premises, left_behind
from tests.soak.residents import Residents
from tests.soak.visits import COMMON, SOLITARY, Deed, Visit, crowd

MIB = 1 << 20
CALLERS = 3
SAMPLE_S = 1.0
# The warm-up: a part of the time, within bounds, and until what the server remembers of ended sessions is full.
PART_OF_WARM_UP = 0.2
WARM_UP_MIN_S, WARM_UP_MAX_S = 5.0, 60.0
FULL_WITHIN_S = 120.0
CROWDS, FIRST_OF_CROWDS = 3, 10_000_000
MAX_MIB_PER_MINUTE = 1.0
# A slope means nothing in less: a shorter run may grow by so much in all.
SLOPE_FROM_S = 180.0
SHORT_RUN_MIB = 8.0


@dataclass(frozen=True)
class SoakReport:
    """What came of it, after the warm-up.

    Attributes:
        seconds: how long the server was visited.
        visits: by what was done.
        sessions_ended: deleted, expired, unloaded.
        errors: of callers, where none was to be.
        files_left, threads_left, tasks_left, sessions_left, slab_rows_left, models_left: how much more there is at
            rest than after the warm-up.
        rss_mib: at rest after the warm-up, and at rest in the end.
        rss_mib_per_minute: the slope of the line through the readings, one a second, while it was visited.
    """

    seconds: float
    visits: dict[str, int]
    sessions_ended: int
    errors: int
    files_left: int
    threads_left: int
    tasks_left: int
    sessions_left: int
    slab_rows_left: int
    models_left: int
    rss_mib: tuple[float, float]
    rss_mib_per_minute: float

    @property
    def grows(self) -> bool:
        """Whether memory grows beyond what is allowed."""
        if self.seconds >= SLOPE_FROM_S:
            return self.rss_mib_per_minute >= MAX_MIB_PER_MINUTE
        before, after = self.rss_mib
        return after - before >= SHORT_RUN_MIB

    @property
    def passed(self) -> bool:
        """Whether all is as it was."""
        left = (self.files_left, self.threads_left, self.tasks_left)
        return not any((*left, self.sessions_left, self.slab_rows_left, self.models_left, self.errors, self.grows))


class Visitors:
    """Callers that visit a server again and again, until they are told to stop.

    Args:
        premises: the server.
        seed: says what they do.

    Attributes:
        visits: how often each was done.
        errors: what was not to be.
    """

    def __init__(self, premises: Premises, seed: int) -> None:
        self.visits: Counter[str] = Counter()
        self.errors: list[str] = []
        self._premises = premises
        self._seed = seed
        self._number = 0

    async def visit(self, until: asyncio.Event) -> None:
        """Visits until the event is set, and returns when the last visit is over."""
        callers = [COMMON] * CALLERS + [(deed,) for deed in SOLITARY]
        async with asyncio.TaskGroup() as group:
            for index, deeds in enumerate(callers):
                group.create_task(self._keep_visiting(index, deeds, until))

    async def _keep_visiting(self, caller: int, deeds: Sequence[Deed], until: asyncio.Event) -> None:
        random = Random(f"caller {caller} {self._seed}")
        while not until.is_set():
            self._number += 1
            deed = random.choice(deeds)
            try:
                await deed(Visit(self._premises, random, self._number))
            except Exception as error:  # Whatever it is, it is told, and the others go on.
                self.errors.append(f"{deed.__name__}: {type(error).__name__}: {error}")
            self.visits[deed.__name__] += 1


async def soak(
    premises: Premises, seconds: float, seed: int, note: Callable[[int, str], None]
) -> tuple[SoakReport, list[str]]:
    """Warms a server up, visits it, and compares.

    Args:
        seconds: how long it is visited after the warm-up.
        seed: says what is done.
        note: told how many seconds have gone, and what is under way.

    Returns:
        The report, and the errors.
    """
    async with aio.connect(premises.address) as server:
        residents = Residents(server)
        await residents.move_in()
        visitors = Visitors(premises, seed)
        warm_up_s = min(max(PART_OF_WARM_UP * seconds, WARM_UP_MIN_S), WARM_UP_MAX_S)
        await _visited(premises, visitors, residents, warm_up_s, lambda _: note(0, "warming up"), until_full=True)
        for number in range(CROWDS):
            await crowd(Visit(premises, Random(seed), FIRST_OF_CROWDS * (number + 1)))
        before, rss_before = await premises.at_rest(), premises.rss_bytes
        ended, visits = premises.sessions_ended(), visitors.visits.copy()
        readings = await _visited(premises, visitors, residents, seconds, lambda s: note(s, "visited"))
        after, rss_after = await premises.at_rest(before), premises.rss_bytes
        ended = premises.sessions_ended() - ended
        await residents.step()
    times, bytes_ = np.array(readings).T
    slope = float(np.polyfit(times, bytes_, 1)[0])
    report = SoakReport(
        seconds=seconds,
        visits=dict(sorted((visitors.visits - visits).items())),
        sessions_ended=ended,
        errors=len(visitors.errors),
        **left_behind(before, after),
        rss_mib=(round(rss_before / MIB, 1), round(rss_after / MIB, 1)),
        rss_mib_per_minute=round(slope * 60 / MIB, 2),
    )
    return report, visitors.errors


async def _visited(
    premises: Premises,
    visitors: Visitors,
    residents: Residents,
    seconds: float,
    note: Callable[[int], None],
    *,
    until_full: bool = False,
) -> list[tuple[float, int]]:
    """Has a server visited; the readings of its memory: when, in seconds, and how many bytes.

    Args:
        until_full: whether it is to be visited until what it remembers of ended sessions is full, too.
    """
    until = asyncio.Event()
    readings: list[tuple[float, int]] = []
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(visitors.visit(until))
        group.create_task(residents.live(until, visitors.errors))
        while (passed_s := time.monotonic() - began) < FULL_WITHIN_S + seconds:
            is_full = not until_full or await asyncio.to_thread(premises.sessions_ended) > REMEMBERED
            if passed_s >= seconds and is_full:
                break
            readings.append((passed_s, premises.rss_bytes))
            note(round(passed_s))
            await asyncio.sleep(SAMPLE_S)
        until.set()
    return readings
