"""``cellserve sessions export`` and ``import``: sessions out of a store into a file, and back into any store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cellserve.errors import CellServeError
from cellserve_server import logs
from cellserve_server.binding import StartError
from cellserve_server.config import ServerConfig
from cellserve_server.keeping.session_files import SessionFileError
from cellserve_server.keeping.session_moves import Moved, export_sessions, import_sessions
from cellserve_server.keeping.stored_models import KEPT_TTLS
from cellserve_server.options import SettingFileError, values_from_files
from cellserve_server.stores.base import Store
from cellserve_server.stores.opening import make_store

FAILED = 1
USAGE_ERROR = 2
SHOWN_IDS = 5
STORE_TIMEOUT_S = 30.0

store_option = click.option(
    "--store",
    required=True,
    envvar="CELLSERVE_STORE",
    help="Where the sessions are, as for `cellserve serve`: sqlite:PATH, redis://HOST:PORT/DB or rediss://... "
    "CELLSERVE_STORE_FILE names a file with it, for a URL with a password.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
settings = {"help_option_names": ["-h", "--help"]}


def export_main(arguments: Sequence[str]) -> int:
    """Write the sessions of a store into a file."""
    return _run(export_command, "cellserve sessions export", arguments)


def import_main(arguments: Sequence[str]) -> int:
    """Put the sessions of a file into a store."""
    return _run(import_command, "cellserve sessions import", arguments)


def _run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Exit codes: 0 when all was moved, 1 when something was not, 2 for arguments that cannot be."""
    try:
        given = values_from_files(os.environ)
        return int(command.main(list(arguments), name, standalone_mode=False, default_map=given) or 0)
    except click.exceptions.Exit as done:  # --help was answered.
        return done.exit_code
    except click.ClickException as error:
        print(f"{name}: {error.format_message()}", file=sys.stderr)
        return USAGE_ERROR
    except SettingFileError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except (StartError, SessionFileError, CellServeError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return FAILED


@click.command(context_settings=settings)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@store_option
@click.option("--model", default="", help="Only sessions of this model, or of one version of it: NAME/versions/1.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@json_option
def export_command(file: Path, store: str, model: str, overwrite: bool, as_json: bool) -> int:
    """Write the sessions of a store, of all tenants, and the models that clients defined for them, into FILE.

    Servers may go on meanwhile; the file has what the store has at that moment. To move sessions rather than to copy
    them, stop the servers first.

    \b
    Example:
      cellserve sessions export --store sqlite:sessions.db sessions.csx
    """
    if file.exists() and not overwrite:
        raise click.UsageError(f"{file} is there already; --overwrite replaces it")
    wanted = f"models/{model.removeprefix('models/')}" if model else ""

    async def export(opened: Store) -> Moved:
        # Beside its place first: who finds the file finds it whole.
        part = file.with_name(f"{file.name}.part")
        try:
            with part.open("wb") as target, _progress("sessions read") as advance:
                moved = await export_sessions(opened, target, time.time(), model=wanted, on_progress=advance)
                target.flush()
                os.fsync(target.fileno())
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        return moved

    return _tell(asyncio.run(_with_store(store, export)), "exported", as_json)


@click.command(context_settings=settings)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@store_option
@json_option
def import_command(file: Path, store: str, as_json: bool) -> int:
    """Put the sessions of FILE into a store, where any server that shares it finds them.

    A session whose id the store has already is left as it is there, and makes the exit code 1.

    \b
    Example:
      cellserve sessions import --store redis://localhost:6379/0 sessions.csx
    """

    async def import_(opened: Store) -> Moved:
        with file.open("rb") as source, _progress("entries") as advance:
            ttl_s = KEPT_TTLS * ServerConfig.max_ttl_s
            return await import_sessions(opened, source, time.time(), model_ttl_s=ttl_s, on_progress=advance)

    return _tell(asyncio.run(_with_store(store, import_)), "imported", as_json)


async def _with_store(url: str, work: Callable[[Store], Awaitable[Moved]]) -> Moved:
    logs.configure("warning", "auto")
    store = make_store(url, time.time, fsync=True, timeout_s=STORE_TIMEOUT_S)
    if store.is_volatile:
        raise StartError("--store: expected sqlite:PATH, redis://... or rediss://...; what is in memory has no store")
    await store.open()
    try:
        return await work(store)
    finally:
        await store.close()


def _tell(moved: Moved, done: str, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps(asdict(moved)))
    else:
        click.echo(f"{done} {moved.sessions} sessions and {moved.models} models")
        if moved.expired:
            click.echo(f"{moved.expired} had expired and were left out")
    for what, ids in (("cannot be read", moved.damaged), ("are in the store already", moved.taken)):
        if ids:
            shown = ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")
            click.echo(f"{len(ids)} {what} and were left: {shown}", err=True)
    return FAILED if moved.damaged or moved.taken else 0


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A bar for whoever watches; nothing where nobody does."""
    console = Console(stderr=True)
    columns: list[Any] = [TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda count: progress.advance(task, count)
