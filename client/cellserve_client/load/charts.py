"""The charts of load tests, as data: what ``page/page.js`` draws and makes tables of.

A chart shows one document, or the same of several, one over the other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import log10
from typing import Literal

from cellserve_client.load.curves import Curve, Values, due, percentile_curve, rates, resampled, seconds, spread
from cellserve_client.load.document import FindMax, LoadDocument, ServerSecond, Stage

XKind = Literal["seconds", "percentile", "rate"]
Runs = Mapping[str, LoadDocument]


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: what it is.
        colour: a number, from 0, of the page's colours.
        dashed: whether it is drawn so.
        values: one for each x; None where there is none.
    """

    label: str
    colour: int
    dashed: bool
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Mark:
    """A place on the x axis where something ends, and what."""

    x: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        key: its id in the page.
        title: its heading.
        note: how to read it.
        x_kind: ``seconds`` of the measured time, a ``rate``, or ``percentile``: ``log10(1 / (1 - p))``, p from 0 to 1.
        unit: of the values.
        log: whether the values' axis is logarithmic.
        wide: whether it takes the page's whole width.
        x: ascending.
        series: the lines.
        marks: on the x axis.
    """

    key: str
    title: str
    note: str
    x_kind: XKind
    unit: str
    log: bool
    wide: bool
    x: tuple[float, ...]
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()


def charts_of(document: LoadDocument) -> list[Chart]:
    """All charts of one load test."""
    runs = {"": document}
    found = [_throughput(document), _latency_over_time(document), _percentiles(runs), _errors(document)]
    found += [_sessions(document), *_server(runs)]
    if document.find_max is not None:
        found.append(_search(document.find_max))
    return [chart for chart in found if chart is not None]


def charts_of_all(runs: Runs) -> list[Chart]:
    """The charts of several load tests, each over the others; every test has its colour everywhere.

    Args:
        runs: by the names that the lines shall have.
    """

    def over_time(value: Callable[[LoadDocument], Values]) -> list[Curve]:
        return [Curve(name, seconds(run), value(run)) for name, run in runs.items()]

    p99 = over_time(lambda run: [second.p99_ms for second in run.timeline])
    steps = over_time(lambda run: rates(run, lambda second: second.steps))
    found = [
        _overlay("throughput", "Throughput over time", "steps/s", steps),
        _overlay("latency", "p99 latency over time", "ms", p99, log=spread(p99)),
        _percentiles(runs),
        *_server(runs),
    ]
    if any(second.errors for run in runs.values() for second in run.timeline):
        errors = over_time(lambda run: rates(run, lambda second: second.errors))
        found.append(_overlay("errors", "Errors over time", "per second", errors, wide=False))
    return [chart for chart in found if chart is not None]


def _percentiles(runs: Runs) -> Chart | None:
    """Latency by percentile; of one document with steps and sequences also by kind."""
    curves = [percentile_curve(name or "All requests", run.percentiles, run.latency_ms) for name, run in runs.items()]
    if len(runs) == 1:
        (document,) = runs.values()
        kinds = document.by_kind if len(document.by_kind) > 1 else {}
        curves += [percentile_curve(kind_text(kind), item.percentiles, item.latency_ms) for kind, item in kinds.items()]
    # The least latencies, which nobody minds, do not make the axis logarithmic.
    starts = [bisect_left(curve.x, log10(2)) for curve in curves]
    halves = [Curve(curve.label, curve.x[at:], curve.values[at:]) for curve, at in zip(curves, starts, strict=True)]
    note = "How long the slowest waited: at 99.9 % one request in a thousand took longer than this."
    return _overlay(
        "percentiles", "Latency by percentile", "ms", curves, x_kind="percentile", note=note, log=spread(halves)
    )


def _server(runs: Runs) -> list[Chart | None]:
    """What the servers' metrics told over time."""

    def overlay(key: str, title: str, unit: str, value: Callable[[ServerSecond], float | None]) -> Chart | None:
        curves = []
        for name, run in runs.items():
            timeline = run.server_metrics.timeline if run.server_metrics is not None else ()
            x = [float(second.second) for second in timeline]
            curves.append(Curve(name or title, x, [value(second) for second in timeline]))
        return _overlay(key, title, unit, curves, wide=False)

    return [
        overlay("rows", "Rows per tick", "rows", lambda second: second.rows_per_tick),
        overlay("queue", "Runs waiting in the server", "runs", lambda second: second.queue_runs),
        overlay("tick", "Time of a tick", "ms", lambda second: second.tick_ms),
    ]


