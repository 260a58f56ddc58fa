"""What the commands share: options, errors as one line, tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table

from cellserve.errors import CellServeError

DEFAULT_ADDRESS = "localhost:50051"
ADDRESS_VARIABLE = "CELLSERVE_ADDRESS"
DEFAULT_TIMEOUT_S = 10.0
# For files and pipes, where no terminal says how wide a line may be.
WIDTH_WITHOUT_TERMINAL = 240
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

Function = TypeVar("Function", bound=Callable[..., Any])


def run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Runs a command and returns its exit code; what goes wrong is one line on standard error."""
    try:
        code = command.main(args=list(arguments), prog_name=name, standalone_mode=False)
    except click.Abort:
        click.echo(f"{name}: interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CellServeError as error:
        click.echo(f"{name}: {error.message}", err=True)
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def server_options(function: Function) -> Function:
    """``--address`` and ``--timeout``."""
    address = click.option(
        "--address",
        envvar=ADDRESS_VARIABLE,
        default=DEFAULT_ADDRESS,
        show_default=True,
        show_envvar=True,
        metavar="ADDRESS",
        help="Where the server is: HOST:PORT, several replicas as HOST:PORT,HOST:PORT, or dns:///NAME:PORT for every "
        "address of a name.",
    )
    timeout = click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_TIMEOUT_S,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for an answer.",
    )
    return address(timeout(function))


def json_option(function: Function) -> Function:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


def print_json(document: Any) -> None:
    """Prints a document on standard output."""
    click.echo(json.dumps(document, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers_from: int | None = None) -> None:
    """Prints a table on standard output; from the column ``numbers_from`` on it has numbers, which end together."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        is_number = numbers_from is not None and index >= numbers_from
        table.add_column(column, overflow="fold", justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console().print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Prints names and values, one pair a line, on standard output."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, str(value))
    console().print(table)


def console() -> Console:
    """Standard output; what stands in brackets is printed as it is."""
    width = None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(width=width, markup=False, highlight=False, emoji=False)


def time_text(moment: datetime | None) -> str | None:
    """A moment as ISO 8601 with its offset; None stays None."""
    return None if moment is None else moment.isoformat(timespec="seconds")
