"""Metrics of the server as a whole: what it is, whether it serves, its limits, its models, its event loop."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge

from cellserve_server.config import ServerConfig
from cellserve_server.metrics.counts import CountsByLabel
from cellserve_server.metrics.loop_lag import LoopLag

# Settings that are shown beside what runs into them.
LIMITS = (
    "max_concurrent_rpcs",
    "max_queued_runs",
    "max_queued_bytes",
    "max_tick_rows",
    "max_sessions",
    "max_state_bytes",
    "flush_interval_ms",
)


class ServerMetrics:
    """What is true of the whole server.

    Args:
        registry: where its metrics are shown.

    Attributes:
        loop_lag: how late the event loop is.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._serving = Gauge("cellserve_serving", "Whether its health says SERVING.", registry=registry)
        self._draining = Gauge("cellserve_draining", "Whether it stops, and finishes what runs.", registry=registry)
        self._tasks = Gauge("cellserve_tasks", "Tasks of the event loop.", registry=registry)
        self.loop_lag = LoopLag(registry)

    def declare(self, config: ServerConfig, *, store: str, durability: str) -> None:
        """Says what does not change while it runs. Once only.

        Args:
            config: the settings.
            store: the kind of it.
            durability: what becomes of sessions when the server ends: ``memory``, ``sync`` or ``async``.
        """
        build = {"version": version("cellserve-server"), "python": platform.python_version()}
        build |= {"grpc": version("grpcio"), "numpy": version("numpy")}
        info = Gauge("cellserve_build_info", "What is running.", tuple(build), registry=self._registry)
        info.labels(**build).set(1)
        kept = Gauge(
            "cellserve_store_info", "Where sessions are kept.", ("store", "durability"), registry=self._registry
        )
        kept.labels(store, durability).set(1)
        limit = Gauge(
            "cellserve_limit", "The settings that what is measured here runs into.", ("limit",), registry=self._registry
        )
        for name in LIMITS:
            limit.labels(name).set(getattr(config, name))

    def watch(
        self,
        *,
        serving: Callable[[], bool],
        draining: Callable[[], bool],
        models: Callable[[], Mapping[str, int]],
        tasks: Callable[[], int],
    ) -> None:
        """Says where gauges get their values from. Called by another thread. Once only."""
        self._serving.set_function(serving)
        self._draining.set_function(draining)
        self._tasks.set_function(tasks)
        self._registry.register(CountsByLabel("cellserve_models", "Models, by state.", "state", models))
