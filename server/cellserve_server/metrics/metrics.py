"""All metrics of a server, on a registry of their own: two servers in one process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector

from cellserve_server.metrics.engine import EngineMetrics
from cellserve_server.metrics.rpcs import RpcMetrics
from cellserve_server.metrics.server import ServerMetrics
from cellserve_server.metrics.sessions import SessionMetrics
from cellserve_server.metrics.stores import StoreMetrics


class Metrics:
    """The server's metrics. Told from the event loop; read by the thread of the metrics page.

    Attributes:
        registry: what the page shows.
        rpcs, engine, sessions, stores, server: the metrics by subject.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rpcs = RpcMetrics(self.registry)
        self.engine = EngineMetrics(self.registry)
        self.sessions = SessionMetrics(self.registry)
        self.stores = StoreMetrics(self.registry)
        self.server = ServerMetrics(self.registry)
        ProcessCollector(registry=self.registry)
