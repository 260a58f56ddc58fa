"""A server with an inspector, and how to ask that over HTTP, as its pages do, but without a browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from cellserve.states import NestedState
from cellserve.tensors import Array
from cellserve_client import connect, rnn
from cellserve_client.blocking_sessions import Session
from cellserve_client.client import Server
from cellserve_server.inspector.inspector import Inspector
from tests.servers import RPC_TIMEOUT_S, RunningApp

UNITS, DEPTH = 3, 2


class Page(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The words of a refusal."""
        return str(json.loads(self.body)["error"])


class Seen(NamedTuple):
    """An answer about a watch.

    Attributes:
        header: its JSON.
        arrays: by name, as a browser reads them.
    """

    header: dict[str, Any]
    arrays: dict[str, Array]

    @property
    def counts(self) -> list[int]:
        return [int(count) for count in self.arrays["step_counts"]]

    def leaves(self) -> list[Array]:
        """The states, ``[count, units]`` each."""
        return [self.arrays[f"leaf{number}"] for number in range(len(self.header["leaves"]))]


class Inspecting:
    """Asks one inspector.

    Args:
        port: its TCP port on loopback.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/inspector"

    def get(self, path: str, method: str = "GET", host: str = "") -> Page:
        """Asks for a path below ``/inspector``; no status is an error."""
        request = urllib.request.Request(self.url + path, method=method, headers={"Host": host} if host else {})
        try:
            with urllib.request.urlopen(request, timeout=RPC_TIMEOUT_S) as answer:
                return Page(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Page(error.code, dict(error.headers), error.read())

    def ask(self, question: str, **parameters: object) -> Page:
        """Asks a question with parameters."""
        return self.get(f"/api/{question}?{urllib.parse.urlencode(parameters)}")

    def json(self, question: str, **parameters: object) -> Any:
        """The JSON of an answer that is to be one."""
        page = self.ask(question, **parameters)
        assert page.status == 200, page.body
        return json.loads(page.body)

    def watch(self, id_: str, **parameters: object) -> Seen:
        """What was seen of a session."""
        page = self.ask("watch", id=id_, **parameters)
        assert page.status == 200, page.body
        return decode(page.body)

    def more(self, seen: Seen, id_: str, **parameters: object) -> Seen:
        """What was seen since an answer."""
        return self.watch(id_, watch=seen.header["watch"], after=seen.header["next"], **parameters)


def decode(data: bytes) -> Seen:
    """Reads the bytes of an answer about a watch as a browser does, which needs arrays at multiples of their sizes."""
    start = 4 + int.from_bytes(data[:4], "little")
    assert start % 8 == 0
    header = json.loads(data[4:start])
    arrays = {}
    for name, entry in header["arrays"].items():
        assert entry["offset"] % 8 == 0
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        count = int(np.prod(entry["shape"]))
        arrays[name] = np.frombuffer(data, dtype, count, start + entry["offset"]).reshape(entry["shape"])
    return Seen(header, arrays)


class Bench(NamedTuple):
    """A server with an inspector, a client that shares messages and one that does not."""

    server: RunningApp
    inspector: Inspecting
    client: Server
    plain: Server

    @property
    def inside(self) -> Inspector:
        """To be touched through the server's loop only."""
        assert self.server.app.inspector is not None
        return self.server.app.inspector

    def watches(self) -> int:
        """How many there are."""
        return self.server.loop.call(lambda: len(self.inside.watches))

    def observers(self) -> int:
        """How many the engine tells of its ticks."""
        return self.server.loop.call(lambda: len(self.server.app.engine.observers))


@contextmanager
def bench_of(server: RunningApp) -> Iterator[Bench]:
    """Connects to a server."""
    assert server.app.http_port is not None
    with connect(server.address) as client, connect(server.address, coalesce=False) as plain:
        yield Bench(server, Inspecting(server.app.http_port), client, plain)


def open_session(client: Server, id_: str, batch_size: int | None = None, layers: int = 1) -> Session:
    """A session of one or more LSTM cells, which begins with its first step."""
    cells = (
        rnn.MultiRNNCell([rnn.BasicLSTMCell(UNITS) for _ in range(layers)]) if layers > 1 else rnn.BasicLSTMCell(UNITS)
    )
    return client.session(client.cell(cells, seed=1, input_size=DEPTH), session_id=id_, batch_size=batch_size)


def inputs_of(number: int, *shape: int) -> Array:
    """The inputs of a step, or of as many as the shape says."""
    inputs: Array = np.random.default_rng(number).standard_normal(shape or (DEPTH,)).astype(np.float32)
    return inputs


def leaves_of(session: Session) -> list[Array]:
    """The state, ``[rows, units]`` each."""
    return leaves_in(session.state())


def leaves_in(state: NestedState) -> list[Array]:
    """The arrays of a nested state, in order."""
    return [state] if isinstance(state, np.ndarray) else [leaf for part in state for leaf in leaves_in(part)]
