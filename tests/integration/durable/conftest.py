"""Fixtures of the tests of servers with a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cellserve_server.stores.memory import MemoryStore
from tests.clocks import ManualClock
from tests.integration.durable.replicas import Replicas
from tests.servers import LoopThread


@pytest.fixture
def replicas(loop_thread: LoopThread, clock: ManualClock) -> Iterator[Replicas]:
    """Replicas on a store that outlives them."""
    with ExitStack() as stack:
        yield Replicas(loop_thread, clock, MemoryStore(clock, is_volatile=False), stack)
