"""Curves: what the documents of load tests have of values over time or by percentile, with an x of its own each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, log10

import numpy as np

from cellserve_client.load.document import Latency, LoadDocument, Second

# Latencies that differ by more than this, the greatest to the least, are drawn over a logarithmic axis.
MAX_LINEAR_RATIO = 20.0
# A last second that is shorter than this says nothing of a rate.
MIN_SECOND_S = 0.2
DIGITS = 6

Values = Sequence[float | None]


@dataclass(frozen=True)
class Curve:
    """A line with an x of its own: as long as ``values``."""

    label: str
    x: Sequence[float]
    values: Values


def seconds(document: LoadDocument) -> list[float]:
    """The x of what is told second by second."""
    return [float(second.second) for second in document.timeline]


def rates(document: LoadDocument, count: Callable[[Second], int]) -> list[float | None]:
    """Counts as counts a second: the last second of a test may be a part of one."""
    lengths = [_length_s(document, second) for second in document.timeline]
    return [
        count(second) / length if length >= MIN_SECOND_S else None
        for second, length in zip(document.timeline, lengths, strict=True)
    ]


def due(document: LoadDocument) -> list[float | None]:
    """The requests that were due a second, second by second."""
    return [
        second.offered_per_second if _length_s(document, second) >= MIN_SECOND_S else None
        for second in document.timeline
    ]


def _length_s(document: LoadDocument, second: Second) -> float:
    return min(1.0, document.seconds - second.second)


def resampled(x: Sequence[float], curve: Curve) -> tuple[float | None, ...]:
    """A curve's values at other x: on the straight way between neighbours; None outside, and where it has a gap."""
    if not curve.x:
        return (None,) * len(x)
    known = np.array([np.nan if value is None else value for value in curve.values], np.float64)
    return tuple(map(_clean, np.interp(x, curve.x, known, left=np.nan, right=np.nan)))


def _clean(value: float) -> float | None:
    """To six digits: JSON has no more to say, and knows neither NaN nor infinity."""
    return float(f"{value:.{DIGITS}g}") if isfinite(value) else None


def percentile_curve(label: str, points: Sequence[tuple[float, float, int]], summary: Latency) -> Curve:
    """Latencies by percentile, x as in ``Chart``. It ends where one request is left: no sample says what is beyond.

    Args:
        points: a document's ``percentiles``.
        summary: of the same requests; the points may lie beside the percentiles that people look for.
    """
    total = max((count for _, _, count in points), default=0)
    known = {50: summary.p50, 90: summary.p90, 99: summary.p99, 99.9: summary.p999, 99.99: summary.p9999}
    values: dict[float, float | None] = {}
    for percentile, milliseconds in [*((level, value) for level, value, _ in points), *known.items()]:
        if total and milliseconds is not None:
            share_above = max(1 - percentile / 100, 1 / total)
            values[round(log10(1 / share_above), DIGITS)] = milliseconds
    return Curve(label, sorted(values), [values[x] for x in sorted(values)])


def spread(curves: Sequence[Curve]) -> bool:
    """Whether the values need a logarithmic axis."""
    positive = [value for curve in curves for value in curve.values if value is not None and value > 0]
    return bool(positive) and max(positive) / min(positive) > MAX_LINEAR_RATIO
