"""How many sessions, or requests a second, a test has at any time: stages, with ramps between them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from cellserve.errors import FieldInvalidError
from cellserve_client.load.document import Stage

_FORM = re.compile(r"(?P<seconds>\d+(?:\.\d+)?)(?P<unit>s|m|h):(?P<level>\d+(?:\.\d+)?)(?P<rate>/s)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_stage(text: str) -> Stage:
    """Reads ``30s:256``, 256 sessions for 30 seconds, or ``2m:500/s``, 500 requests a second for two minutes.

    Raises:
        FieldInvalidError: another form.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None or (not found["rate"] and "." in found["level"]):
        raise FieldInvalidError(f"stage: expected such as 30s:256 (sessions) or 2m:500/s (requests); got {text!r}")
    seconds = float(found["seconds"]) * _SECONDS[found["unit"]]
    if found["rate"]:
        return Stage(seconds, None, float(found["level"]))
    return Stage(seconds, int(found["level"]), None)


def level_of(stage: Stage) -> float:
    """Its sessions, or its requests a second."""
    level = stage.rate if stage.sessions is None else stage.sessions
    assert level is not None, "a stage has one or the other"
    return float(level)


class _Line(NamedTuple):
    """A part of the test in which the level goes straight from one value to another; ``area`` lies before it."""

    start_s: float
    seconds: float
    first: float
    last: float
    area: float

    @property
    def own_area(self) -> float:
        return self.seconds * (self.first + self.last) / 2


class Level:
    """The level over time, in seconds since the test began.

    The first stage's level is reached over the ramp and kept over the warm-up, before anything is measured. Each later
    stage begins with a ramp from the level before it.

    Args:
        stages: at least one, all of sessions or all of rates.
        ramp_s: how long a change of the level takes.
        warmup_s: how long the first level is kept before the first stage.
    """

    def __init__(self, stages: Sequence[Stage], ramp_s: float, warmup_s: float) -> None:
        self._lines: list[_Line] = []
        before = level_of(stages[0])
        self._add(ramp_s, 0.0, before)
        self._add(warmup_s, before, before)
        for stage in stages:
            level = level_of(stage)
            ramp = min(ramp_s, stage.seconds) if level != before else 0.0
            self._add(ramp, before, level)
            self._add(stage.seconds - ramp, level, level)
            before = level

    def _add(self, seconds: float, first: float, last: float) -> None:
        if seconds > 0:
            end, area = 0.0, 0.0
            if self._lines:
                previous = self._lines[-1]
                end, area = previous.start_s + previous.seconds, previous.area + previous.own_area
            self._lines.append(_Line(end, seconds, first, last, area))

    def at(self, time_s: float) -> float:
        """The level at a time; after the end the last one."""
        for line in self._lines:
            if time_s < line.start_s + line.seconds:
                return line.first + (line.last - line.first) * (time_s - line.start_s) / line.seconds
        return self._lines[-1].last

    def time_of(self, count: float) -> float | None:
        """When so many requests have been due, if the level is their rate: its area up to there.

        Returns:
            Seconds since the test began; None: there are not so many until its end.
        """
        for line in self._lines:
            left = count - line.area
            if left <= line.own_area and line.own_area > 0:
                # first * t + slope / 2 * t^2 = left, in a form that also holds for a slope of 0.
                slope = (line.last - line.first) / line.seconds
                root = math.sqrt(max(line.first**2 + 2 * slope * left, 0.0))
                return line.start_s + (2 * left / (line.first + root) if left > 0 else 0.0)
        return None
