"""What ill-willed or broken clients do to the metrics page's port. Each gives how many connections it tried."""

from __future__ import annotations

import random

from tests.fuzz.http2_attacks import HELLO, Attack
from tests.fuzz.sockets import Port, connected, hear, many_connected, say

MIB = 1 << 20
# More than the server answers at once, and as many again.
MANY = 150


def random_bytes(port: Port, choices: random.Random) -> int:
    """Noise, and lines of noise."""
    for number in range(100):
        data = choices.randbytes(choices.randrange(1, 3000))
        with connected(port) as connection:
            say(connection, data if number % 2 else data.replace(b" ", b"\r\n") + b"\r\n\r\n")
            hear(connection, 0.02)
    return 100


def slow_headers(port: Port, choices: random.Random) -> int:
    """Requests that come byte by byte and never end, on many connections (Slowloris)."""
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"x" * 20
    with many_connected(port, MANY) as connections:
        for start in range(len(request)):
            for connection in connections:
                say(connection, request[start : start + 1])
    return MANY


def odd_requests(port: Port, choices: random.Random) -> int:
    """Long lines, many headers, lengths that are lies, other protocols and methods, several requests in one."""
    tries = [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nx: " + b"y" * MIB + b"\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\nabc",
        b"POST /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"BREW /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics?name[]=%ff%00&name[]=" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nAccept: " + b"application/openmetrics-text; version=\xff," * 100 + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip;q=nan\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n folded: \r\n\tline\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n" * 50,
        HELLO,
    ]
    for request in tries:
        with connected(port) as connection:
            say(connection, request)
            hear(connection, 0.05)
    return len(tries)


def unread_answers(port: Port, choices: random.Random) -> int:
    """Good requests of clients that read nothing and go."""
    with many_connected(port, MANY) as connections:
        for connection in connections:
            say(connection, b"GET /metrics HTTP/1.1\r\n\r\n" * 3)
    return MANY


ATTACKS: tuple[Attack, ...] = (random_bytes, slow_headers, odd_requests, unread_answers)
