"""Reading a server's page of metrics, and what lies between two readings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cellserve.errors import FieldInvalidError, UnavailableError
from cellserve_client.server_metrics import Change, Snapshot, fetch
from cellserve_server.http.metrics_page import MetricsPage
from tests.clocks import ManualClock


class Page:
    """A real page, with a counter, a gauge and a histogram."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.steps = Counter("steps", "Steps.", ("model",), registry=self.registry)
        self.queue = Gauge("queue", "Queue.", registry=self.registry)
        self.took = Histogram("took", "Took.", ("model",), registry=self.registry, buckets=(1, 2, 4))


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def read(page: Page, clock: ManualClock) -> Iterator[Callable[[], Snapshot]]:
    served = MetricsPage(page.registry, "127.0.0.1", 0)
    yield lambda: fetch(f"http://127.0.0.1:{served.port}/metrics", clock=clock)
    served.close()


def test_values_are_summed_over_the_series_with_the_labels(page: Page, read: Callable[[], Snapshot]) -> None:
    page.steps.labels("a").inc(3)
    page.steps.labels("b{").inc(4)
    page.queue.set(7.5)
    snapshot = read()
    assert snapshot.value("queue") == 7.5
    assert snapshot.value("steps_total") == 7
    assert snapshot.value("steps_total", {"model": "b{"}) == 4
    assert snapshot.by_label("steps_total", "model") == {"a": 3, "b{": 4}
    assert snapshot.value("steps_total", {"model": "c"}) is None
    assert snapshot.value("no_such") is None
    assert snapshot.by_label("steps_total", "colour") == {}


def test_two_readings_give_rates_means_and_quantiles(
    page: Page, read: Callable[[], Snapshot], clock: ManualClock
) -> None:
    page.steps.labels("a").inc(3)
    page.took.labels("a").observe(100)
    before = read()
    page.steps.labels("a").inc(10)
    page.steps.labels("b").inc(20)
    for value in (0.5, 0.5, 3, 3):
        page.took.labels("a").observe(value)
    clock.advance(5)
    change = Change(before, read())
    assert change.seconds == 5
    assert change.increase("steps_total") == 30
    assert change.increase("steps_total", {"model": "a"}) == 10
    assert change.increase_by_label("steps_total", "model") == {"a": 10, "b": 20}
    assert change.rate("steps_total") == 6
    assert change.mean("took") == pytest.approx(7 / 4)
    # Half lie in the first bucket, the others between 2 and 4.
    assert change.quantile("took", 0.25) == pytest.approx(0.5)
    assert change.quantile("took", 0.75) == pytest.approx(3)
    assert change.quantile("took", 1.0) == pytest.approx(4)
    assert change.mean("no_such") is None
    assert change.quantile("no_such", 0.5) is None


def test_what_is_above_all_bounds_counts_as_the_highest(page: Page, read: Callable[[], Snapshot]) -> None:
    before = read()
    page.took.labels("a").observe(100)
    assert Change(before, read()).quantile("took", 0.99) == 4


def test_a_counter_that_began_anew_has_grown_by_what_it_has() -> None:
    labels = (("model", "a"),)
    before = Snapshot("", 0.0, {"steps_total": {labels: 100.0}})
    after = Snapshot("", 1.0, {"steps_total": {labels: 7.0}})
    assert Change(before, after).increase("steps_total") == 7
    assert Change(before, before).rate("steps_total") == 0


class OtherPage(BaseHTTPRequestHandler):
    """Something that is no page of metrics."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_nobody_there_and_something_else_there_are_told_apart() -> None:
    with pytest.raises(UnavailableError, match=r"metrics: http://127.0.0.1:1/metrics cannot be read: .*refused"):
        fetch("http://127.0.0.1:1/metrics")
    with HTTPServer(("127.0.0.1", 0), OtherPage) as other:
        serving = threading.Thread(target=other.serve_forever, args=(0.01,))
        serving.start()
        address = f"http://127.0.0.1:{other.server_port}"
        with pytest.raises(UnavailableError, match=f"metrics: {address}/ is no page of Prometheus metrics"):
            fetch(f"{address}/")
        with pytest.raises(UnavailableError, match=f"metrics: {address}/metrics cannot be read: Not Found"):
            fetch(f"{address}/metrics")
        other.shutdown()
        serving.join()


@pytest.mark.parametrize("url", ["localhost:9464", "file:///etc/hostname", "http://", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(FieldInvalidError, match="metrics: expected a URL such as"):
        fetch(url)
