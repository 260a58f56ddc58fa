"""A gauge of counts that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class CountsByLabel(Collector):
    """A gauge with one label whose values are asked for when they are wanted."""

    def __init__(self, name: str, documentation: str, label: str, count: Callable[[], Mapping[str, int]]) -> None:
        self._name, self._documentation, self._label, self._count = name, documentation, label, count

    def collect(self) -> list[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, number in self._count().items():
            family.add_metric([value], number)
        return [family]
