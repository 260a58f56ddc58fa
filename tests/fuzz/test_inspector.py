"""Questions to the inspector that nobody meant: refused in words, and no fault of the server's."""

from __future__ import annotations

import http.client
import random
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.fuzz.sockets import Port
from tests.fuzz.victim import victim

TIMEOUT_S = 20.0
QUESTIONS = ("overview", "sessions", "watch")
NAMES = ("tenant", "id", "row", "watch", "after", "limit", "order_by", "contains", "x" * 500)
VALUES = (
    "", "a", "default", "-1", "0", "1", "1e308", "1e999", "nan", "-inf", "9" * 400, "\0", "\uff11", "x" * 5000, "../..",
    "%", "steps desc", "<script>", "\ud7ff", "0x1",
)  # fmt: skip
HOSTS = ("", "localhost", "evil.example", "[::1", "127.0.0.1:99999", "a" * 5000, "localhost:x", ":::", "\xff")
PATHS = (
    "/inspector/../../etc/passwd",
    "/inspector/%2e%2e/x",
    "/inspector//",
    "/inspector/api/",
    "/inspector/\xff",
    "/x",
)
ASKED = 400


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    with victim("--inspector") as server:
        yield server.page_port
        assert server.is_unharmed() == ""


def status_of(port: Port, path: str, host: str = "localhost", method: str = "GET") -> int:
    connection = http.client.HTTPConnection(port.host, port.number, timeout=TIMEOUT_S)
    connection.putrequest(method, quote(path, safe="/?=&%"), skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_questions_that_nobody_meant(port: Port) -> None:
    choices = random.Random(8)
    statuses = set()
    for _ in range(ASKED):
        pairs = [(choices.choice(NAMES), choices.choice(VALUES)) for _ in range(choices.randrange(5))]
        query = "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs)
        statuses.add(status_of(port, f"/inspector/api/{choices.choice(QUESTIONS)}?{query}"))
    assert statuses >= {200, 400}
    assert max(statuses) < 500


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: ascii(host[:20]))
def test_hosts_that_nobody_has(port: Port, host: str) -> None:
    assert status_of(port, "/inspector/api/overview", host) in (200, 403)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
def test_pages_that_there_are_not(port: Port, path: str, method: str) -> None:
    assert status_of(port, path, method=method) in (404, 405)
