"""``cellserve top``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from cellserve_client.cli.common import (
    ADDRESS_VARIABLE,
    DEFAULT_ADDRESS,
    EXIT_FAILED,
    connection,
    json_option,
    print_json,
    print_table,
    run,
    security_options,
)
from cellserve_client.session_info import MAX_SORTED, SORTS
from cellserve_client.top.figures import Figures
from cellserve_client.top.history import SHORTEST_S, History
from cellserve_client.top.reading import Asked
from cellserve_client.top.tables import models_table, replicas_table, sessions_table
from cellserve_client.top.watch import Watch

LONGEST_INTERVAL_S = 10.0
ANSWER_TIMEOUT_S = 2.0


def main(arguments: Sequence[str]) -> int:
    """Show servers, their models and their most active sessions, live."""
    return run(top, "cellserve top", arguments)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("address", envvar=ADDRESS_VARIABLE, default=DEFAULT_ADDRESS)
@click.option(
    "--metrics",
    "pages",
    multiple=True,
    metavar="URL",
    help="The page of the server's metrics; repeatable, in the order of the addresses.  "
    "[default: http://HOST:9464/metrics, if it is there]",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.5, LONGEST_INTERVAL_S),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two readings.",
)
@click.option(
    "--sort", type=click.Choice(list(SORTS)), default="rate", show_default=True, help="How sessions are sorted."
)
@click.option("--filter", "id_contains", default="", metavar="TEXT", help="Only sessions with this in their ids.")
@click.option("--model", help="Only sessions of this model.")
@click.option("--limit", type=click.IntRange(1, MAX_SORTED), default=100, show_default=True, help="Sessions at most.")
@click.option("--once", is_flag=True, help="Print it once, after two readings; so does an output that is no terminal.")
@security_options
@json_option
def top(
    address: str,
    pages: tuple[str, ...],
    interval_s: float,
    sort: str,
    id_contains: str,
    model: str | None,
    limit: int,
    once: bool,
    as_json: bool,
) -> int:
    """Show servers, their models and their most active sessions, live.

    Sessions, models and states come over gRPC; rates, latencies, batches and memory from the servers' pages of
    metrics. Reading costs a server of 100,000 sessions some milliseconds a reading. Keys: s sorts by the next column,
    r reverses, / filters by a part of the id, Enter opens a session (or chooses a model's), p pauses, space reads now,
    + and - change the interval, q quits.

    ADDRESS is where the server is, HOST:PORT, or several replicas with commas between; localhost:50051 unless given
    here or as CELLSERVE_ADDRESS.

    \b
    Examples:
      cellserve top localhost:50051
      cellserve top a:50051,b:50051 --metrics http://a:9464/metrics --metrics http://b:9464/metrics
      cellserve top --once --json --sort steps --limit 5
    """
    asked = Asked(sort, id_contains=id_contains, model=model, limit=limit)
    with Watch(connection(address, ANSWER_TIMEOUT_S), pages) as watch:
        if once or as_json or not (sys.stdout.isatty() and sys.stderr.isatty()):  # It draws on the second of them.
            return _print_once(watch, asked, interval_s, as_json)
        # Here, for the programs that print need not wait until all of it is loaded.
        from cellserve_client.top.screen import TopApp

        TopApp(watch, asked, interval_s=interval_s).run()
    return 0


def _print_once(watch: Watch, asked: Asked, interval_s: float, as_json: bool) -> int:
    history = History()
    figures = history.figures(watch.read(asked))
    is_there = any(not replica.trouble for replica in figures.replicas)
    if is_there:
        time.sleep(max(interval_s, SHORTEST_S))
        figures = history.figures(watch.read(asked))
    if as_json:
        print_json(document(figures))
    else:
        for table in (
            replicas_table(figures.replicas),
            models_table(figures.models),
            sessions_table(figures, asked),
        ):
            print_table(table.columns, table.rows)
    for note in figures.notes:
        click.echo(note, err=True)
    return 0 if is_there else EXIT_FAILED


def document(figures: Figures) -> dict[str, Any]:
    """What is shown, for programs: the fields of ``Figures``, but for the notes."""
    found = asdict(figures)
    del found["notes"]
    return found
