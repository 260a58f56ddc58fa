"""The page that Prometheus scrapes, ``/metrics``, and the inspector's: over HTTP, answered by threads of their own."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable
from wsgiref.simple_server import WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from cellserve_server.binding import is_loopback
from cellserve_server.http.bounded_server import BoundedHandler, BoundedServer
from cellserve_server.http.door import Door

# How often the thread looks whether it is to end. It is woken when it is, so this is only what an idle server costs;
# prometheus_client's own way of starting a page looks twice a second.
POLL_S = 3600.0
WAKE_TIMEOUT_S = 1.0
_NO_VERSION = re.compile(r"version=(?!\d{1,3}(\.\d{1,3})*\s*(?:[;,]|$))", re.ASCII)


class MetricsPage:
    """Serves a registry's metrics until it is closed.

    Args:
        registry: what to show.
        host: the address to listen on.
        port: the TCP port; 0 picks a free one.
        inspector: answers what is below ``/inspector``; None: nobody does.
        door: who is let in; None: everybody. Who is on this machine reads the metrics in any case, if nobody else
            reaches them: they name neither sessions nor tenants.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        inspector: WSGIApplication | None = None,
        door: Door | None = None,
    ) -> None:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # The address family is an attribute of socketserver's classes.
        of_family: type[WSGIServer] = type("MetricsServer", (BoundedServer,), {"address_family": family})
        metrics = _understood(make_wsgi_app(registry))
        if door is not None and not is_loopback(host):
            metrics = door.before(metrics)
        if door is not None and inspector is not None:
            inspector = door.before(inspector)
        pages = metrics if inspector is None else _side_by_side(metrics, inspector)
        self._server: WSGIServer = make_server(host, port, pages, of_family, BoundedHandler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="cellserve-metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stops listening; waits for the page that is being written."""
        stopping = threading.Thread(target=self._server.shutdown, name="cellserve-metrics-stop")
        stopping.start()
        while stopping.is_alive():
            self._wake()
            stopping.join(WAKE_TIMEOUT_S)
        self._server.server_close()
        self._thread.join()

    def _wake(self) -> None:
        """Has the thread look: a connection that says nothing ends its wait."""
        host, port = self._server.socket.getsockname()[:2]
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        try:
            socket.create_connection((loopback, port), WAKE_TIMEOUT_S).close()
        except OSError:
            return  # It has stopped listening, which is what was wanted; else it is woken again.


def _side_by_side(metrics: WSGIApplication, inspector: WSGIApplication) -> WSGIApplication:
    def pages(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        page = metrics if environ.get("PATH_INFO") == "/metrics" else inspector
        return page(environ, start_response)

    return pages


def _understood(metrics: WSGIApplication) -> WSGIApplication:
    """Has a caller who asks for a version that is none have the usual one: prometheus_client would raise over it."""

    def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if _NO_VERSION.search(environ.get("HTTP_ACCEPT", "")):
            del environ["HTTP_ACCEPT"]
        return metrics(environ, start_response)

    return page
