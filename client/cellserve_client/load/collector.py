"""What all processes of a load test have counted, put together."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from cellserve_client.load.document import Kind, Second, Totals
from cellserve_client.load.latencies import Latencies, Sample
from cellserve_client.load.recorder import INTERVAL_S, Interval, KindCounts

EMPTY = Sample.of(())


@dataclass(frozen=True)
class Progress:
    """How far a test is.

    Attributes:
        seconds: since requests began to be sent.
        total_seconds: that it is to take, warm-up and ramp included.
        is_measuring: whether the warm-up is over.
        steps_per_second: lately.
        p50_ms, p99_ms: lately; None: nothing was measured.
        errors: so far.
        sessions: open now.
    """

    seconds: float
    total_seconds: float
    is_measuring: bool
    steps_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    errors: int
    sessions: int


class _Figures(NamedTuple):
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None

    @classmethod
    def of(cls, sample: Sample) -> _Figures:
        return cls(sample.at_ms(50), sample.at_ms(99), sample.at_ms(100))


@dataclass
class _Second:
    steps: int = 0
    requests: int = 0
    errors: int = 0
    offered: int = 0
    latencies: Sample = EMPTY
    # Of the latencies, which are let go when all of them are known: those of a day would be gigabytes.
    figures: _Figures | None = None
    sessions: Counter[int] = field(default_factory=Counter)


class Collector:
    """Adds up intervals.

    Args:
        measured_s: how long was to be measured.
        parts: how many processes tell what they have counted.

    Attributes:
        errors: failures by reason.
        all_steps: that were answered, warm-up included.
        last_answer, last_failure, last_measured: as of ``Interval``.
    """

    def __init__(self, measured_s: float, parts: int = 1) -> None:
        self._measured_s = measured_s
        self._parts = parts
        self.errors: Counter[str] = Counter()
        self.all_steps = 0
        self.last_answer: float | None = None
        self.last_failure: float | None = None
        self.last_measured: float | None = None
        self._opened = 0
        self._offered = 0
        self._kinds: dict[str, KindCounts] = {}
        self._seconds: defaultdict[int, _Second] = defaultdict(_Second)
        self._open_seconds: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._latest: dict[int, Interval] = {}
        self._wall_s: defaultdict[int, float] = defaultdict(float)
        self._cpu_s: defaultdict[int, float] = defaultdict(float)
        self._lags: dict[int, Sample] = {}

    def add(self, part: int, interval: Interval) -> None:
        """Adds what a process has counted."""
        self.errors += interval.errors
        self.all_steps += interval.all_steps
        self._opened += interval.opened
        self._offered += interval.offered
        self.last_answer = _later(self.last_answer, interval.last_answer)
        self.last_failure = _later(self.last_failure, interval.last_failure)
        self.last_measured = _later(self.last_measured, interval.last_measured)
        for kind, counts in interval.kinds.items():
            known = self._kinds.get(kind)
            self._kinds[kind] = counts if known is None else _sum(known, counts)
        if interval.wall_s > INTERVAL_S / 2:
            self._latest[part] = interval
        if interval.number >= 0:
            self._add_second(part, interval)
        if 0 <= interval.number * INTERVAL_S < self._measured_s:
            self._lags[part] = Sample.merged([self._lags.get(part, EMPTY), interval.lags])
            self._wall_s[part] += interval.wall_s
            self._cpu_s[part] += interval.cpu_s

    def _add_second(self, part: int, interval: Interval) -> None:
        number = int(interval.number * INTERVAL_S)
        second = self._seconds[number]
        self._open_seconds.add(number)
        for counts in interval.kinds.values():
            second.steps += counts.steps
            second.requests += counts.requests
            second.latencies = Sample.merged([second.latencies, counts.latency])
        second.errors += interval.errors.total()
        second.offered += interval.offered
        second.sessions[part] = max(second.sessions[part], interval.sessions)
        self._numbers[part] = interval.number
        if len(self._numbers) == self._parts:
            self._close_seconds(before=int(min(self._numbers.values()) * INTERVAL_S))

    def _close_seconds(self, before: int) -> None:
        """Of each process nothing is to come that is older than what it told last."""
        for number in [number for number in self._open_seconds if number < before]:
            second = self._seconds[number]
            second.figures, second.latencies = _Figures.of(second.latencies), EMPTY
            self._open_seconds.remove(number)

    def progress(self, seconds: float, total_seconds: float, is_measuring: bool) -> Progress:
        """How far it is; the arguments are those of ``Progress``."""
        latest = list(self._latest.values())
        sample = Sample.merged([counts.latency for interval in latest for counts in interval.kinds.values()])
        return Progress(
            seconds=seconds,
            total_seconds=total_seconds,
            is_measuring=is_measuring,
            steps_per_second=sum(interval.all_steps / interval.wall_s for interval in latest),
            p50_ms=sample.at_ms(50),
            p99_ms=sample.at_ms(99),
            errors=self.errors.total(),
            sessions=sum(interval.sessions for interval in latest),
        )

    # --- in the end ----------------------------------------------------------------------------------------------

    def totals(self, seconds: float, schedule_s: float | None) -> Totals:
        """Counts and rates.

        Args:
            seconds: measured.
            schedule_s: how long requests were due, in an open loop; None: a closed one.
        """
        requests = sum(counts.requests for counts in self._kinds.values())
        steps = sum(counts.steps for counts in self._kinds.values())
        return Totals(
            requests=requests,
            steps=steps,
            failed=sum(counts.failed for counts in self._kinds.values()),
            steps_per_second=_rate(steps, seconds),
            requests_per_second=_rate(requests, seconds),
            offered_per_second=None if schedule_s is None else _rate(self._offered, schedule_s),
            sessions_opened=self._opened,
            steps_with_warmup=self.all_steps,
        )

    def latencies(self) -> Latencies:
        """From when requests were due."""
        return _latencies([counts.latency for counts in self._kinds.values()])

    def services(self) -> Latencies:
        """From when requests were sent."""
        return _latencies([counts.service for counts in self._kinds.values()])

    def by_kind(self) -> dict[str, Kind]:
        """Each kind's part."""
        found = {}
        for kind, counts in sorted(self._kinds.items()):
            latencies = _latencies([counts.latency])
            found[kind] = Kind(
                counts.requests, counts.steps, counts.failed, latencies.summary(), latencies.percentiles()
            )
        return found

    def timeline(self, is_open: bool, seconds: float) -> tuple[Second, ...]:
        """The seconds that were measured, so many, and those after them in which something was answered, or failed."""
        last = max((number for number, second in self._seconds.items() if second.requests or second.errors), default=-1)
        found = []
        for number in range(max(last + 1, math.ceil(seconds))):
            second = self._seconds.get(number, _Second())
            figures = second.figures or _Figures.of(second.latencies)
            found.append(
                Second(
                    second=number,
                    steps=second.steps,
                    requests=second.requests,
                    errors=second.errors,
                    p50_ms=figures.p50_ms,
                    p99_ms=figures.p99_ms,
                    max_ms=figures.max_ms,
                    sessions=second.sessions.total(),
                    offered_per_second=float(second.offered) if is_open else None,
                )
            )
        return tuple(found)

    def busiest_cpu_share(self) -> float:
        """Of one core, by the process that computed most in the measured time."""
        shares = [self._cpu_s[part] / wall_s for part, wall_s in self._wall_s.items() if wall_s > 0]
        return round(max(shares, default=0.0), 3)

    def loop_lag_p99_ms(self) -> float:
        """How late the event loop was, in the worst process."""
        return max((sample.at_ms(99) or 0.0 for sample in self._lags.values()), default=0.0)


def _sum(one: KindCounts, other: KindCounts) -> KindCounts:
    return KindCounts(
        requests=one.requests + other.requests,
        steps=one.steps + other.steps,
        failed=one.failed + other.failed,
        latency=Sample.merged([one.latency, other.latency]),
        service=Sample.merged([one.service, other.service]),
    )


def _latencies(samples: list[Sample]) -> Latencies:
    latencies = Latencies()
    for sample in samples:
        latencies.add(sample)
    return latencies


def _later(one: float | None, other: float | None) -> float | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds > 0 else 0.0
