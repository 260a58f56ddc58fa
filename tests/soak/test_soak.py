"""A short run of the soak test; it runs for long by hand: ``python -m tests.soak --help``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.soak.premises import Holdings, left_behind, premises
from tests.soak.soak import soak
from tests.soak.visits import COMMON, SOLITARY

SECONDS = 20.0


@pytest.mark.slow
def test_all_is_as_it_was_after_everything_has_come_and_gone(tmp_path: Path) -> None:
    with premises("sqlite", tmp_path) as house:
        report, errors = asyncio.run(soak(house, SECONDS, 5, lambda _, __: None))
    assert errors == []
    assert report.passed, asdict(report)
    assert set(report.visits) == {deed.__name__ for deed in (*COMMON, *SOLITARY)}, "there was time for each"
    assert report.sessions_ended > 0


def test_what_is_left_behind_is_counted() -> None:
    before = Holdings(files=10, threads=5, tasks=3, sessions=2, slab_rows=4, models=1)
    after = Holdings(files=12, threads=5, tasks=3, sessions=2, slab_rows=3, models=1)
    assert left_behind(before, after) == {
        "files_left": 2,
        "threads_left": 0,
        "tasks_left": 0,
        "sessions_left": 0,
        "slab_rows_left": -1,
        "models_left": 0,
    }
