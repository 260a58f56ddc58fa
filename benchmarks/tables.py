"""Tables for people, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.results import Cell, Result, Verdict

WIDTH = 130
_WORDS = {True: "[green]yes", False: "[red]no", None: "not measured"}


def wide_console() -> Console:
    """stdout; in a file or a pipe as wide as these tables want it."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def table_of(name: str, result: Result) -> Table:
    """What one benchmark found, with its notes below."""
    table = Table(title=name, title_justify="left", caption="\n".join(result.notes) or None, caption_justify="left")
    for place, column in enumerate(result.rows[0] if result.rows else ()):
        table.add_column(column, justify="right" if place else "left")
    for row in result.rows:
        table.add_row(*(as_text(cell) for cell in row.values()))
    return table


def beside(found: Mapping[str, float]) -> dict[str, Cell]:
    """The columns of what ``samples.compare`` found: ours, then after a stroke the reference's."""

    def both(key: str) -> str:
        return f"{as_text(found[key])} / {as_text(found[f'reference_{key}'])}"

    return {
        "ratio": found["ratio"],
        "steps/s / reference": both("rate"),
        "client us a step": both("client_cpu_us"),
        "server us a step": both("server_cpu_us"),
        "p50 ms": both("p50_ms"),
        "p99 ms": both("p99_ms"),
    }


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Each target, what was found, and whether that is enough."""
    table = Table(title="targets", title_justify="left")
    for column in ("benchmark", "what", "key"):
        table.add_column(column)
    for column in ("found", "wanted", "reached"):
        table.add_column(column, justify="right")
    for verdict in verdicts:
        target = verdict.target
        table.add_row(
            target.benchmark,
            target.meaning,
            target.key,
            "" if verdict.value is None else as_text(verdict.value),
            f"{target.way} {as_text(target.bound if verdict.bound is None else verdict.bound)}",
            _WORDS[verdict.reached],
        )
    return table


def as_text(cell: Cell) -> str:
    """Three digits, or all of those before the point."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"
