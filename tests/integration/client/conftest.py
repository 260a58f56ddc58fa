"""Fixtures of the tests of both clients: what connects, connects with the blocking one and with that for asyncio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from cellserve.tensors import Array
from cellserve_client import Server, rnn
from tests.clients import KINDS, Kind, client
from tests.integration.client.helpers import DEPTH, ROWS, STEPS, UNITS, Connect
from tests.integration.client.stream_proxy import StreamProxy, stream_proxy
from tests.servers import LoopThread


@pytest.fixture(params=KINDS)
def client_kind(request: pytest.FixtureRequest) -> Kind:
    """Which client: a test that connects is run with each."""
    kind: Kind = request.param
    return kind


@pytest.fixture
def connected(client_kind: Kind, loop_thread: LoopThread, start_server: object) -> Iterator[Connect]:
    """Connects either client; the connections end with the test.

    Before the servers of ``start_server`` do, which wait for those who are connected: hence it is asked for.
    """
    with ExitStack() as stack:
        yield lambda address, retry=None: stack.enter_context(client(client_kind, loop_thread, address, retry=retry))


@pytest.fixture
def remote(connected: Connect, server_address: str) -> Server:
    """Connected to the server that all tests share."""
    return connected(server_address)


@pytest.fixture
def lstm(remote: Server) -> Any:
    """A cell on it."""
    return remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)


@pytest.fixture
def frames() -> Array:
    """Inputs ``[ROWS, STEPS, DEPTH]``."""
    return np.random.default_rng(5).standard_normal((ROWS, STEPS, DEPTH)).astype(np.float32)


@pytest.fixture
def proxy(loop_thread: LoopThread, server_address: str) -> Iterator[StreamProxy]:
    """In front of the server that all tests share."""
    with stream_proxy(loop_thread, server_address) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client hardly waits for the answer to a step that was given up: for tests where none will come."""
    monkeypatch.setattr("cellserve_client.account.PATIENCE_S", 0.02)
    monkeypatch.setattr("cellserve_client.groups.group.PATIENCE_S", 0.02)
