"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from cellserve.cells import BasicLSTMCell
from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.integration.edges import (
    DEPTH,
    ROWS,
    UNITS,
    Edge,
    bidirectional_spec,
    create_session,
    letters_spec,
)
from tests.integration.stream_client import IN_THREAD, StreamClient, Streaming
from tests.servers import (
    TEST_CONFIG,
    LoopThread,
    RunningApp,
    define_model,
    define_spec,
    running_app,
)


@pytest.fixture(scope="module")
def edge(loop_thread: LoopThread) -> Iterator[Edge]:
    clock = ManualClock()
    config = replace(TEST_CONFIG, max_rows=8, max_sequence_steps=16, max_message_bytes=64 * 1024)
    with running_app(loop_thread, config, clock) as server:
        lstm = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
        both_ways = define_spec(server.stubs, bidirectional_spec()).name
        letters = define_spec(server.stubs, letters_spec()).name
        for id_, batch_size in (("pair", ROWS), ("single", 0)):
            create_session(server, session_id=id_, model=lstm, batch_size=batch_size)
        create_session(server, session_id="letters", model=letters, batch_size=1)
        yield Edge(server, clock, lstm, both_ways, letters)


@pytest.fixture
def streaming(start_server: Callable[[ServerConfig], RunningApp]) -> Iterator[Streaming]:
    server = start_server(IN_THREAD)
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    with StreamClient(server.stubs) as stream:
        yield Streaming(server, model, stream)
