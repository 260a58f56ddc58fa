"""The metrics page, whatever form a caller says to want."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from cellserve_server.http.metrics_page import MetricsPage

TIMEOUT_S = 20.0
OPENMETRICS = "application/openmetrics-text"


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    registry = CollectorRegistry()
    Counter("steps", "Steps.", registry=registry)
    made = MetricsPage(registry, "127.0.0.1", 0)
    yield made
    made.close()


@pytest.mark.parametrize(
    "accept",
    [
        f"{OPENMETRICS}; version=x",
        f"{OPENMETRICS}; version=",
        f"{OPENMETRICS}; version=1.x.0",
        f"{OPENMETRICS}; version=-1",
        f"{OPENMETRICS}; version=1.0.0; escaping=nonsense",
        f"{OPENMETRICS}; version={'9' * 5000}",
        "text/plain; version=\xff",
        "*/*; q=nan, ,;,=",
        "",
    ],
)
def test_a_form_that_is_none_gets_the_usual_one(page: MetricsPage, accept: str) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{page.port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        assert b"steps_total 0.0" in answer.read()


@pytest.mark.parametrize("version", ["0.0.1", "1.0.0"])
def test_a_form_that_there_is_is_given(page: MetricsPage, version: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{page.port}/metrics", headers={"Accept": f"{OPENMETRICS}; version={version}"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        assert answer.headers["Content-Type"].startswith(OPENMETRICS if version == "1.0.0" else "text/plain")
