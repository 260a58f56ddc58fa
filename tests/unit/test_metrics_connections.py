"""Connections to the metrics page that ask nothing: they are few, they end, and nobody hears of them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from cellserve_server.http import bounded_server as module
from cellserve_server.http.metrics_page import MetricsPage

HOST = "127.0.0.1"
TIMEOUT_S = 20.0
REQUEST = b"GET /metrics HTTP/1.0\r\n\r\n"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsPage]:
    """A page for two at once."""
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    page = MetricsPage(CollectorRegistry(), HOST, 0)
    yield page
    page.close()


def connect(page: MetricsPage) -> socket.socket:
    return socket.create_connection((HOST, page.port), TIMEOUT_S)


def answer(page: MetricsPage) -> bytes:
    """What it answers; empty: it closes the connection."""
    with connect(page) as connection:
        try:
            connection.sendall(REQUEST)
            return connection.recv(100)
        except ConnectionError:
            return b""


def until_answered(page: MetricsPage) -> None:
    """Waits until there is room for a question: each of its own is closed at once while there is none."""
    for _ in range(10_000):
        if answer(page).startswith(b"HTTP/1.0 200"):
            return
    raise AssertionError("there never was room")


def reset(connection: socket.socket) -> None:
    """Ends it as a program that dies does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_connections_are_few_and_one_that_ends_makes_room(page: MetricsPage) -> None:
    with connect(page) as first, connect(page):
        assert answer(page) == b""
        first.close()
        until_answered(page)


def test_a_connection_that_asks_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, page: MetricsPage, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module.BoundedHandler, "request_timeout_s", 0.01)
    with connect(page) as idle:
        assert idle.recv(1) == b""
    until_answered(page)
    assert capfd.readouterr() == ("", "")


def test_a_connection_that_is_lost_is_not_spoken_of(page: MetricsPage, capfd: pytest.CaptureFixture[str]) -> None:
    idle = connect(page)
    reset(connect(page))
    until_answered(page)  # In the place of the one that was lost.
    idle.close()
    assert capfd.readouterr() == ("", "")
