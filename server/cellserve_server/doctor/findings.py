"""What a look at something found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

import structlog
from structlog.typing import EventDict

# What ends sooner is told of.
SOON = timedelta(days=14)


class State(StrEnum):
    """How bad it is: ``WRONG`` keeps a server from starting, or from doing what it is told to."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        area: what part it belongs to: settings, ports, store, TLS, identity, clock, models, machine.
        state: how bad it is.
        what: how it is.
        advice: what to do; empty: nothing.
    """

    area: str
    state: State
    what: str
    advice: str = ""


def day(moment: datetime) -> str:
    """A moment in a finding's words."""
    return moment.astimezone(UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


@contextlib.contextmanager
def heard(area: str) -> Iterator[list[Finding]]:
    """What the parts of a server log meanwhile, from warnings on: as findings, in place of log lines.

    What is wrong with a store or a model the parts say themselves, in the words that a server's log would have.
    """
    found: list[Finding] = []

    def hear(_: Any, level: str, event: EventDict) -> EventDict:
        if level in ("warning", "error", "critical", "exception"):
            found.append(_finding(area, level, dict(event)))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[hear], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False)
    try:
        yield found
    finally:
        structlog.configure(**before)


def _finding(area: str, level: str, event: dict[str, Any]) -> Finding:
    """An event's words: its name, what it is about, what follows; and what to do."""
    name = str(event.pop("event")).replace("_", " ")
    advice = " or ".join(str(event.pop(key)) for key in ("remedy", "advice") if key in event)
    consequence = event.pop("consequence", "")
    event.pop("exc_info", None)
    details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in event.items())
    what = name + (f": {details}" if details else "") + (f"; {consequence}" if consequence else "")
    return Finding(area, State.WARNING if level == "warning" else State.WRONG, what, advice)
