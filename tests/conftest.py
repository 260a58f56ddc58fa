"""Fixtures that the tests share: servers in this process and as a process of their own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import settings

from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.servers import TEST_CONFIG, LoopThread, RunningApp, running_app, server_process

# What a machine does beside the tests is no fault of an example that took long; every run draws the same examples.
settings.register_profile("cellserve", deadline=None, derandomize=True)
settings.load_profile("cellserve")


def pytest_collection_finish() -> None:
    """Has the garbage collector leave alone what was loaded: to go through it again and again takes seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    """One event loop in a thread for all servers in this process: grpc does not like several."""
    loop = LoopThread()
    yield loop
    loop.close()


@pytest.fixture
def clock() -> ManualClock:
    """The clock of ``server`` and of the servers of ``start_server``."""
    return ManualClock()


@pytest.fixture
def start_server(loop_thread: LoopThread, clock: ManualClock) -> Iterator[Callable[[ServerConfig], RunningApp]]:
    """Starts servers in this process with settings of the test's own; they end with the test."""
    with ExitStack() as stack:
        yield lambda config: stack.enter_context(running_app(loop_thread, config, clock))


@pytest.fixture
def server(start_server: Callable[[ServerConfig], RunningApp]) -> RunningApp:
    """A server in this process, without models of its own, on a clock that only the test moves."""
    return start_server(TEST_CONFIG)


@pytest.fixture(scope="session")
def server_address() -> Iterator[str]:
    """The address of a server process that all tests of a run share: no models of its own, the real clock."""
    with server_process(["--max-defined-models", "5000"]) as server:
        yield server.address
