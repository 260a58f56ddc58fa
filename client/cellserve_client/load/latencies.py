"""Latencies in HDR histograms: microseconds, to three digits, of a microsecond to an hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from hdrh.histogram import HdrHistogram

from cellserve.tensors import Array
from cellserve_client.load.document import Latency

LOWEST_US = 1
HIGHEST_US = 3_600_000_000
SIGNIFICANT_DIGITS = 3
# What such a histogram keeps of a number: its eleven highest bits.
KEPT_BITS = 11
# Points of the chart by percentile: so many for each halving of the distance to 100 %.
POINTS_PER_HALVING = 5


@dataclass(frozen=True)
class Sample:
    """Latencies counted by value, as a histogram has them; cheap to make of thousands, to send, and to merge.

    Attributes:
        values_us: int64, ascending, each once: the lowest microseconds that a histogram does not tell from it.
        counts: int64, how often.
    """

    values_us: Array
    counts: Array

    @classmethod
    def of(cls, latencies_s: Sequence[float]) -> Sample:
        """Counts latencies in seconds."""
        raw = np.rint(np.asarray(latencies_s, np.float64) * 1e6)
        values = np.clip(raw, LOWEST_US, HIGHEST_US).astype(np.int64)
        # Up to 2^53 a float's exponent is the number of bits.
        shifts = np.maximum(np.frexp(values)[1] - KEPT_BITS, 0)
        return cls(*np.unique(values >> shifts << shifts, return_counts=True))

    @classmethod
    def merged(cls, samples: Sequence[Sample]) -> Sample:
        """All of them together."""
        if not samples:
            return cls.of(())
        values, places = np.unique(np.concatenate([sample.values_us for sample in samples]), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, places, np.concatenate([sample.counts for sample in samples]))
        return cls(values, counts)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.counts.sum())

    def at_ms(self, percentile: float) -> float | None:
        """The latency below which so many per cent are, in milliseconds; None without any."""
        if not self.count:
            return None
        place = np.searchsorted(np.cumsum(self.counts), max(percentile / 100 * self.count, 1))
        return float(self.values_us[min(int(place), len(self.values_us) - 1)]) / 1e3


class Latencies:
    """So many latencies, of which percentiles can be told."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)

    @property
    def count(self) -> int:
        """How many there are."""
        return cast(int, self._histogram.get_total_count())

    def add(self, sample: Sample) -> None:
        """Notes all of a sample."""
        for value, count in zip(sample.values_us.tolist(), sample.counts.tolist(), strict=True):
            self._histogram.record_value(value, count)

    def encoded(self) -> str:
        """All of them as text: the base64 of HdrHistogram's V2 encoding."""
        return cast(bytes, self._histogram.encode()).decode("ascii")

    def at_ms(self, percentile: float) -> float | None:
        """The latency below which so many per cent are, in milliseconds; None without any."""
        return self._histogram.get_value_at_percentile(percentile) / 1e3 if self.count else None

    def max_ms(self) -> float | None:
        """The longest, in milliseconds; None without any."""
        return self._histogram.get_max_value() / 1e3 if self.count else None

    def mean_ms(self) -> float | None:
        """The mean, in milliseconds; None without any."""
        return round(self._histogram.get_mean_value() / 1e3, 3) if self.count else None

    def summary(self) -> Latency:
        """The usual percentiles, all None without any."""
        if not self.count:
            return Latency(None, None, None, None, None, None, None, None)
        at = self._histogram.get_percentile_to_value_dict([50, 90, 99, 99.9, 99.99])
        return Latency(
            min=self._histogram.get_min_value() / 1e3,
            mean=self.mean_ms(),
            p50=at[50] / 1e3,
            p90=at[90] / 1e3,
            p99=at[99] / 1e3,
            p999=at[99.9] / 1e3,
            p9999=at[99.99] / 1e3,
            max=self.max_ms(),
        )

    def percentiles(self) -> tuple[tuple[float, float, int], ...]:
        """Percentile, milliseconds and the count up to there, from 0 to 100; empty without any."""
        return tuple(
            (point.percentile_level_iterated_to, point.value_iterated_to / 1e3, point.total_count_to_this_value)
            for point in self._histogram.get_percentile_iterator(POINTS_PER_HALVING)
        )
