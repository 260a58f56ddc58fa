"""The seconds of a load test as CSV."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from cellserve_client.load.csv_files import COLUMNS, write_csv
from cellserve_client.load.document import LoadDocument
from tests.load_documents import STALL_SECOND, closed_document, open_document


def written(document: LoadDocument, path: Path) -> list[dict[str, str]]:
    write_csv(document, path)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == list(COLUMNS)
        return list(reader)


def test_it_has_a_row_for_each_second_with_what_the_server_told_of_it(tmp_path: Path) -> None:
    document = open_document()
    rows = written(document, tmp_path / "load.csv")
    assert [int(row["second_s"]) for row in rows] == list(range(30))
    second, row = document.timeline[STALL_SECOND], rows[STALL_SECOND]
    assert (int(row["steps"]), int(row["requests"]), int(row["errors"])) == (second.steps, second.requests, 40)
    assert (float(row["p99_ms"]), float(row["max_ms"])) == (900.0, 1000.0)
    assert float(row["offered_requests_per_second"]) == 8_000.0
    assert float(row["server_steps_per_second"]) == second.steps
    assert float(row["server_queue_runs"]) == 12.0 + STALL_SECOND
    assert float(row["server_tick_ms"]) == 1.1


def test_cells_are_empty_where_there_is_nothing(tmp_path: Path) -> None:
    document = closed_document(seconds=3)
    silent = replace(document.timeline[1], steps=0, requests=0, p50_ms=None, p99_ms=None, max_ms=None)
    rows = written(replace(document, timeline=(document.timeline[0], silent, document.timeline[2])), tmp_path / "a.csv")
    assert (rows[1]["steps"], rows[1]["p50_ms"], rows[1]["max_ms"]) == ("0", "", "")
    assert all(row["offered_requests_per_second"] == row["server_rows_per_tick"] == "" for row in rows)


def test_a_second_that_the_metrics_missed_keeps_its_row(tmp_path: Path) -> None:
    document = open_document()
    assert document.server_metrics is not None
    thinned = replace(document.server_metrics, timeline=document.server_metrics.timeline[::2])
    rows = written(replace(document, server_metrics=thinned), tmp_path / "load.csv")
    assert len(rows) == 30
    assert [bool(row["server_sessions"]) for row in rows[:4]] == [True, False, True, False]


def test_a_file_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_csv(closed_document(seconds=1), tmp_path / "nowhere" / "load.csv")
