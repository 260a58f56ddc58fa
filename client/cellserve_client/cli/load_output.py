"""What ``cellserve load`` shows: a bar while it runs, then a table, or files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from cellserve_client.cli.common import print_fields, print_json
from cellserve_client.load import LoadDocument, LoadPlan, Progress, run_load
from cellserve_client.load.csv_files import write_csv
from cellserve_client.load.document import Latency, Slo, Term, Trial
from cellserve_client.load.figures import milliseconds_text
from cellserve_client.load.html_report import write_html

STDOUT = "-"
SEARCH_LIMITED = (
    "at the next higher rate the load tester itself is likely to have been the limit: the server may hold more. Search "
    "with more --processes, on another machine than the server's"
)


class Outputs:
    """Where the result goes.

    Args:
        json_file: ``-`` for standard output, a file that ends in ``.json``, or None.
        csv_file, html_file: None: not wanted.

    Raises:
        click.ClickException: a file cannot be written there: told before a long test, not after it.
    """

    def __init__(self, json_file: str | None, csv_file: Path | None, html_file: Path | None) -> None:
        self._prints_json = json_file == STDOUT
        self._json_file = None if json_file is None or self._prints_json else Path(json_file)
        if self._json_file is not None and self._json_file.suffix != ".json":
            # ``--json localhost:50051`` is an address that stands in the wrong place.
            raise click.BadParameter(f"expected a file that ends in .json; got {json_file!r}", param_hint="--json")
        self._csv_file = csv_file
        self._html_file = html_file
        for file in (self._json_file, csv_file, html_file):
            if file is not None and not file.absolute().parent.is_dir():
                raise click.BadParameter(f"expected a file in a folder that exists; got {file}")

    def give(self, document: LoadDocument) -> None:
        """Prints the document, and writes the files that are wanted.

        Raises:
            click.ClickException: one cannot be written.
        """
        if self._prints_json:
            print_json(document.to_json())
        else:
            print_document(document)
        try:
            if self._json_file is not None:
                self._json_file.write_text(json.dumps(document.to_json(), indent=2) + "\n", encoding="utf-8")
            if self._csv_file is not None:
                write_csv(document, self._csv_file)
            if self._html_file is not None:
                write_html(document, self._html_file)
        except OSError as error:
            raise click.ClickException(f"the result cannot be written: {error}") from error


def run_with_progress(plan: LoadPlan) -> LoadDocument:
    """Runs a test, with a bar on standard error where that is a terminal."""
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn(
            "{task.fields[rate]:>9,.0f} steps/s  p50 {task.fields[p50]}  p99 {task.fields[p99]}  "
            "{task.fields[errors]:,} errors"
        ),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    name = "" if plan.rate is None else f" at {plan.rate:,.0f}/s"
    with bar:
        task = bar.add_task(
            f"opening{name}", total=plan.before_s + plan.measured_s, rate=0.0, p50="-", p99="-", errors=0
        )

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.seconds,
                description=("measuring" if progress.is_measuring else "warm-up") + name,
                rate=progress.steps_per_second,
                p50=milliseconds_text(progress.p50_ms),
                p99=milliseconds_text(progress.p99_ms),
                errors=progress.errors,
            )

        return run_load(plan, show)


def print_trial(trial: Trial) -> None:
    """One line on standard error about a trial of a search."""
    click.echo(
        f"{trial.rate:>10,.1f}/s  {'held  ' if trial.held else 'missed'}  {trial.steps_per_second:>10,.0f} steps/s  "
        f"p50 {milliseconds_text(trial.latency_ms.p50)}  p99 {milliseconds_text(trial.latency_ms.p99)}  "
        f"errors {trial.errors_share:.2%}{'  the load tester was the limit' if trial.client_is_limit else ''}",
        err=True,
    )


def print_document(document: LoadDocument) -> None:
    """A table on standard output."""
    totals = document.totals
    fields: list[tuple[str, object]] = [
        ("server", document.server.address),
        ("model", document.server.model),
        ("loop", _loop(document)),
        ("measured", f"{document.seconds:.1f} s"),
        ("steps", f"{totals.steps:,}"),
        ("steps/s", f"{totals.steps_per_second:,.0f}"),
    ]
    if totals.requests != totals.steps or document.mode == "open":
        fields.append(("requests/s", f"{totals.requests_per_second:,.1f}"))
    if totals.offered_per_second is not None:
        fields.append(("offered/s", f"{totals.offered_per_second:,.1f}"))
    fields += _latency_fields(document.latency_ms)
    if document.mode == "open":
        sent = document.service_ms
        fields.append(("from sending", f"p50 {milliseconds_text(sent.p50)}, p99 {milliseconds_text(sent.p99)}"))
    fields += _kind_fields(document)
    fields.append(("failed", f"{totals.failed:,}"))
    fields.append(("errors", ", ".join(f"{reason} {count:,}" for reason, count in document.errors.items()) or "none"))
    fields += _server_fields(document)
    if document.slo is not None:
        fields.append(("objective", _objective(document.slo)))
    if document.find_max is not None:
        best = document.find_max.best_rate
        fields.append(("highest rate", "none held the objective" if best is None else f"{best:,.1f} requests/s"))
        if document.find_max.client_is_limit:
            fields.append(("warning", SEARCH_LIMITED))
    if document.client.warning is not None:
        fields.append(("warning", document.client.warning))
    fields.append(("result", f"failed: {document.failure}" if document.failure else "passed"))
    print_fields(fields)


def _loop(document: LoadDocument) -> str:
    first, *more = document.stages
    level = f"{first.rate:g} requests/s" if first.rate is not None else f"{first.sessions} sessions"
    stages = f", and {len(more)} more stages" if more else ""
    return f"{document.mode}: {level}{stages}"


def _latency_fields(latency: Latency) -> list[tuple[str, object]]:
    return [
        ("p50", milliseconds_text(latency.p50)),
        ("p90", milliseconds_text(latency.p90)),
        ("p99", milliseconds_text(latency.p99)),
        ("p99.9", milliseconds_text(latency.p999)),
        ("max", milliseconds_text(latency.max)),
    ]


def _kind_fields(document: LoadDocument) -> list[tuple[str, object]]:
    """A line for each kind of requests, where there are several."""
    if len(document.by_kind) < 2:
        return []
    return [
        (
            f"{name}s",
            f"{kind.requests:,}, p50 {milliseconds_text(kind.latency_ms.p50)}, "
            f"p99 {milliseconds_text(kind.latency_ms.p99)}",
        )
        for name, kind in document.by_kind.items()
    ]


def _server_fields(document: LoadDocument) -> list[tuple[str, object]]:
    metrics = document.server_metrics
    if metrics is None:
        return []
    rows = [second.rows_per_tick for second in metrics.timeline if second.rows_per_tick is not None]
    fields: list[tuple[str, object]] = []
    if rows:
        fields.append(("rows/tick", f"{sum(rows) / len(rows):.1f}"))
    if metrics.steps_delta is not None:
        own = document.totals.steps_with_warmup
        fields.append(("steps in all", f"{own:,} answered; the server counted {metrics.steps_delta:,}"))
    return fields


def _objective(slo: Slo) -> str:
    return "; ".join(f"{term.term} {'held' if term.held else 'missed'} ({_measured(term)})" for term in slo.terms)


def _measured(term: Term) -> str:
    if term.measured is None:
        return "nothing measured"
    if term.term.startswith("errors"):
        return f"{term.measured:.3%}"
    return f"{term.measured:,.1f}/s" if term.term.startswith("rate") else milliseconds_text(term.measured)
