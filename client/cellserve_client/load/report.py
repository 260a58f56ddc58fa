"""What a load test gave."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hdrh.histogram import HdrHistogram

from cellserve.errors import CellServeError

LOWEST_US = 1
HIGHEST_US = 3_600_000_000
# A test passes with so many failures among its steps, and with a server that answered as late as this before the end.
MAX_FAILED_SHARE = 0.01
LOST_AFTER_S = 2.0
SIGNIFICANT_DIGITS = 3


class Recorder:
    """Counts steps, latencies and errors while a test is under way.

    Attributes:
        steps: answered in the measured time.
        failed_steps: that were not answered, or could not be sent for want of a session, in the measured time.
        last_answer: when the last step was answered, in the clock's seconds; None: none was, warm-up included.
        errors: failures by reason, warm-up and the closing of sessions included.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.failed_steps = 0
        self.last_answer: float | None = None
        self.errors: Counter[str] = Counter()
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)

    def step(self, latency_s: float) -> None:
        """Notes a step that was answered."""
        self.steps += 1
        self._histogram.record_value(min(max(round(latency_s * 1e6), LOWEST_US), HIGHEST_US))

    def error(self, error: CellServeError) -> None:
        """Notes a failure under its reason, or its status code when it has none."""
        self.errors[error.reason or error.code.name] += 1

    def latency_ms(self, percentile: float) -> float | None:
        """A percentile of the latencies, in milliseconds; None without any."""
        return self._histogram.get_value_at_percentile(percentile) / 1e3 if self.steps else None

    def max_ms(self) -> float | None:
        """The longest latency, in milliseconds; None without any."""
        return self._histogram.get_max_value() / 1e3 if self.steps else None


@dataclass(frozen=True)
class LoadReport:
    """The result of a load test.

    Attributes:
        address: the server.
        model: ``models/{model}/versions/{version}``.
        sessions: how many were stepped at once.
        seconds: the measured time, without the warm-up.
        steps: answered in that time.
        failed_steps: that were not answered in that time, or had no session to be sent to.
        server_lost: whether steps were answered at first, and none in the last two seconds.
        steps_per_second: their quotient.
        p50_ms, p99_ms, p999_ms, max_ms: of the steps' latencies, to three digits; None without steps.
        errors: failures by reason.
    """

    address: str
    model: str
    sessions: int
    seconds: float
    steps: int
    failed_steps: int
    server_lost: bool
    steps_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    errors: dict[str, int]

    @property
    def failure(self) -> str | None:
        """Why the test counts as failed, in words; None when it passed."""
        if self.server_lost:
            return f"the server was lost: no step was answered in the last {LOST_AFTER_S:g} s"
        if self.steps == 0:
            return "no step was answered"
        share = self.failed_steps / (self.steps + self.failed_steps)
        if share > MAX_FAILED_SHARE:
            return f"{share:.1%} of the steps failed, more than {MAX_FAILED_SHARE:.0%}"
        return None

    def document(self) -> dict[str, Any]:
        """For programs: all attributes by name, and ``failure``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"failure": self.failure}


def report_of(
    address: str, model: str, sessions: int, seconds: float, recorder: Recorder, planned_end: float
) -> LoadReport:
    """Sums up a test that took so many measured seconds and was to end at this time of the clock."""
    last_answer = recorder.last_answer
    return LoadReport(
        address=address,
        model=model,
        sessions=sessions,
        seconds=round(seconds, 3),
        steps=recorder.steps,
        failed_steps=recorder.failed_steps,
        server_lost=last_answer is not None and planned_end - last_answer > LOST_AFTER_S,
        steps_per_second=round(recorder.steps / seconds, 1) if seconds > 0 else 0.0,
        p50_ms=recorder.latency_ms(50),
        p99_ms=recorder.latency_ms(99),
        p999_ms=recorder.latency_ms(99.9),
        max_ms=recorder.max_ms(),
        errors=dict(sorted(recorder.errors.items())),
    )
