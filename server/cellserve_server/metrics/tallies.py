"""Counters for the hot path: counted in plain numbers, which Prometheus reads when it asks.

A Prometheus counter takes a lock at each increment, a histogram walks its buckets at each observation; together that
was a tenth of a lone step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Tally:
    """A count that one thread adds to, and that others may read."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0  # only ever grows


class TalliedCounter(Collector):
    """A counter whose children are plain numbers.

    Args:
        name: as Prometheus shows it, but for ``_total``.
        documentation: as Prometheus shows it.
        labels: their names.
        registry: where it registers.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._children: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """The count with these values of the labels."""
        children = self._children
        return children.get(values) or children.setdefault(values, Tally())

    def describe(self) -> Iterable[Metric]:
        """Its name, so that a registry knows of it."""
        return [CounterMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """As ``Collector.collect``."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            family.add_metric(values, child.count)
        return [family]


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
