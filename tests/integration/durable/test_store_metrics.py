"""What metrics show of a server that writes to a store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cellserve_client import connect
from tests.integration.durable.replicas import ASYNC, FaultyStore, Replicas, inputs_of, step
from tests.servers import RunningApp


def value(server: RunningApp, name: str, **labels: str) -> float | None:
    return server.app.metrics.registry.get_sample_value(name, labels)


def test_the_store_is_a_part_of_every_ticks_time(replicas: Replicas) -> None:
    server = replicas.start()
    replicas.create(server)
    commits = "cellserve_tick_phase_seconds_count"
    step(server, 0)  # by itself
    assert value(server, commits, model="defined", phase="commit") == 1
    with connect(server.address) as remote, remote.session_group(replicas.model, 5) as group:
        ticks = value(server, "cellserve_ticks_total", model="defined")
        assert ticks is not None
        group.step(np.stack([inputs_of(number) for number in range(5)]))  # in columns
        now = value(server, "cellserve_ticks_total", model="defined")
        assert now is not None
        assert value(server, commits, model="defined", phase="commit") == 1 + now - ticks
    total = value(server, "cellserve_tick_phase_seconds_sum", model="defined", phase="commit")
    assert total is not None
    assert total > 0


def test_how_long_changes_wait_for_the_store_is_seen(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    server = replicas.start(replace(ASYNC, flush_interval_ms=10), store)

    def unwritten_s() -> float | None:
        return value(server, "cellserve_unwritten_seconds")

    replicas.create(server)
    assert unwritten_s() == 0
    store.failing.add("write")
    step(server, 0)
    writes = store.calls.get("write", 0)
    server.wait_until(lambda: store.calls.get("write", 0) > writes)
    assert unwritten_s() == 0  # The clock stands still.
    replicas.clock.advance(7)
    assert unwritten_s() == 7
    store.failing.clear()
    server.wait_until(lambda: unwritten_s() == 0)
    replicas.clock.advance(7)
    assert unwritten_s() == 0
