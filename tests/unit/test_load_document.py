"""The document of a load test, as JSON and back; and the histograms in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram

from cellserve.errors import FieldInvalidError
from cellserve_client.load.document import (
    Client,
    FindMax,
    Kind,
    LoadDocument,
    Second,
    ServerMetrics,
    ServerSecond,
    Slo,
    Stage,
    Target,
    Term,
    Totals,
    Trial,
)
from cellserve_client.load.latencies import Latencies, Sample


def of_milliseconds(*values: float) -> Latencies:
    latencies = Latencies()
    latencies.add(Sample.of([value / 1e3 for value in values]))
    return latencies


def full_document() -> LoadDocument:
    latencies = of_milliseconds(*range(1, 101))
    summary, percentiles = latencies.summary(), latencies.percentiles()
    return LoadDocument(
        settings={"sessions": 4, "traffic": "step"},
        server=Target("localhost:50051", "models/speaker-id/versions/1"),
        started="2026-01-02T03:04:05+00:00",
        seconds=2.0,
        mode="open",
        totals=Totals(100, 100, 1, 50.0, 50.0, 50.5, 4, 120),
        latency_ms=summary,
        service_ms=Latencies().summary(),
        percentiles=percentiles,
        histogram=latencies.encoded(),
        by_kind={"step": Kind(100, 100, 1, summary, percentiles)},
        timeline=(Second(0, 50, 50, 1, 25.0, 50.0, 50.0, 4, 51.0), Second(1, 50, 50, 0, None, None, None, 4, None)),
        errors={"UNAVAILABLE": 1},
        server_metrics=ServerMetrics(("http://x/metrics",), 120, (ServerSecond(0, 50.0, None, 0.0, 4.0, None),)),
        client=Client(1, 0.5, 1.5, False, None),
        stages=(Stage(2.0, None, 50.0),),
        slo=Slo("p99<20ms", (Term("p99<20ms", 99.007, False),), False),
        find_max=FindMax(None, (Trial(50.0, False, 50.0, summary, 0.01),)),
        failure="of course",
    )


def test_a_document_comes_back_from_its_json_as_it_was() -> None:
    document = full_document()
    text = json.dumps(document.to_json(), allow_nan=False)
    assert LoadDocument.from_json(json.loads(text)) == document


def test_the_json_has_the_names_that_the_schema_promises() -> None:
    document = full_document().to_json()
    assert next(iter(document)) == "schema"
    assert document["schema"] == "cellserve-load/1"
    assert list(document["latency_ms"]) == ["min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"]
    assert document["latency_ms"]["p99"] == 99.007
    assert set(document["service_ms"].values()) == {None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "cellserve-load/9"}, "document.schema: expected 'cellserve-load/1', .*; got 'cellserve-load/9'"),
        ({"seconds": "two"}, "document.seconds: expected a value of type float; got 'two'"),
        ({"seconds": True}, "document.seconds: expected a value of type float; got True"),
        ({"seconds": float("nan")}, "document.seconds: expected a finite number; got nan"),
        ({"seconds": float("inf")}, "document.seconds: expected a finite number; got inf"),
        ({"seconds": 10**400}, r"document.seconds: expected a number up to \d+; got 1000+\.\.\."),
        ({"errors": {"A": -(10**16)}}, "document.errors.A: expected a number up to"),
        ({"totals": None}, "document.totals: expected an object; got None"),
        ({"timeline": {}}, r"document.timeline: expected a list; got {}"),
        ({"timeline": [7]}, r"document.timeline\[0\]: expected an object; got 7"),
        ({"percentiles": [[1.0, 2.0]]}, r"document.percentiles\[0\]: expected a list of 3; got \[1.0, 2.0\]"),
        ({"errors": {"A": "b"}}, "document.errors.A: expected a value of type int; got 'b'"),
    ],
)
def test_what_is_no_such_document_is_refused_by_the_fields_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldInvalidError, match=message):
        LoadDocument.from_json(full_document().to_json() | change)


def test_a_field_that_is_missing_is_named() -> None:
    document = full_document().to_json()
    del document["mode"]
    with pytest.raises(FieldInvalidError, match="document: expected the field 'mode'"):
        LoadDocument.from_json(document)


def test_a_later_documents_unknown_fields_are_passed_over() -> None:
    document = full_document()
    assert LoadDocument.from_json(document.to_json() | {"colour": "green"}) == document


def test_a_summary_of_latencies() -> None:
    latencies = of_milliseconds(1, 2, 3, 1000)
    summary = latencies.summary()
    assert latencies.count == 4
    assert summary.min == pytest.approx(1, rel=1e-3)
    assert summary.p50 == pytest.approx(2, rel=1e-3)
    assert summary.max == pytest.approx(1000, rel=1e-3)
    assert summary.mean == pytest.approx(1006 / 4, rel=1e-3)
    assert latencies.percentiles()[-1][2] == 4


def test_latencies_beyond_the_histograms_range_count_at_its_ends() -> None:
    latencies = of_milliseconds(0, 1e9)
    assert latencies.count == 2
    assert latencies.max_ms() == pytest.approx(3_600_000, rel=1e-3)


def test_the_histogram_is_what_other_tools_read() -> None:
    decoded = HdrHistogram.decode(of_milliseconds(5, 7).encoded().encode())
    assert decoded.get_total_count() == 2
    assert decoded.get_max_value() == pytest.approx(7000, rel=1e-3)
