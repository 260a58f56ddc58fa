"""How these programs show how far they are, and how they end: one JSON object as the last line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cellserve.errors import CellServeError
from deploy.fleet import FleetError

SHOWN_ERRORS = 10


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error, where that is a terminal.

    Args:
        what: is counted.
        total: how many there will be.

    Yields:
        What is to be told how many there are so far, and a word or two besides.
    """
    bar = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[more]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(what, total=total, more="")
        yield lambda count, more: bar.update(task, completed=count, more=more)


@contextmanager
def failures_told() -> Iterator[None]:
    """What does not start, or does not come to an end, ends the program with a word."""
    try:
        yield
    except (FleetError, CellServeError) as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(1)
    except TimeoutError:
        print("failed: it did not come to an end in time", file=sys.stderr)
        sys.exit(1)


def end_with(report: Mapping[str, Any], errors: list[str], *, passed: bool) -> None:
    """Prints the errors, then the report as the last line, and ends the program."""
    for error in errors[:SHOWN_ERRORS]:
        print(error, file=sys.stderr)
    if len(errors) > SHOWN_ERRORS:
        print(f"... and {len(errors) - SHOWN_ERRORS} more errors", file=sys.stderr)
    print(json.dumps(report), flush=True)
    sys.exit(0 if passed else 1)
