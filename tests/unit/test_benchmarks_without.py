"""The copies of the server that a part was taken out of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.without import METRICS, NothingFoundError, server_without


@pytest.mark.slow
def test_what_fits_is_gone_and_the_rest_still_compiles(tmp_path: Path) -> None:
    assert server_without(METRICS, tmp_path) >= len(METRICS)
    for path in tmp_path.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
        for line in text.splitlines():
            assert not any(re.fullmatch(shape, line.strip()) for shape in METRICS), f"{path}: {line}"


@pytest.mark.slow
def test_without_nothing_the_copy_is_whole(tmp_path: Path) -> None:
    assert server_without((), tmp_path) == 0
    assert "self._metrics.tick(" in (tmp_path / "cellserve_server/engine/step_ticks.py").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_shape_that_fits_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(NothingFoundError, match="no_such_name"):
        server_without((r"no_such_name\(\)",), tmp_path)
