"""What one process of a load test counts, interval by interval."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cellserve.errors import CellServeError
from cellserve_client.load.clock import LoadClock
from cellserve_client.load.latencies import Sample

# Two make a second of the timeline.
INTERVAL_S = 0.5


@dataclass(frozen=True)
class KindCounts:
    """The measured requests of one kind that ended within one interval.

    Attributes:
        requests, steps: answered.
        failed: requests that were not.
        latency: from when they were due.
        service: from when they were sent.
    """

    requests: int
    steps: int
    failed: int
    latency: Sample
    service: Sample


@dataclass(frozen=True)
class Interval:
    """What happened in one process within one interval.

    Attributes:
        number: from 0, the first after the measuring began; negative in the warm-up.
        kinds: by the kind of requests, as far as there were any.
        errors: failures by reason, measured or not.
        offered: measured requests that were due.
        all_steps: that were answered, measured or not.
        opened: sessions.
        sessions: open at the end.
        wall_s, cpu_s: how long it really was, and what the process computed meanwhile.
        lags: how late the event loop was.
        last_answer, last_failure: in the clock's seconds; None: there was none.
        last_measured: when the last measured request was answered; None: none was.
    """

    number: int
    kinds: dict[str, KindCounts]
    errors: Counter[str]
    offered: int
    all_steps: int
    opened: int
    sessions: int
    wall_s: float
    cpu_s: float
    lags: Sample
    last_answer: float | None
    last_failure: float | None
    last_measured: float | None


@dataclass
class _Kind:
    requests: int = 0
    steps: int = 0
    failed: int = 0
    latencies_s: list[float] = field(default_factory=list)
    services_s: list[float] = field(default_factory=list)

    def counts(self) -> KindCounts:
        return KindCounts(
            self.requests, self.steps, self.failed, Sample.of(self.latencies_s), Sample.of(self.services_s)
        )


class Recorder:
    """Counts, until ``take`` asks for what there is. Times are in seconds of one clock.

    Args:
        clock: of the test; requests that are due from its ``measure_from`` on are measured.
        is_open: whether they are due by a schedule; otherwise each is due when it is sent.

    Attributes:
        sessions: that are open now.
    """

    def __init__(self, clock: LoadClock, is_open: bool) -> None:
        self.sessions = 0
        self._clock = clock
        self._is_open = is_open
        self._taken_at: float | None = None
        self._taken_cpu_s = 0.0
        self._begin()

    def _begin(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._errors: Counter[str] = Counter()
        self._offered = 0
        self._all_steps = 0
        self._opened = 0
        self._lags_s: list[float] = []
        self._last_answer: float | None = None
        self._last_failure: float | None = None
        self._last_measured: float | None = None

    def offered(self, due: float) -> None:
        """A request is due."""
        if due >= self._clock.measure_from:
            self._offered += 1

    def answered(self, kind: str, steps: int, due: float, sent: float, at: float) -> None:
        """A request of so many steps was answered."""
        self._all_steps += steps
        self._last_answer = at
        if due >= self._clock.measure_from:
            counts = self._kinds.get(kind)
            if counts is None:
                counts = self._kinds[kind] = _Kind()
            counts.requests += 1
            counts.steps += steps
            counts.latencies_s.append(at - due)
            if self._is_open:
                counts.services_s.append(at - sent)
            self._last_measured = at

    def failed(self, kind: str, reason: str, due: float, at: float, steps_applied: int = 0) -> None:
        """A request failed, or was not sent; of a long one some steps may have been applied before."""
        self._errors[reason] += 1
        self._last_failure = at
        self._all_steps += steps_applied
        if due >= self._clock.measure_from:
            self._kinds.setdefault(kind, _Kind()).failed += 1

    def not_opened(self, kind: str, reason: str, at: float) -> None:
        """A session could not be opened.

        In a closed loop its request cannot be sent; in an open one another session may send it, and it is counted then.
        """
        if not self._is_open:
            self.failed(kind, reason, at, at)
            return
        self._errors[reason] += 1
        self._last_failure = at

    def trouble(self, error: CellServeError, at: float) -> None:
        """The end of a session failed."""
        self._errors[reason_of(error)] += 1
        self._last_failure = at

    def opened(self) -> None:
        """A session was opened."""
        self._opened += 1
        self.sessions += 1

    def closed(self) -> None:
        """A session is no longer used."""
        self.sessions -= 1

    def lag(self, seconds: float) -> None:
        """The event loop came so late to what was due."""
        self._lags_s.append(seconds)

    def take(self, number: int, now: float, cpu_s: float) -> Interval:
        """What was counted since the last call.

        Args:
            number: of the interval that ends.
            now: the clock.
            cpu_s: what this process has computed in its life.
        """
        since = now if self._taken_at is None else self._taken_at
        interval = Interval(
            number=number,
            kinds={kind: counts.counts() for kind, counts in self._kinds.items()},
            errors=self._errors,
            offered=self._offered,
            all_steps=self._all_steps,
            opened=self._opened,
            sessions=self.sessions,
            wall_s=now - since,
            cpu_s=cpu_s - self._taken_cpu_s if self._taken_at is not None else 0.0,
            lags=Sample.of(self._lags_s),
            last_answer=self._last_answer,
            last_failure=self._last_failure,
            last_measured=self._last_measured,
        )
        self._taken_at, self._taken_cpu_s = now, cpu_s
        self._begin()
        return interval


def reason_of(error: CellServeError) -> str:
    """An error's reason, or its status code when it has none."""
    return error.reason or error.code.name
