"""Plain TCP to a port of this machine, by callers whom nothing surprises that the server does with them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import NamedTuple

TIMEOUT_S = 5.0
PATIENCE_S = 0.2
MOST_READ_BYTES = 1 << 20


class Port(NamedTuple):
    """An address of this machine."""

    host: str
    number: int

    @classmethod
    def of(cls, address: str) -> Port:
        """Of ``host:port``."""
        host, _, number = address.rpartition(":")
        return cls(host, int(number))


@contextlib.contextmanager
def connected(port: Port) -> Iterator[socket.socket]:
    """A connection."""
    with socket.create_connection(port, TIMEOUT_S) as connection:
        yield connection


@contextlib.contextmanager
def many_connected(port: Port, count: int) -> Iterator[list[socket.socket]]:
    """So many connections at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connected(port)) for _ in range(count)]


def say(connection: socket.socket, data: bytes) -> bool:
    """Sends what the server takes of some bytes; whether it took all."""
    try:
        connection.sendall(data)
    except OSError:  # It has closed the connection, or reads no more of it.
        return False
    return True


def hear(connection: socket.socket, patience_s: float = PATIENCE_S) -> bytes:
    """What comes, until nothing does for a while, or the server ends the connection."""
    connection.settimeout(patience_s)
    heard = bytearray()
    try:
        while len(heard) < MOST_READ_BYTES and (piece := connection.recv(65_536)):
            heard += piece
    except OSError:
        return bytes(heard)
    finally:
        with contextlib.suppress(OSError):
            connection.settimeout(TIMEOUT_S)
    return bytes(heard)
