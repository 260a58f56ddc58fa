"""``cellserve load``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from cellserve_client.cli.common import (
    ADDRESS_VARIABLE,
    DEFAULT_ADDRESS,
    EXIT_FAILED,
    json_option,
    print_fields,
    print_json,
    run,
)
from cellserve_client.load import LoadPlan, LoadReport, Progress, run_load
from cellserve_client.load.runner import MAX_SECONDS, MAX_SESSIONS


def main(arguments: Sequence[str]) -> int:
    """Measure how many steps a second a server does."""
    return run(load, "cellserve load", arguments)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("address", envvar=ADDRESS_VARIABLE, default=DEFAULT_ADDRESS)
@click.option(
    "--model", help="Which model; needed unless the server has exactly one, beside those that clients defined."
)
@click.option(
    "--sessions", type=click.IntRange(1, MAX_SESSIONS), default=64, show_default=True, help="Stepped at once."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, MAX_SECONDS),
    default=10.0,
    show_default=True,
    help="How long to measure.",
)
@click.option(
    "--warmup",
    "warmup_s",
    type=click.FloatRange(0, MAX_SECONDS),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to step before measuring.",
)
@json_option
def load(address: str, model: str | None, sessions: int, seconds: float, warmup_s: float, as_json: bool) -> int:
    """Measure how many steps a second a server does.

    It opens sessions and steps them in a closed loop with random inputs: each sends its next step when the last one
    is answered. It prints the rate, the latencies and the errors by reason. The exit code is 1 when no step was
    answered, when more than 1 % of the steps failed, or when the server was lost in the end: no step was answered in
    the last 2 seconds. The report says which.

    ADDRESS is where the server is, HOST:PORT, several with commas between, or dns:///NAME:PORT; localhost:50051 unless
    given here or as CELLSERVE_ADDRESS.

    \b
    Examples:
      cellserve load localhost:50051 --model speaker-id
      cellserve load localhost:50051 --model speaker-id --sessions 256 --seconds 30 --json
    """
    plan = LoadPlan(address, model, sessions, seconds, warmup_s)
    report = _with_progress(plan)
    if as_json:
        print_json(report.document())
    else:
        _print_report(report)
    return EXIT_FAILED if report.failure else 0


def _with_progress(plan: LoadPlan) -> LoadReport:
    """Runs the test, with a bar on standard error where that is a terminal."""
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]:>9,.0f} steps/s  {task.fields[errors]:,} errors"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("warm-up", total=plan.warmup_s + plan.seconds, rate=0.0, errors=0)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.seconds,
                description="warm-up" if progress.seconds < plan.warmup_s else "measuring",
                rate=progress.steps_per_second,
                errors=progress.errors,
            )

        return asyncio.run(run_load(plan, show))


def _print_report(report: LoadReport) -> None:
    def milliseconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f} ms"

    print_fields(
        [
            ("server", report.address),
            ("model", report.model),
            ("sessions", report.sessions),
            ("measured", f"{report.seconds:.1f} s"),
            ("steps", f"{report.steps:,}"),
            ("steps/s", f"{report.steps_per_second:,.0f}"),
            ("p50", milliseconds(report.p50_ms)),
            ("p99", milliseconds(report.p99_ms)),
            ("p99.9", milliseconds(report.p999_ms)),
            ("max", milliseconds(report.max_ms)),
            ("errors", ", ".join(f"{reason} {count:,}" for reason, count in report.errors.items()) or "none"),
            ("result", f"failed: {report.failure}" if report.failure else "passed"),
        ]
    )
