"""What the commands share: options, errors as one line, tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table

from cellserve.errors import CellServeError
from cellserve_client.bearer import TOKEN_FILE_VARIABLE
from cellserve_client.connection import ConnectionSettings
from cellserve_client.tls import (
    CA_VARIABLE,
    CERT_VARIABLE,
    KEY_VARIABLE,
    SERVER_NAME_VARIABLE,
    TLS_VARIABLE,
    TlsSettings,
)

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
    """``--address``, ``--timeout`` and ``security_options``; ``connection(address, timeout_s)`` puts them together."""
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
    return address(timeout(security_options(function)))


def security_options(function: Function) -> Function:
    """``--tls``, ``--tls-ca``, ``--tls-cert``, ``--tls-key``, ``--tls-server-name`` and ``--token-file``.

    The command does not get their values: ``connection`` does.
    """
    options = (
        _kept("--tls/--no-tls", TLS_VARIABLE, None, "Speak TLS; any of the next four does too."),
        _kept("--tls-ca", CA_VARIABLE, "FILE", "Whom to trust, in PEM.  [default: those that this machine trusts]"),
        _kept("--tls-cert", CERT_VARIABLE, "FILE", "Your own certificate, in PEM, for a server that asks for one."),
        _kept("--tls-key", KEY_VARIABLE, "FILE", "Its key."),
        _kept("--tls-server-name", SERVER_NAME_VARIABLE, "NAME", "The name that the server's certificate is for."),
        _kept("--token-file", TOKEN_FILE_VARIABLE, "FILE", "The file with the token that says who you are."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def connection(address: str, timeout_s: float) -> ConnectionSettings:
    """How the command that runs is to connect: as its ``security_options`` say.

    Raises:
        FieldInvalidError: an option is not of its form.
    """
    given = click.get_current_context().meta
    tls: bool | None = given[_key("--tls")]
    names = ("--tls-ca", "--tls-cert", "--tls-key", "--tls-server-name")
    values: list[str | None] = [given[_key(name)] or None for name in names]
    token_file: str | None = given[_key("--token-file")]
    return ConnectionSettings(
        address,
        timeout_s=timeout_s,
        tls=TlsSettings(*values) if tls is not False and any(values) else bool(tls),
        token=Path(token_file) if token_file else "",
    )


def _kept(flag: str, variable: str, metavar: str | None, help_text: str) -> Callable[[Function], Function]:
    """An option whose value is kept beside the parameters: commands need not pass on what they do not use."""

    def keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
        context.meta[_key(flag)] = value

    return click.option(
        flag,
        default=None,
        envvar=variable,
        show_envvar=True,
        metavar=metavar,
        expose_value=False,
        callback=keep,
        help=help_text,
    )


def _key(flag: str) -> str:
    """Under which an option's value is kept."""
    return f"cellserve {flag.partition('/')[0]}"


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
