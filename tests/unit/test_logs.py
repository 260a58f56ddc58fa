"""The server's log: nothing of what callers sent, and no endless line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from cellserve_server import logs

MAX_LINE_CHARS = 3 * logs.MAX_FIELD_CHARS


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged as JSON meanwhile."""
    root = logging.getLogger()
    handlers, level, settings = list(root.handlers), root.level, structlog.get_config()
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**settings)


def _fail(payload: str) -> None:
    local = f"local {payload}"
    raise RuntimeError("what went wrong", len(local))


def _one_line(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    fields: dict[str, Any] = json.loads(line)
    return fields


@pytest.mark.parametrize("foreign", [False, True])
def test_a_traceback_shows_no_local_variables(written: io.StringIO, foreign: bool) -> None:
    try:
        _fail("".join(["pay", "load"]))
    except RuntimeError as error:
        if foreign:
            logging.getLogger("library").error("bad", exc_info=error)
        else:
            structlog.get_logger("own").error("bad", exc_info=error)
    assert "payload" not in written.getvalue()
    (exception,) = _one_line(written)["exception"]
    assert exception["exc_type"] == "RuntimeError"
    assert "what went wrong" in exception["exc_value"]
    assert exception["frames"][-1]["name"] == "_fail"


def test_no_line_is_endless(written: io.StringIO) -> None:
    error = ValueError("begin" + "x" * 100_000 + "end")
    structlog.get_logger("own").error("bad" + "y" * 100_000, rows=3, exc_info=error)
    assert len(written.getvalue()) < MAX_LINE_CHARS
    line = _one_line(written)
    assert (line["event"][:4], line["rows"], line["level"]) == ("bady", 3, "error")
    assert "begin" in line["exception"]


def test_the_console_has_bounds_too(written: io.StringIO) -> None:
    logs.configure("info", "console", written)
    try:
        _fail("p" * 100_000)
    except RuntimeError as error:
        structlog.get_logger("own").error("bad", names=["n" * 100] * 1000, exc_info=error)
    text = written.getvalue()
    assert len(text) < MAX_LINE_CHARS
    assert "what went wrong" in text
    assert "ppp" not in text
