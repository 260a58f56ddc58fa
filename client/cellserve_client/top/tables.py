"""The tables of `cellserve top`: their columns, and their rows as text, for the screen and for one printed page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cellserve_client.top.figures import Figures, ModelFigures, ReplicaFigures, SessionFigures
from cellserve_client.top.reading import Asked
from cellserve_client.top.state_parts import StatePart
from cellserve_client.top.text import UNKNOWN, bars, count, milliseconds, rate, size, span

DOWNWARD, UPWARD = "\N{BLACK DOWN-POINTING TRIANGLE}", "\N{BLACK UP-POINTING TRIANGLE}"
# By what sessions are sorted: the column, and whether its numbers fall from row to row unless it is reversed. The
# latest first is the shortest time ago.
_SORTED_COLUMNS = {"steps": (3, True), "rate": (4, True), "used": (5, False), "created": (7, False)}


@dataclass(frozen=True)
class TableText:
    """A table as text.

    Attributes:
        columns: their names.
        words: how many of the first columns have words, which stand on the left; the others have numbers.
        rows: a text for each column.
    """

    columns: tuple[str, ...]
    words: int
    rows: list[tuple[str, ...]]


def replicas_table(replicas: Iterable[ReplicaFigures]) -> TableText:
    """A row for each server."""
    # Terminals are narrow: what matters most comes first.
    columns = ("server", "status", "steps/s", "p50", "p99", "queue", "sessions", "states", "memory", "up", "version")
    return TableText(
        columns,
        2,
        [
            (
                one.address,
                one.status,
                rate(one.steps_per_second),
                milliseconds(one.p50_s),
                milliseconds(one.p99_s),
                count(one.queue_runs),
                count(one.sessions),
                size(one.state_bytes),
                size(one.rss_bytes),
                span(one.up_s),
                one.version or UNKNOWN,
            )
            for one in replicas
        ],
    )


def models_table(models: Iterable[ModelFigures]) -> TableText:
    """A row for each model."""
    columns = ("model", "versions", "steps/s", "rows/tick", "tick", "sessions", "errors/s")
    return TableText(
        columns,
        1,
        [
            (
                one.name,
                f"{one.versions}, {one.broken} broken" if one.broken else str(one.versions),
                rate(one.steps_per_second),
                rate(one.rows_per_tick),
                milliseconds(one.tick_s),
                count(one.sessions),
                rate(one.errors_per_second),
            )
            for one in models
        ],
    )


def sessions_table(figures: Figures, asked: Asked) -> TableText:
    """A row for each session; with several servers a column more says which has it."""
    is_many = len(figures.replicas) > 1
    names = ["session", "model", "rows", "steps", "steps/s", "idle", "expires in", "age"]
    place, falls = _SORTED_COLUMNS[asked.sort]
    names[place] += DOWNWARD if falls != asked.reverse else UPWARD
    columns = (*names, "server") if is_many else tuple(names)
    return TableText(columns, 2, [_session_row(one, is_many) for one in figures.sessions])


def _session_row(one: SessionFigures, is_many: bool) -> tuple[str, ...]:
    row = (
        one.id,
        one.model,
        UNKNOWN if one.rows is None else str(one.rows),
        count(one.steps),
        rate(one.steps_per_second),
        span(one.idle_s),
        span(one.expires_in_s),
        span(one.age_s),
    )
    return (*row, one.replica) if is_many else row


def state_table(parts: Iterable[StatePart]) -> TableText:
    """A row for each part of a state, with a histogram of its values from the least to the greatest."""
    return TableText(
        ("part", "values, least to greatest", "shape", "norm", "least", "mean", "greatest", "not finite"),
        2,
        [
            (
                part.name,
                bars(part.histogram, len(part.histogram)),
                " x ".join(map(str, part.shape)),
                f"{part.norm:.3g}",
                f"{part.minimum:.3g}",
                f"{part.mean:.3g}",
                f"{part.maximum:.3g}",
                count(part.unusable),
            )
            for part in parts
        ],
    )
