"""All metrics of a server, on a registry of their own: two servers in one process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector

from cellserve_server.metrics.engine import EngineMetrics
from cellserve_server.metrics.rpcs import RpcMetrics
from cellserve_server.metrics.server import ServerMetrics
from cellserve_server.metrics.sessions import SessionMetrics
from cellserve_server.metrics.stores import StoreMetrics
from cellserve_server.metrics.tallies import Teller


class Metrics:
    """The server's metrics. Told from the event loop; read by the thread of the metrics page.

    Attributes:
        registry: what the page shows.
        teller: has the counters told; to be asked before what is asked of the registry is a part.
        rpcs, engine, sessions, stores, server: the metrics by subject.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.teller = teller = Teller()
        self.registry.register(teller)  # The first that is asked.
        self.rpcs = RpcMetrics(self.registry, teller)
        self.engine = EngineMetrics(self.registry, teller)
        self.sessions = SessionMetrics(self.registry)
        self.stores = StoreMetrics(self.registry)
        self.server = ServerMetrics(self.registry)
        ProcessCollector(registry=self.registry)
