"""The page that Prometheus scrapes: ``/metrics`` over HTTP, answered by a thread of its own."""

from __future__ import annotations

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server


class MetricsPage:
    """Serves a registry's metrics until it is closed.

    Args:
        registry: what to show.
        host: the address to listen on.
        port: the TCP port; 0 picks a free one.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(port, host, registry)

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stops listening; waits for the page that is being written."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
