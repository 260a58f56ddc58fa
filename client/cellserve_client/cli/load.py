"""``cellserve load``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click

from cellserve_client.cli.common import (
    ADDRESS_VARIABLE,
    DEFAULT_ADDRESS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    connection,
    run,
    security_options,
)
from cellserve_client.cli.load_compare import main as compare
from cellserve_client.cli.load_output import Outputs, print_trial, run_with_progress
from cellserve_client.load import LoadDocument, LoadPlan
from cellserve_client.load.find_max import find_max as search_rate
from cellserve_client.load.plan import MAX_PROCESSES, MAX_SECONDS, MAX_SESSIONS, Arrivals, Transport
from cellserve_client.load.stages import parse_stage
from cellserve_client.load.verdict import INTERRUPTED

EXIT_OBJECTIVE_MISSED = 3
AUTO = "auto"
COMPARE = "compare"

Function = TypeVar("Function", bound=Callable[..., int])


def main(arguments: Sequence[str]) -> int:
    """Load a server: closed or open loop, percentiles, objectives, the highest rate."""
    if arguments[:1] == [COMPARE]:  # No address: it has no port.
        return compare(arguments[1:])
    return run(load, "cellserve load", arguments)


def _level_options(function: Function) -> Function:
    seconds = click.FloatRange(0, MAX_SECONDS)
    options = (
        click.option(
            "--sessions",
            type=click.IntRange(1, MAX_SESSIONS),
            default=64,
            show_default=True,
            help="Open at once. Without --rate each sends its next request when the last one is answered.",
        ),
        click.option(
            "--rate",
            type=float,
            metavar="R",
            help="Requests a second, due by a schedule whether or not the server keeps up: an open loop.",
        ),
        click.option(
            "--arrivals",
            type=click.Choice(["poisson", "constant"]),
            default="poisson",
            show_default=True,
            help="With --rate: at random moments, or evenly.",
        ),
        click.option(
            "--max-sessions", type=int, metavar="N", help="With --rate: open up to so many when all are busy."
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(0.1, MAX_SECONDS),
            default=10.0,
            show_default=True,
            help="How long to measure.",
        ),
        click.option(
            "--warmup",
            "warmup_s",
            type=seconds,
            default=1.0,
            show_default=True,
            metavar="SECONDS",
            help="How long to send requests before measuring.",
        ),
        click.option(
            "--ramp",
            "ramp_s",
            type=seconds,
            default=0.0,
            metavar="SECONDS",
            help="How long each change of the number of sessions or of the rate takes, the first from nothing.",
        ),
        click.option(
            "--stage",
            "stages",
            multiple=True,
            metavar="STAGE",
            help="A part of the measured time, 30s:256 (sessions) or 2m:500/s (requests a second); repeatable.",
        ),
    )
    return _with(options, function)


def _traffic_options(function: Function) -> Function:
    options = (
        click.option(
            "--traffic",
            default="step",
            show_default=True,
            metavar="KIND",
            help="step, sequence, or mixed:SHARE with so large a share of single steps.",
        ),
        click.option(
            "--transport",
            type=click.Choice(["stream", "unary", "mixed"]),
            default="stream",
            show_default=True,
            help="Single steps gathered in few messages, each a request of its own, or both.",
        ),
        click.option("--sequence-length", default="32", show_default=True, metavar="DIST", help="Steps of a sequence."),
        click.option(
            "--session-length",
            metavar="DIST",
            help="Steps after which a session is closed and another opened.  [default: never]",
        ),
        click.option(
            "--think-time",
            default="0",
            show_default=True,
            metavar="DIST",
            help="Seconds between an answer and the session's next request; not with --rate.",
        ),
        click.option(
            "--inputs",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="Play these: .npy or .csv with a row for each step, .npz with an array for each input.  "
            "[default: random ones]",
        ),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is random."),
        click.option(
            "--processes",
            default="1",
            show_default=True,
            metavar="N|auto",
            help="Processes that send; auto: as many as this machine has cores.",
        ),
        click.option(
            "--timeout",
            "timeout_s",
            type=float,
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="Of one request.",
        ),
        click.option("--pinned", is_flag=True, help="Several servers without a store that they share."),
        click.option("--proxied", is_flag=True, help="A proxy with replicas behind it."),
    )
    return _with(options, security_options(function))


def _result_options(function: Function) -> Function:
    file = click.Path(dir_okay=False, path_type=Path)
    options = (
        click.option("--slo", metavar="TERMS", help='An objective that decides the exit code: "p99<20ms,errors<0.1%".'),
        click.option("--find-max", is_flag=True, help="Search the highest rate that holds the --slo."),
        click.option(
            "--trial-seconds",
            type=click.FloatRange(0.1, MAX_SECONDS),
            default=5.0,
            show_default=True,
            help="With --find-max: how long to measure each rate.",
        ),
        click.option(
            "--metrics",
            multiple=True,
            metavar="URL",
            help="The page of the server's metrics; repeatable.  [default: http://HOST:9464/metrics, if it is there]",
        ),
        click.option(
            "--json",
            "json_file",
            is_flag=False,
            flag_value="-",
            metavar="[FILE]",
            help="Print JSON for programs; or write it to FILE, which ends in .json.",
        ),
        click.option("--csv", "csv_file", type=file, metavar="FILE", help="Write the seconds as a table."),
        click.option("--html", "html_file", type=file, metavar="FILE", help="Write a report as one page."),
    )
    return _with(options, function)


def _with(options: Sequence[Callable[[Function], Function]], function: Function) -> Function:
    for option in reversed(options):
        function = option(function)
    return function


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("address", envvar=ADDRESS_VARIABLE, default=DEFAULT_ADDRESS)
@click.option(
    "--model", help="Which model; needed unless the server has exactly one, beside those that clients defined."
)
@_level_options
@_traffic_options
@_result_options
def load(
    address: str,
    model: str | None,
    sessions: int,
    rate: float | None,
    arrivals: Arrivals,
    max_sessions: int | None,
    seconds: float,
    warmup_s: float,
    ramp_s: float,
    stages: tuple[str, ...],
    traffic: str,
    transport: Transport,
    sequence_length: str,
    session_length: str | None,
    think_time: str,
    inputs: str | None,
    seed: int,
    processes: str,
    timeout_s: float,
    pinned: bool,
    proxied: bool,
    slo: str | None,
    find_max: bool,
    trial_seconds: float,
    metrics: tuple[str, ...],
    json_file: str | None,
    csv_file: Path | None,
    html_file: Path | None,
) -> int:
    """Load a server with sessions, and measure its rate and its latencies.

    Without --rate it is a closed loop: each session sends its next request when the last one is answered. With --rate
    requests are due by a schedule, and latencies run from when they were due: a server that stalls shows its stall.

    DIST is a number, or uniform:LOW,HIGH, exponential:MEAN, lognormal:MEDIAN,SIGMA or poisson:MEAN.

    The exit code is 0 when the test passed; 1 when it failed: no server, no request was answered, more than 1 % of them
    failed (unless --slo says how many may), or the server was lost in the end; 3 when it passed and the --slo was not
    held; 130 after Ctrl-C, which still reports.

    ADDRESS is where the server is, HOST:PORT, several with commas between, or dns:///NAME:PORT; localhost:50051 unless
    given here or as CELLSERVE_ADDRESS.

    \b
    Examples:
      cellserve load localhost:50051 --model speaker-id
      cellserve load localhost:50051 --model speaker-id --sessions 256 --seconds 30 --json
      cellserve load --rate 500 --slo "p99<20ms,errors<0.1%" --html report.html
      cellserve load --find-max --slo "p99<20ms"
      cellserve load --ramp 5 --stage 30s:64 --stage 30s:256 --traffic mixed:0.9
      cellserve load compare before.json after.json
    """
    outputs = Outputs(json_file, csv_file, html_file)
    plan = LoadPlan(
        replace(connection(address, timeout_s), pinned=pinned, proxied=proxied),
        model=model,
        sessions=sessions,
        rate=rate,
        arrivals=arrivals,
        max_sessions=max_sessions,
        seconds=trial_seconds if find_max else seconds,
        warmup_s=warmup_s,
        ramp_s=ramp_s,
        stages=tuple(parse_stage(text) for text in stages),
        traffic=traffic,
        transport=transport,
        sequence_length=sequence_length,
        session_length=session_length,
        think_time=think_time,
        inputs=inputs,
        processes=_process_count(processes, sessions),
        timeout_s=timeout_s,
        seed=seed,
        slo=slo,
        metrics=metrics or None,
    )
    document = search_rate(plan, print_trial, run_with_progress) if find_max else run_with_progress(plan)
    outputs.give(document)
    return _exit_code(document)


def _process_count(text: str, sessions: int) -> int:
    if text == AUTO:
        return min(os.cpu_count() or 1, sessions, MAX_PROCESSES)
    if not text.isdecimal():
        raise click.BadParameter(f"expected a number or {AUTO}; got {text!r}", param_hint="--processes")
    return int(text)


def _exit_code(document: LoadDocument) -> int:
    if document.failure is not None:
        return EXIT_INTERRUPTED if document.failure == INTERRUPTED else EXIT_FAILED
    if document.find_max is not None:
        return 0 if document.find_max.best_rate is not None else EXIT_OBJECTIVE_MISSED
    return EXIT_OBJECTIVE_MISSED if document.slo is not None and not document.slo.held else 0
