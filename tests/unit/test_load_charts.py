"""The charts of load tests, as data, and the numbers on their pages."""

from __future__ import annotations

from dataclasses import replace
from math import inf, log10, nan

import pytest

from cellserve_client.load import figures
from cellserve_client.load.charts import Chart, Mark, charts_of, charts_of_all
from cellserve_client.load.curves import Curve, percentile_curve, resampled
from cellserve_client.load.document import LoadDocument
from cellserve_client.load.latencies import Latencies, Sample
from tests.load_documents import STALL_SECOND, closed_document, open_document


def by_key(charts: list[Chart]) -> dict[str, Chart]:
    found = {chart.key: chart for chart in charts}
    assert len(found) == len(charts)
    return found


def lines(chart: Chart) -> dict[str, tuple[float | None, ...]]:
    assert all(len(series.values) == len(chart.x) for series in chart.series)
    return {series.label: series.values for series in chart.series}


def test_a_plain_test_has_the_charts_that_it_has_numbers_for() -> None:
    document = closed_document()
    charts = by_key(charts_of(document))
    assert list(charts) == ["throughput", "latency", "percentiles"]
    assert lines(charts["throughput"]) == {"Steps answered": tuple(float(item.steps) for item in document.timeline)}
    assert lines(charts["latency"])["p50"] == tuple(item.p50_ms for item in document.timeline)
    assert not charts["latency"].log


def test_everything_of_an_open_test_is_shown() -> None:
    document = open_document()
    charts = by_key(charts_of(document))
    assert list(charts) == [
        *("throughput", "latency", "percentiles", "errors", "sessions", "rows", "queue", "tick", "search")
    ]
    assert list(lines(charts["throughput"])) == ["Steps answered", "Requests answered", "Requests due"]
    assert charts["latency"].log
    assert lines(charts["errors"])["Errors"][STALL_SECOND] == 40.0
    assert list(lines(charts["percentiles"])) == ["All requests", "Single steps", "Sequences"]
    assert charts["search"].x == (2_000.0, 4_000.0, 8_000.0)
    assert lines(charts["search"])["p99"] == (5.0, 11.0, 90.0)
    assert charts["throughput"].marks == (Mark(10.0, "4,000/s"), Mark(30.0, "8,000/s"))


def test_tests_that_are_compared_keep_their_colours() -> None:
    charts = by_key(
        charts_of_all({"closed": closed_document(), "short": closed_document(1, 20), "open": open_document()})
    )
    assert [(line.label, line.colour) for line in charts["throughput"].series] == [
        ("closed", 0),
        ("short", 1),
        ("open", 2),
    ]
    assert [(line.label, line.colour) for line in charts["rows"].series] == [("open", 2)]
    assert lines(charts["throughput"])["short"][19:21] == (float(closed_document(1, 20).timeline[19].steps), None)


def test_a_last_second_that_is_a_part_of_one_counts_as_such() -> None:
    document = open_document()
    steps = document.timeline[-1].steps
    for seconds, rate, offered in ((29.5, 2.0 * steps, 8_000.0), (29.1, None, None)):
        throughput = lines(by_key(charts_of(replace(document, seconds=seconds)))["throughput"])
        assert (throughput["Steps answered"][-1], throughput["Requests due"][-1]) == (rate, offered)


def test_percentiles_stand_where_they_belong_and_end_with_the_slowest_request() -> None:
    latencies = Latencies()
    latencies.add(Sample.of([milliseconds / 1e3 for milliseconds in range(1, 1001)]))
    curve = percentile_curve("", latencies.percentiles(), latencies.summary())
    assert list(curve.x) == sorted(set(curve.x))
    assert (curve.x[0], curve.x[-1]) == (0.0, 3.0)
    at = dict(zip(curve.x, curve.values, strict=True))
    assert at[round(log10(2), 6)] == pytest.approx(500, rel=2e-3)
    assert at[1.0] == pytest.approx(900, rel=2e-3)
    assert at[3.0] == pytest.approx(1000, rel=2e-3)
    assert percentile_curve("", (), Latencies().summary()) == Curve("", [], [])


def test_curves_have_no_values_outside_and_in_gaps() -> None:
    curve = Curve("", [1.0, 2.0, 3.0, 4.0], [10.0, 20.0, None, 40.0])
    assert resampled([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0], curve) == (
        None,
        10.0,
        15.0,
        20.0,
        None,
        None,
        40.0,
        None,
    )


def test_a_test_without_any_answer_has_charts_of_what_there_is() -> None:
    document: LoadDocument = closed_document(seconds=2)
    silent = [replace(item, steps=0, requests=0, p50_ms=None, p99_ms=None, max_ms=None) for item in document.timeline]
    charts = by_key(charts_of(replace(document, timeline=tuple(silent), percentiles=())))
    assert list(charts) == ["throughput"]
    assert charts_of(replace(document, timeline=(), percentiles=())) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.041234, "0.0412"),
        (4.123, "4.12"),
        (41.26, "41.3"),
        (412.6, "413"),
        (54321.0, "54,321"),
        (nan, "-"),
        (inf, "-"),
        (1e-9, "0.000000"),
    ],
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert figures.figure_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(5.0, "5 s"), (5.24, "5.2 s"), (120.0, "2 min"), (3725.0, "62 min 5 s")])
def test_durations(value: float, text: str) -> None:
    assert figures.seconds_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        ("poisson", "poisson"),
        (1024, "1,024"),
        (0.5, "0.5"),
        (["a:1", "b:1"], "a:1; b:1"),
        ([{"seconds": 30.0, "sessions": 256, "rate": None}], "seconds 30, sessions 256"),
    ],
)
def test_settings(value: object, text: str) -> None:
    assert figures.setting_text(value) == text
