"""Metrics of the store."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

STORE_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
OPERATIONS = ("write", "claim", "create", "rewrite", "bury", "look")


class StoreMetrics:
    """Counts what the store does, and what it does not.

    Args:
        registry: where its metrics are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        seconds = Histogram(
            "cellserve_store_seconds",
            "What an operation of the store took.",
            ("operation",),
            registry=registry,
            buckets=STORE_SECONDS,
        )
        self._seconds = {operation: seconds.labels(operation) for operation in OPERATIONS}
        failures = Counter(
            "cellserve_store_failures", "Operations of the store that failed.", ("operation",), registry=registry
        )
        self._failures = {operation: failures.labels(operation) for operation in OPERATIONS}
        self._fenced = Counter(
            "cellserve_fenced_writes", "States that the store refused: another replica has them.", registry=registry
        )
        self._unwritten = Gauge(
            "cellserve_unwritten_seconds",
            "How long ago the oldest change was made that the store may not have, with durability async.",
            registry=registry,
        )

    def watch(self, *, unwritten_s: Callable[[], float]) -> None:
        """Says where a gauge gets its value from. Called by another thread."""
        self._unwritten.set_function(unwritten_s)

    def store_seconds(self, operation: str, seconds: float) -> None:
        """An operation of the store was done."""
        self._seconds[operation].observe(seconds)

    def store_failed(self, operation: str) -> None:
        """An operation of the store failed."""
        self._failures[operation].inc()

    def fenced(self, count: int) -> None:
        """The store refused states of so many sessions, which another replica has."""
        self._fenced.inc(count)
