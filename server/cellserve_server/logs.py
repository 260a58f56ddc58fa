"""Structured log lines on standard error, for people or for machines. No line is longer than is good for either."""

from __future__ import annotations

import io
import itertools
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, ExcInfo, Processor

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "json", "console")
# A line has at most so many fields and characters of each; a traceback is a field.
MAX_FIELDS = 32
MAX_FIELD_CHARS = 8000
MAX_FRAMES = 30


def configure(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Sets up logging for this process, the standard library's loggers included.

    Tracebacks show no local variables: these hold what callers sent.

    Args:
        level: debug, info, warning or error.
        log_format: json, console, or auto: console on a terminal, json elsewhere.
        stream: where the lines go; None: standard error.

    Raises:
        ValueError: an unknown level or format; the setting is named.
    """
    require_known(level, log_format)
    stream = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
    ]
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    last = _json_processors() if as_json else _console_processors(stream.isatty())
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)


def _json_processors() -> list[Processor]:
    exceptions = ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES)
    return [
        structlog.processors.ExceptionRenderer(exceptions),
        _bound_fields,
        structlog.processors.JSONRenderer(),
    ]


def _console_processors(colors: bool) -> list[Processor]:
    return [_bound_fields, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_short_traceback)]


def _bound_fields(_: Any, __: str, event: EventDict) -> EventDict:
    """Cuts what is long. A field of many parts that is cut becomes the begin and the end of its text."""
    return {key: _bounded(key, value) for key, value in itertools.islice(event.items(), MAX_FIELDS)}


def _bounded(key: str, value: object) -> object:
    if isinstance(value, str):
        return _cut(value)
    if key == "exc_info" or value is None or isinstance(value, (bool, float)):
        return value  # An exception is cut as it is written.
    text = json.dumps(value, default=repr)
    return value if len(text) <= MAX_FIELD_CHARS else _cut(text)


def _cut(text: str) -> str:
    """A text's begin and its end, which is where a traceback says what was raised."""
    if len(text) <= MAX_FIELD_CHARS:
        return text
    half = MAX_FIELD_CHARS // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"


def _short_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    whole = io.StringIO()
    structlog.dev.plain_traceback(whole, exc_info)
    stream.write(_cut(whole.getvalue()))


def require_known(level: str, log_format: str) -> None:
    """Raises what ``configure`` raises, and sets nothing up."""
    _require_choice("log_level", level, LEVELS)
    _require_choice("log_format", log_format, FORMATS)


def _require_choice(setting: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{setting}: expected one of {', '.join(choices)}; got {value!r}")
