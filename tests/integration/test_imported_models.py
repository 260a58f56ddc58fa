"""Every golden file of every framework, imported, served, and stepped over the wire; and the table that says so."""

from __future__ import annotations

from docs.import_table import BEGIN, END, PAGE, table

TOLERANCE = 1e-5


def columns(text: str) -> list[list[str]]:
    """The cells of a table's lines, without the heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_golden_file_is_served_as_its_framework_computes() -> None:
    found = columns(table())
    assert len(found) == 15
    assert {row[1] for row in found} == {"pytorch", "keras", "onnx", "tensorflow1"}
    assert [row for row in found if not float(row[-1]) < TOLERANCE] == []
    written = columns(PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0])
    # All but the differences, whose last bits are the machine's: run `python -m docs.import_table` if this fails.
    assert [row[:-1] for row in written] == [row[:-1] for row in found]
