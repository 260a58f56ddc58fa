"""What a load test learns from the pages of the server's metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from cellserve_client.load import LoadPlan
from cellserve_client.load.metrics_watch import MetricsWatch, begin_watch
from cellserve_client.server_metrics import fetch
from cellserve_server.http.metrics_page import MetricsPage


class Replica:
    """A page that counts steps."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.started = Gauge("process_start_time_seconds", "When the process was started.", registry=registry)
        self.steps = Counter("cellserve_steps", "Steps.", ("model",), registry=registry)
        self.page = MetricsPage(registry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.page.port}/metrics"


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    made = [Replica(), Replica()]
    yield made
    for replica in made:
        replica.page.close()


def watch_of(replicas: list[Replica], is_asked_for: bool) -> MetricsWatch:
    return MetricsWatch([fetch(replica.url) for replica in replicas], is_asked_for)


def test_several_pages_are_added_up(replicas: list[Replica]) -> None:
    replicas[0].steps.labels("a").inc(100)
    watch = watch_of(replicas, is_asked_for=True)
    replicas[0].steps.labels("a").inc(5)
    replicas[1].steps.labels("b").inc(7)
    found = asyncio.run(watch.result(own_steps=12, seconds=0))
    assert found is not None
    assert (found.steps_delta, found.urls) == (12, tuple(replica.url for replica in replicas))


def test_a_page_that_nobody_asked_for_and_that_knows_less_is_another_servers(replicas: list[Replica]) -> None:
    for is_asked_for in (False, True):
        watch = watch_of(replicas[:1], is_asked_for)
        replicas[0].steps.labels("a").inc(5)
        found = asyncio.run(watch.result(own_steps=6, seconds=0))
        assert (found is not None) == is_asked_for


@pytest.mark.parametrize("steps_of_the_other_process", [20, 500])
def test_steps_are_counted_beyond_the_restart_of_a_server(
    replicas: list[Replica], steps_of_the_other_process: int
) -> None:
    replica = replicas[0]
    watch = watch_of([replica], is_asked_for=False)
    replica.steps.labels("a").inc(100)
    asyncio.run(watch.watch(measure_from=0.0, measured_s=1.0, clock=lambda: 1.0))
    replica.started.set(7.0)
    replica.steps.clear()
    replica.steps.labels("a").inc(steps_of_the_other_process)
    # Of the first process two steps were not read any more.
    found = asyncio.run(watch.result(own_steps=102 + steps_of_the_other_process, seconds=1))
    assert found is not None
    assert found.steps_delta == 100 + steps_of_the_other_process


def test_each_second_is_told_of_the_last_by_the_reading_in_the_end(replicas: list[Replica]) -> None:
    watch = watch_of(replicas[:1], is_asked_for=True)
    # The clock says that the third second has begun when the test is over.
    asyncio.run(watch.watch(measure_from=0.0, measured_s=2.0, clock=lambda: 2.0))
    replicas[0].steps.labels("a").inc(5)
    found = asyncio.run(watch.result(own_steps=5, seconds=3))
    assert found is not None
    assert [second.second for second in found.timeline] == [0, 1, 2]
    assert found.timeline[-1].steps_per_second > 0
    assert found.timeline[0].rows_per_tick is None


def test_a_page_that_is_gone_in_the_end_leaves_the_count_open(replicas: list[Replica]) -> None:
    watch = watch_of(replicas[1:], is_asked_for=True)
    unasked = watch_of(replicas[1:], is_asked_for=False)
    replicas[1].page.close()
    found = asyncio.run(watch.result(own_steps=5, seconds=0))
    assert found is not None
    assert found.steps_delta is None
    assert asyncio.run(unasked.result(own_steps=5, seconds=0)) is None
    replicas.pop()  # It is closed already.


@pytest.mark.parametrize("address", ["127.0.0.1:1,127.0.0.2:1", "dns:///localhost:1"])
def test_of_several_addresses_no_page_is_guessed(address: str) -> None:
    assert asyncio.run(begin_watch(LoadPlan(address))) is None
