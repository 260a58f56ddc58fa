"""Metrics of RPCs, with the names and labels of go-grpc-prometheus, which dashboards know."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from cellserve_server.metrics.tallies import TalliedCounter, TalliedHistogram, Tally

RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")
RPC_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RpcMetrics:
    """Counts RPCs and their messages.

    Args:
        registry: where its metrics are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.started = TalliedCounter("grpc_server_started", "RPCs begun.", RPC_LABELS, registry)
        self.handled = TalliedCounter(
            "grpc_server_handled", "RPCs ended, by code.", (*RPC_LABELS, "grpc_code"), registry
        )
        self.received = TalliedCounter("grpc_server_msg_received", "Messages received.", RPC_LABELS, registry)
        self.sent = TalliedCounter("grpc_server_msg_sent", "Messages sent.", RPC_LABELS, registry)
        self.seconds = TalliedHistogram(
            "grpc_server_handling_seconds", "Time from an RPC's begin to its end.", RPC_LABELS, RPC_SECONDS, registry
        )
        self._under_way = Gauge("cellserve_rpcs", "RPCs of CellServe's services under way.", registry=registry)
        self._waiting = Gauge(
            "cellserve_rpcs_waiting",
            "Unary RPCs that wait while their tenant's others are worked on: other tenants use the server too.",
            registry=registry,
        )
        self._streams = Gauge("cellserve_streams", "Open streams.", registry=registry)

    def watch(self, *, rpcs: Callable[[], int], waiting: Callable[[], int], streams: Callable[[], int]) -> None:
        """Says where gauges get their values from. Called by another thread: the functions read one number each."""
        self._under_way.set_function(rpcs)
        self._waiting.set_function(waiting)
        self._streams.set_function(streams)


class MethodMetrics:
    """One RPC method's children: looking labels up costs more than counting."""

    def __init__(self, metrics: RpcMetrics, grpc_type: str, service: str, method: str) -> None:
        labels = (grpc_type, service, method)
        self.started = metrics.started.labels(*labels)
        self.received = metrics.received.labels(*labels)
        self.sent = metrics.sent.labels(*labels)
        self.seconds = metrics.seconds.labels(*labels)
        self._labels = labels
        self._metrics = metrics
        self._by_code: dict[str, Tally] = {}

    def handled(self, code: str, seconds: float) -> None:
        """An RPC ended with this code, so long after it began."""
        child = self._by_code.get(code)
        if child is None:
            child = self._by_code[code] = self._metrics.handled.labels(*self._labels, code)
        child.count += 1
        self.seconds.observe(seconds)
