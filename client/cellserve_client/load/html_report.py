"""Load tests as pages: one file each, with everything in it, that opens without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cellserve_client.load import figures
from cellserve_client.load.charts import Chart, charts_of, charts_of_all, kind_text
from cellserve_client.load.comparison import Comparison
from cellserve_client.load.document import Latency, LoadDocument, Term
from cellserve_client.load.json_fields import JSON_NAME

PARTS = files("cellserve_client.load") / "page"
# uPlot 1.6.32, of the npm registry, as it is: it draws the charts.
CHART_SCRIPT, CHART_STYLE, CHART_LICENSE = "uPlot.iife.min.js", "uPlot.min.css", "uPlot.LICENSE"


@dataclass(frozen=True)
class Tile:
    """One of the figures at the top."""

    name: str
    figure: str
    unit: str = ""


@dataclass(frozen=True)
class LatencyRow:
    """A row of the table of latencies: those of some requests, by percentile."""

    name: str
    values: tuple[float | None, ...]
    requests: int


def write_html(document: LoadDocument, path: Path) -> None:
    """Writes the page of one load test.

    Raises:
        OSError: the file cannot be written.
    """
    content = {
        "document": document,
        "model": _model_name(document),
        "tiles": _tiles(document),
        "slo_terms": [_term(term) for term in document.slo.terms] if document.slo is not None else [],
        "latency_names": [field.metadata.get(JSON_NAME, field.name) for field in fields(Latency)],
        "latency_rows": _latency_rows(document),
        "settings": [_setting(name, value) for name, value in document.settings.items() if value not in (None, [])],
        "conditions": _conditions(document),
    }
    path.write_text(_page("report.html", charts_of(document), content), encoding="utf-8")


def write_comparison_html(comparison: Comparison, path: Path) -> None:
    """Writes the page of several load tests, one over the other.

    Raises:
        OSError: the file cannot be written.
    """
    content = {"comparison": comparison, "names": list(comparison.runs)}
    path.write_text(_page("comparison.html", charts_of_all(comparison.runs), content), encoding="utf-8")


def _setting(name: str, value: Any) -> tuple[str, str]:
    """A setting's name and value; the names of some end in their unit, which is seconds."""
    text = figures.setting_text(value)
    if name.endswith("_s"):
        return name.removesuffix("_s").replace("_", " "), f"{text} s"
    return name.replace("_", " "), text


def _page(template: str, charts: Sequence[Chart], content: Mapping[str, Any]) -> str:
    """A page. Whatever it shows is escaped; only the scripts that are part of it can run, and nothing can be loaded."""
    environment = Environment(
        loader=PackageLoader("cellserve_client.load", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": figures.count_text,
        "figure": figures.figure_text,
        "moment": _moment_text,
        "ratio": figures.ratio_text,
        "seconds": figures.seconds_text,
        "setting": figures.setting_text,
        "share": figures.share_text,
    }
    chart_script = f"/* {_part(CHART_LICENSE)}*/\n{_part(CHART_SCRIPT)}"
    script = _part("page.js")
    return environment.get_template(template).render(
        content,
        charts=[asdict(chart) for chart in charts],
        chart_style=_part(CHART_STYLE),
        chart_script=chart_script,
        style=_part("page.css"),
        script=script,
        script_hashes=f"{_hash(chart_script)} {_hash(script)}",
    )


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """How the page's policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _model_name(document: LoadDocument) -> str:
    return document.server.model.removeprefix("models/").partition("/versions/")[0]


def _tiles(document: LoadDocument) -> list[Tile]:
    totals, latency = document.totals, document.latency_ms
    tiles = [Tile("Steps a second", figures.figure_text(totals.steps_per_second))]
    if totals.requests != totals.steps:
        tiles.append(Tile("Requests a second", figures.figure_text(totals.requests_per_second)))
    if totals.offered_per_second is not None:
        tiles.append(Tile("Requests due a second", figures.figure_text(totals.offered_per_second)))
    tiles += [
        Tile("Median latency", figures.figure_text(latency.p50), "ms"),
        Tile("99 % within", figures.figure_text(latency.p99), "ms"),
        Tile("99.9 % within", figures.figure_text(latency.p999), "ms"),
        Tile("Slowest", figures.figure_text(latency.max), "ms"),
        Tile("Failed requests", figures.count_text(totals.failed)),
    ]
    return tiles


def _term(term: Term) -> dict[str, Any]:
    """A term with its measurement in the unit in which it was written."""
    if term.measured is None:
        measured = "nothing"
    elif "%" in term.term:
        measured = figures.share_text(term.measured)
    elif term.term.startswith("rate"):
        measured = f"{figures.figure_text(term.measured)}/s"
    elif term.term.startswith("errors"):
        measured = figures.figure_text(term.measured)
    else:
        measured = figures.milliseconds_text(term.measured)
    return {"term": term.term, "held": term.held, "measured": measured}


def _latency_rows(document: LoadDocument) -> list[LatencyRow]:
    def row(name: str, latency: Latency, requests: int) -> LatencyRow:
        return LatencyRow(name, tuple(getattr(latency, field.name) for field in fields(Latency)), requests)

    rows = [row("All requests", document.latency_ms, document.totals.requests)]
    if len(document.by_kind) > 1:
        rows += [row(kind_text(kind), item.latency_ms, item.requests) for kind, item in document.by_kind.items()]
    if document.mode == "open":
        rows.append(row("Service time", document.service_ms, document.totals.requests))
    return rows


def _conditions(document: LoadDocument) -> list[tuple[str, str]]:
    client, metrics, totals = document.client, document.server_metrics, document.totals
    found = [
        ("server", document.server.address),
        ("model", document.server.model),
        ("client processes", figures.count_text(client.processes)),
        ("busiest client process", f"{figures.share_text(client.busiest_cpu_share)} of a core"),
        ("client's event loop late, p99", figures.milliseconds_text(client.loop_lag_p99_ms)),
        ("sessions opened", figures.count_text(totals.sessions_opened)),
        ("steps, warm-up included", figures.count_text(totals.steps_with_warmup)),
    ]
    if metrics is not None:
        found.append(("steps by the server's own count", figures.count_text(metrics.steps_delta)))
        found.append(("server's metrics", ", ".join(metrics.urls)))
    return found


def _moment_text(moment: str) -> str:
    """``2026-01-02 03:04:05 UTC+01:00``; as it is when it is no moment."""
    try:
        return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M:%S %Z}"
    except ValueError:
        return moment
