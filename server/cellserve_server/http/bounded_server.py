"""A WSGI server for small pages: its connections are few, and none of them lasts long, whatever comes on it."""

from __future__ import annotations

import io
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

import structlog
from prometheus_client.exposition import ThreadingWSGIServer

# Each has a thread while it lasts. More are closed as they come, which a scraper tries again.
MAX_CONNECTIONS = 64
# For the whole request, so that a byte now and then does not hold a connection open; and for the whole answer.
REQUEST_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0


class BoundedServer(ThreadingWSGIServer):
    """Answers each connection in a thread, and at most ``MAX_CONNECTIONS`` at once."""

    # As many may wait to be looked at: a handshake that finds no place takes a second.
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, *arguments: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins to answer a connection, or closes it."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # There is no thread for it.
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs a bug; a caller who goes, or is too slow, is none."""
        error = sys.exception()
        if not isinstance(error, OSError):  # It was reset, or its time is over.
            structlog.get_logger("cellserve.http").error("http_failed", exc_info=error)


class BoundedHandler(WSGIRequestHandler):
    """Reads a request for at most ``request_timeout_s``; writes no line to stderr for each."""

    request_timeout_s = REQUEST_TIMEOUT_S

    def setup(self) -> None:
        """Begins to count the time."""
        super().setup()
        self.rfile = io.BufferedReader(_TimedReader(self.connection, self.request_timeout_s, self._on_read))

    def _on_read(self) -> None:
        # What is written may take its own time; a timeout is for all of one write.
        self.connection.settimeout(ANSWER_TIMEOUT_S)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class _TimedReader(io.RawIOBase):
    """Reads from a connection until a time is over, however many pieces there come."""

    def __init__(self, connection: socket.socket, timeout_s: float, on_read: Callable[[], None]) -> None:
        self._connection = connection
        self._over_at = time.monotonic() + timeout_s
        self._on_read = on_read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._over_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left_s)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._on_read()
