"""Everything that the server counts, by subject; docs/metrics.md has all of it in a table."""

from __future__ import annotations

from cellserve_server.metrics.engine import EngineMetrics
from cellserve_server.metrics.metrics import Metrics
from cellserve_server.metrics.rpcs import MethodMetrics, RpcMetrics
from cellserve_server.metrics.server import ServerMetrics
from cellserve_server.metrics.sessions import SessionMetrics
from cellserve_server.metrics.stores import StoreMetrics

__all__ = [
    "EngineMetrics",
    "MethodMetrics",
    "Metrics",
    "RpcMetrics",
    "ServerMetrics",
    "SessionMetrics",
    "StoreMetrics",
]
