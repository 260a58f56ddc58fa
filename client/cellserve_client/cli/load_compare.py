"""``cellserve load compare``: load tests side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
from rich.text import Text

from cellserve.errors import FieldInvalidError
from cellserve_client.cli.common import console, json_option, print_json, print_table, run
from cellserve_client.load import figures
from cellserve_client.load.comparison import Comparison, Row, compare
from cellserve_client.load.document_files import read_document
from cellserve_client.load.html_report import write_comparison_html

# The page has so many colours, and a terminal so much width.
MAX_FILES = 6


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    return run(compare_command, "cellserve load compare", arguments)


@click.command(name="compare")
@click.argument("files", nargs=-1, required=True, metavar="FILE FILE...", type=click.Path(path_type=Path))
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with all tests' charts, each over the others.",
)
@json_option
def compare_command(files: tuple[Path, ...], page: Path | None, as_json: bool) -> int:
    """Shows load tests side by side: what was asked of them, rates, latencies and errors.

    Each FILE is what `cellserve load ... --json FILE` wrote. Ratios are to the first.

    \b
    Examples:
      cellserve load compare before.json after.json
      cellserve load compare before.json after.json --html compared.html
    """
    if not 2 <= len(files) <= MAX_FILES:
        raise click.UsageError(f"FILE: expected from 2 to {MAX_FILES} files; got {len(files)}")
    comparison = compare({name: read_document(path) for name, path in _names(files).items()})
    if page is not None:
        _write_page(comparison, page)
    if as_json:
        print_json(comparison.to_json())
    else:
        _print(comparison)
    return 0


def _names(files: Sequence[Path]) -> dict[str, Path]:
    """Files by the shortest names that tell them apart.

    Raises:
        FieldInvalidError: one is there twice.
    """
    if len({os.path.abspath(path) for path in files}) != len(files):
        raise FieldInvalidError(f"FILE: expected each file once; got {', '.join(map(str, files))}")
    names = [path.stem for path in files]
    return dict(zip(names if len(set(names)) == len(files) else map(str, files), files, strict=True))


def _write_page(comparison: Comparison, page: Path) -> None:
    try:
        write_comparison_html(comparison, page)
    except OSError as error:
        raise click.FileError(str(page), error.strerror) from error


def _print(comparison: Comparison) -> None:
    for warning in comparison.warnings:
        console().print(Text(f"Note: {warning}", "yellow"))
    names = list(comparison.runs)
    if comparison.differing:
        settings = comparison.differing.items()
        print_table(["setting", *names], [[name, *map(figures.setting_text, values)] for name, values in settings])
    heads = ["", names[0]]
    for name in names[1:]:
        heads += [name, "ratio"]
    rows = [_cells(row) for row in comparison.rows]
    rows += [_cells(Row(f"errors: {reason}", "", counts)) for reason, counts in comparison.errors.items()]
    print_table(heads, rows, numbers_from=1)


def _cells(row: Row) -> list[str]:
    """A row of the table: its name, and each value with its ratio to the first."""
    text = figures.figure_text if row.unit else figures.count_text
    cells = [f"{row.name} ({row.unit})" if row.unit == "ms" else row.name, text(row.values[0])]
    for value, ratio in zip(row.values[1:], row.ratios[1:], strict=True):
        cells += [text(value), figures.ratio_text(ratio)]
    return cells
