"""Results do not depend on company: callers of every kind at once, half of whom give up, each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cellserve_server.config import ServerConfig
from tests.property.mixed_traffic import send_mixed_traffic
from tests.servers import TEST_CONFIG, LoopThread, RunningApp

# Ticks of a few rows, chunks of a few steps, all computed in the thread, and a queue that is often full.
TIGHT = replace(
    TEST_CONFIG,
    max_tick_rows=7,
    max_chunk_steps=3,
    inline_tick_us=0,
    at_once_us=0,
    max_queued_runs=12,
    queue_full_retry_ms=1,
    stream_window_messages=3,
    stream_window_steps=16,
)
Start = Callable[[ServerConfig], RunningApp]
each_config = pytest.mark.parametrize("config", [TEST_CONFIG, TIGHT], ids=["usual limits", "tight limits"])


def check(loop: LoopThread, server: RunningApp, seed: int, rounds: int) -> None:
    """Sends traffic, and looks at what is left of it."""
    send_mixed_traffic(loop, server.address, seed, rounds)
    metrics = server.app.metrics.registry

    def value(name: str, model: str | None = None) -> float:
        found = metrics.get_sample_value(f"cellserve_{name}", {} if model is None else {"model": model})
        assert found is not None, name
        return found

    assert value("steps_total", "defined") > 1.2 * value("ticks_total", "defined"), "they had no company"
    gauges = ("queue_runs", "queue_bytes", "sessions", "state_bytes", "slab_rows", "streams")
    server.wait_until(lambda: not any(value(name) for name in gauges))


@pytest.mark.parametrize(
    "config", [TEST_CONFIG, pytest.param(TIGHT, marks=pytest.mark.slow)], ids=["usual limits", "tight limits"]
)
def test_in_company_as_alone(loop_thread: LoopThread, start_server: Start, config: ServerConfig) -> None:
    check(loop_thread, start_server(config), seed=0, rounds=4)


@pytest.mark.slow
def test_in_company_as_alone_in_a_process_of_its_own(loop_thread: LoopThread, server_address: str) -> None:
    send_mixed_traffic(loop_thread, server_address, seed=1, rounds=4)


@pytest.mark.slow
@each_config
@pytest.mark.parametrize("seed", range(2, 5))
def test_in_company_as_alone_for_long(
    loop_thread: LoopThread, start_server: Start, config: ServerConfig, seed: int
) -> None:
    check(loop_thread, start_server(config), seed, rounds=30)
