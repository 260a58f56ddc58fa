"""What a burst of work measured, and what many of them say together. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

# How seldom the median may lie outside of its interval.
MOST_OUTSIDE = 0.05
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """One burst.

    Attributes:
        contestant: who worked: ``cellserve``, ``reference``, or what stands in the benchmark.
        seconds: how long was measured.
        steps: the steps (or echoes) answered in that time.
        client_cpu_s: processor time of all threads of the process that called.
        server_cpu_s: that of the server's; 0 where there is none.
        p50_s, p99_s: how long a call took.
    """

    contestant: str
    seconds: float
    steps: float
    client_cpu_s: float
    server_cpu_s: float
    p50_s: float
    p99_s: float

    @property
    def rate(self) -> float:
        """Steps a second."""
        return self.steps / self.seconds

    @property
    def client_cpu_us(self) -> float:
        """Microseconds of the caller's processor time a step."""
        return self.client_cpu_s / self.steps * 1e6

    @property
    def server_cpu_us(self) -> float:
        """Microseconds of the server's processor time a step."""
        return self.server_cpu_s / self.steps * 1e6

    def as_record(self, **where: float | str) -> dict[str, float | str]:
        """Everything, for the file of results; ``where`` says of which part of the benchmark it is."""
        return {**where, **asdict(self)}


Pair = tuple[Sample, ...]


def median_of(samples: Iterable[Sample], value: Callable[[Sample], float]) -> float:
    """The median of a value over samples."""
    return statistics.median(value(sample) for sample in samples)


def median_ratio(pairs: Sequence[Pair], value: Callable[[Sample], float], over: int = 0, under: int = 1) -> float:
    """The median over rounds of the ratio within each round: what slows a whole round down divides out.

    Args:
        pairs: the rounds, one sample for each contestant.
        value: what is compared.
        over, under: the places of the contestants that stand above and below the line.
    """
    return statistics.median(value(pair[over]) / value(pair[under]) for pair in pairs)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval that holds the median with a confidence of at least 95 %, whatever the values' distribution.

    Between two of the ordered values, by the binomial distribution of how many lie below the median; of fewer than six
    values it is from the least to the greatest, with less confidence.
    """
    ordered, count = sorted(values), len(values)
    outside, place = 0.0, 0
    while place < count // 2:
        outside += 2 * math.comb(count, place) / 2**count
        if outside > MOST_OUTSIDE:
            break
        place += 1
    place = max(place - 1, 0)
    return ordered[place], ordered[count - 1 - place]


def compare(pairs: Sequence[Pair]) -> dict[str, float]:
    """Ours (at place 0) against the reference (at place 1).

    Returns:
        ``ratio`` of the rates and the CPU ratios, both higher is better; ``ratio_p50`` and ``ratio_p99`` of the times,
        lower is better; and the absolutes beside them.
    """
    ours, reference = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = {
        "ratio": median_ratio(pairs, lambda sample: sample.rate),
        "client_cpu_ratio": median_ratio(pairs, lambda sample: sample.client_cpu_us, over=1, under=0),
        "ratio_p50": median_ratio(pairs, lambda sample: sample.p50_s),
        "ratio_p99": median_ratio(pairs, lambda sample: sample.p99_s),
    }
    if all(sample.server_cpu_s for sample in reference):
        found["server_cpu_ratio"] = median_ratio(pairs, lambda sample: sample.server_cpu_us, over=1, under=0)
    return found | absolutes(ours) | {f"reference_{key}": value for key, value in absolutes(reference).items()}


def absolutes(samples: Sequence[Sample]) -> dict[str, float]:
    """Medians of the rate (steps a second), the CPU microseconds a step, and the milliseconds of a call."""
    return {
        "rate": median_of(samples, lambda sample: sample.rate),
        "client_cpu_us": median_of(samples, lambda sample: sample.client_cpu_us),
        "server_cpu_us": median_of(samples, lambda sample: sample.server_cpu_us),
        "p50_ms": median_of(samples, lambda sample: sample.p50_s * 1e3),
        "p99_ms": median_of(samples, lambda sample: sample.p99_s * 1e3),
    }


def percentiles(durations: Times) -> tuple[float, float]:
    """The 50th and the 99th percentile; NaN where there is nothing."""
    if not len(durations):
        return float("nan"), float("nan")
    p50, p99 = np.percentile(durations, (50, 99))
    return float(p50), float(p99)


def durations_within(answers: Sequence[Times], start: float, stop: float) -> tuple[int, Times]:
    """How many answers fell into a window, and how long those calls took.

    Args:
        answers: for each caller, when it began and when its answers came; it calls again at once, so that the time of
            a call is the time since the answer before.
    """
    count, found = 0, [np.empty(0)]
    for times in answers:
        first, last = np.searchsorted(times, (start, stop))
        first = max(int(first), 1)
        count += max(int(last) - first, 0)
        found.append(np.diff(times[first - 1 : int(last)]))
    return count, np.concatenate(found)


def rate_between(answers: Sequence[Times], start: float, stop: float) -> float:
    """Calls a second of all callers together, each counted between its first and its last answer in a window.

    For calls that take a good part of the window: counting answers would be wrong by up to one for each caller.
    Callers with fewer than two answers there count as 0.
    """
    rate = 0.0
    for times in answers:
        inside = times[(times >= start) & (times <= stop)]
        if len(inside) > 1:
            rate += (len(inside) - 1) / float(inside[-1] - inside[0])
    return rate
