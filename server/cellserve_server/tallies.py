"""Counters for the hot path: counted in plain numbers, and told to Prometheus when it asks.

A Prometheus counter takes a lock at each increment, a histogram walks its buckets at each observation; together that
was a tenth of a lone step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from prometheus_client import Counter, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

MOST_OBSERVATIONS = 1024


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


class Observations:
    """Observations that are kept for a histogram until somebody reads it, or they are many.

    Args:
        histogram: what it is told to.
    """

    __slots__ = ("_histogram", "_waiting")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._waiting: deque[float] = deque()  # Both ends of it may be used by different threads at once.

    def observe(self, value: float) -> None:
        """Notes a value."""
        self._waiting.append(value)
        if len(self._waiting) >= MOST_OBSERVATIONS:
            self.tell()

    def tell(self) -> None:
        """Tells the histogram what has come since the last time."""
        while self._waiting:
            try:
                value = self._waiting.popleft()
            except IndexError:
                return  # The other thread was quicker.
            self._histogram.observe(value)


class Teller(Collector):
    """Registered before the metrics themselves, it has tallies tell what they have when Prometheus asks."""

    def __init__(self) -> None:
        self._tallies: list[Tally | Observations] = []
        self._telling = threading.Lock()  # Two may ask at once.

    def counter(self, counter: Counter) -> Tally:
        """A tally for a counter."""
        tally = Tally(counter)
        self._tallies.append(tally)
        return tally

    def histogram(self, histogram: Histogram) -> Observations:
        """Observations for a histogram."""
        observations = Observations(histogram)
        self._tallies.append(observations)
        return observations

    def collect(self) -> Iterable[Metric]:
        """As ``Collector.collect``: nothing of its own."""
        with self._telling:
            for tally in list(self._tallies):
                tally.tell()
        return ()
