"""The server of small pages: few connections at once, and none for long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from structlog.testing import capture_logs

from cellserve_server.http.bounded_server import MAX_CONNECTIONS, BoundedHandler, BoundedServer

PATIENCE_S = 20.0


class HastyHandler(BoundedHandler):
    """Waits for a request no longer than a test may."""

    request_timeout_s = 0.2


class Pages:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked = threading.Semaphore(0)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.asked.release()
        assert self.may_answer.wait(PATIENCE_S)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def server(pages: Pages) -> Iterator[BoundedServer]:
    made = make_server("127.0.0.1", 0, pages, BoundedServer, HastyHandler)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    pages.may_answer.set()
    made.shutdown()
    thread.join()
    made.server_close()


def connect(server: BoundedServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), PATIENCE_S)


def read_to_end(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    heard = bytearray()
    while piece := connection.recv(4096):
        heard += piece
    return bytes(heard)


def test_a_request_is_waited_for_only_so_long(server: BoundedServer) -> None:
    with connect(server) as silent, connect(server) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert read_to_end(silent) == b""
        assert read_to_end(slow) == b""


def drip_until_closed(connection: socket.socket) -> None:
    """Sends a byte now and then for as long as the server listens."""
    connection.settimeout(HastyHandler.request_timeout_s / 4)
    while True:
        try:
            connection.sendall(b"x")
            if not connection.recv(1):
                return
        except TimeoutError:
            continue
        except ConnectionError:
            return


def test_a_byte_now_and_then_does_not_keep_a_connection(server: BoundedServer) -> None:
    with connect(server) as slow:
        drip_until_closed(slow)
    with connect(server) as next_one:
        assert read_to_end(next_one) == b""


def test_more_connections_than_there_may_be_are_closed(server: BoundedServer, pages: Pages) -> None:
    with ExitStack() as stack:
        taken = [stack.enter_context(connect(server)) for _ in range(MAX_CONNECTIONS)]
        for connection in taken:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        for _ in taken:
            assert pages.asked.acquire(timeout=PATIENCE_S)
        with connect(server) as beyond:
            assert read_to_end(beyond) == b""
        pages.may_answer.set()
        for connection in taken:
            assert read_to_end(connection).endswith(b"page")
    with connect(server) as again:
        again.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert read_to_end(again).endswith(b"page")


def test_who_goes_is_no_error(server: BoundedServer) -> None:
    with capture_logs() as logs:
        connect(server).close()
        with connect(server) as silent:
            assert read_to_end(silent) == b""
    assert logs == []