def kind_text(kind: str) -> str:
    """A kind of requests as people read it."""
    return {"step": "Single steps", "sequence": "Sequences"}.get(kind, kind)


def _throughput(document: LoadDocument) -> Chart | None:
    curves: list[tuple[str, Values]] = [("Steps answered", rates(document, lambda second: second.steps))]
    if any(second.steps != second.requests for second in document.timeline):
        curves.append(("Requests answered", rates(document, lambda second: second.requests)))
    if document.mode == "open":
        curves.append(("Requests due", due(document)))
    return _over_time(document, "throughput", "Throughput over time", "per second", curves, dashed="Requests due")


def _latency_over_time(document: LoadDocument) -> Chart | None:
    timeline = document.timeline
    curves: list[tuple[str, Values]] = [
        ("p50", [second.p50_ms for second in timeline]),
        ("p99", [second.p99_ms for second in timeline]),
        ("Slowest", [second.max_ms for second in timeline]),
    ]
    return _over_time(document, "latency", "Latency over time", "ms", curves)


def _errors(document: LoadDocument) -> Chart | None:
    if not any(second.errors for second in document.timeline):
        return None
    errors = rates(document, lambda second: second.errors)
    return _over_time(document, "errors", "Errors over time", "per second", [("Errors", errors)], wide=False)


def _sessions(document: LoadDocument) -> Chart | None:
    sessions = [float(second.sessions) for second in document.timeline]
    if len(set(sessions)) < 2:
        return None
    curves = [("Open sessions", sessions)]
    return _over_time(document, "sessions", "Sessions over time", "sessions", curves, wide=False)


def _search(search: FindMax) -> Chart | None:
    trials = sorted(search.trials, key=lambda trial: trial.rate)
    x = [trial.rate for trial in trials]
    curves = [
        Curve("p50", x, [trial.latency_ms.p50 for trial in trials]),
        Curve("p99", x, [trial.latency_ms.p99 for trial in trials]),
    ]
    note = "Each point is a trial of the search for the highest rate."
    return _overlay("search", "Latency by rate", "ms", curves, x_kind="rate", note=note, log=spread(curves))


def _over_time(
    document: LoadDocument,
    key: str,
    title: str,
    unit: str,
    lines: Sequence[tuple[str, Values]],
    *,
    wide: bool = True,
    dashed: str = "",
) -> Chart | None:
    """Lines over the seconds of one document, its stages marked; None without any second."""
    curves = [Curve(label, seconds(document), values) for label, values in lines]
    log = unit == "ms" and spread(curves)
    chart = _overlay(key, title, unit, curves, wide=wide, dashed=dashed, log=log)
    return replace(chart, marks=_stage_marks(document)) if chart is not None else None


def _overlay(
    key: str,
    title: str,
    unit: str,
    curves: Sequence[Curve],
    *,
    x_kind: XKind = "seconds",
    note: str = "",
    log: bool = False,
    wide: bool = True,
    dashed: str = "",
) -> Chart | None:
    """Curves over the x of all of them; None without any value. One without keeps its colour."""
    x = sorted({value for curve in curves for value in curve.x})
    lines = [
        Series(curve.label, index, curve.label == dashed, resampled(x, curve)) for index, curve in enumerate(curves)
    ]
    series = tuple(line for line in lines if any(value is not None for value in line.values))
    return Chart(key, title, note, x_kind, unit, log, wide, tuple(x), series) if series else None


def _stage_marks(document: LoadDocument) -> tuple[Mark, ...]:
    """Where each of several stages ends, and what it had by then."""
    if len(document.stages) < 2:
        return ()
    ends = accumulate(stage.seconds for stage in document.stages)
    return tuple(Mark(end, _stage_text(stage)) for end, stage in zip(ends, document.stages, strict=True))


def _stage_text(stage: Stage) -> str:
    return f"{stage.rate:,.0f}/s" if stage.rate is not None else f"{stage.sessions or 0:,} sessions"
