"""Fixtures of the tests of traces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.tracing.spans import Program, TracedServer, traced_server
from tests.servers import LoopThread


@pytest.fixture
def traced(loop_thread: LoopThread) -> Iterator[TracedServer]:
    """A server that traces, without models of its own, on the real clock."""
    with traced_server(loop_thread) as server:
        yield server


@pytest.fixture
def program() -> Program:
    """The program around a client."""
    return Program()
