"""Counters for the hot path: counted in plain numbers, and told to Prometheus when it asks.

A Prometheus counter takes a lock at each increment, a histogram walks its buckets at each observation; together that
was a tenth of a lone step.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Tally:
    """A counter that one thread counts with, and that one thread at a time reads.

    Args:
        counter: what it is told to.
    """

    __slots__ = ("_counter", "_told", "count")

    def __init__(self, counter: Counter) -> None:
        self.count = 0  # only ever grows, and only by the thread that counts
        self._told = 0  # changed only by the thread that reads
        self._counter = counter

    def tell(self) -> None:
        """Tells the counter what has come since the last time."""
        count = self.count
        if count != self._told:
            self._counter.inc(count - self._told)
            self._told = count


class Teller(Collector):
    """Registered before the metrics themselves, it has tallies tell what they have when Prometheus asks."""

    def __init__(self) -> None:
        self._tallies: list[Tally] = []
        self._telling = threading.Lock()  # Two may ask at once.

    def counter(self, counter: Counter) -> Tally:
        """A tally for a counter."""
        tally = Tally(counter)
        self._tallies.append(tally)
        return tally

    def collect(self) -> Iterable[Metric]:
        """As ``Collector.collect``: nothing of its own."""
        with self._telling:
            for tally in list(self._tallies):
                tally.tell()
        return ()


class Buckets:
    """What one thread has observed, by size. Another may read meanwhile: it may miss the last observation.

    Args:
        bounds: the buckets' upper ends, ascending; what is above the last one is counted too.

    Attributes:
        counts: of each bucket alone, one more than there are bounds.
        total: the sum of what was observed.
    """

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Notes a value, that was observed so many times at once."""
        self.counts[bisect_left(self._bounds, value)] += times
        self.total += value * times


class TalliedHistogram(Collector):
    """A histogram whose observations cost a binary search, and that takes many equal ones as one.

    Args:
        name, documentation: as Prometheus shows them.
        labels: their names.
        bounds: of the buckets, ascending, without infinity.
        registry: where it registers.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._bounds = tuple(bounds)
        self._ends = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._children: dict[tuple[str, ...], Buckets] = {}
        registry.register(self)

    def labels(self, *values: str) -> Buckets:
        """The observations with these values of the labels."""
        children = self._children
        return children.get(values) or children.setdefault(values, Buckets(self._bounds))

    def describe(self) -> Iterable[Metric]:
        """Its name, so that a registry knows of it."""
        return [HistogramMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """As ``Collector.collect``."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            counts = accumulate(list(child.counts))
            family.add_metric(values, list(zip(self._ends, counts, strict=True)), child.total)
        return [family]
