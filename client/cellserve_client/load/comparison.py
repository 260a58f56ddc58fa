"""Several load tests side by side: what was asked of them, what came of it, and whether that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cellserve_client.load.document import LoadDocument, ServerSecond

SCHEMA = "cellserve-load-compare/1"
# Settings that may differ between tests of the same work: where it was done, by how many, how long, who watched. Of the
# model only the version may.
HARMLESS_SETTINGS = frozenset(
    {
        "address",
        "metrics",
        "model",
        "pinned",
        "processes",
        "proxied",
        "seconds",
        "seed",
        "slo",
        "timeout_s",
        "tls",
        "warmup_s",
    }
)


@dataclass(frozen=True)
class Row:
    """One measurement of all tests.

    Attributes:
        name: what is measured.
        unit: of the values; empty for counts.
        values: one for each test; None where there is none.
        ratios: each by the first; None where that cannot be told.
    """

    name: str
    unit: str
    values: tuple[float | None, ...]

    @property
    def ratios(self) -> tuple[float | None, ...]:
        first = self.values[0]
        return tuple(value / first if value is not None and first else None for value in self.values)


@dataclass(frozen=True)
class Comparison:
    """Load tests side by side, in the order in which they were given; the first is what the others are measured by.

    Attributes:
        runs: the tests by their names.
        differing: settings that are not the same everywhere: their values by name; None where one is not set.
        rows: rates, latencies and counts.
        errors: how often each reason occurred.
        warnings: in words, why the numbers are not those of the same work, or not the server's.
    """

    runs: Mapping[str, LoadDocument]
    differing: Mapping[str, tuple[Any, ...]]
    rows: tuple[Row, ...]
    errors: Mapping[str, tuple[int, ...]]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "schema": SCHEMA,
            "runs": [
                {"name": name, "address": run.server.address, "model": run.server.model, "started": run.started}
                | {"seconds": run.seconds, "mode": run.mode, "failure": run.failure}
                for name, run in self.runs.items()
            ],
            "differing_settings": {name: list(values) for name, values in self.differing.items()},
            "rows": [
                {"name": row.name, "unit": row.unit, "values": list(row.values), "ratios": list(row.ratios)}
                for row in self.rows
            ],
            "errors": {reason: list(counts) for reason, counts in self.errors.items()},
            "warnings": list(self.warnings),
        }


def compare(runs: Mapping[str, LoadDocument]) -> Comparison:
    """Puts load tests side by side.

    Args:
        runs: at least one, by the names that they shall have.
    """
    differing = _differing({name: _settings(run) for name, run in runs.items()})
    reasons = sorted({reason for run in runs.values() for reason in run.errors})
    errors = {reason: tuple(run.errors.get(reason, 0) for run in runs.values()) for reason in reasons}
    return Comparison(dict(runs), differing, _rows(runs), errors, tuple(_warnings(runs, differing)))


def _settings(run: LoadDocument) -> dict[str, Any]:
    return {**run.settings, "mode": run.mode, "model": run.server.model, "address": run.server.address}


def _differing(settings: Mapping[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    names = dict.fromkeys(name for values in settings.values() for name in values)
    found = {name: tuple(values.get(name) for values in settings.values()) for name in names}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def _rows(runs: Mapping[str, LoadDocument]) -> tuple[Row, ...]:
    def row(name: str, unit: str, value: Callable[[LoadDocument], float | None]) -> Row:
        return Row(name, unit, tuple(value(run) for run in runs.values()))

    rows = (
        row("steps a second", "steps/s", lambda run: run.totals.steps_per_second),
        row("requests a second", "requests/s", lambda run: run.totals.requests_per_second),
        row("requests due a second", "requests/s", lambda run: run.totals.offered_per_second),
        row("latency mean", "ms", lambda run: run.latency_ms.mean),
        row("latency p50", "ms", lambda run: run.latency_ms.p50),
        row("latency p90", "ms", lambda run: run.latency_ms.p90),
        row("latency p99", "ms", lambda run: run.latency_ms.p99),
        row("latency p99.9", "ms", lambda run: run.latency_ms.p999),
        row("latency p99.99", "ms", lambda run: run.latency_ms.p9999),
        row("latency max", "ms", lambda run: run.latency_ms.max),
        row("mean rows per tick", "rows", lambda run: _mean(run, lambda second: second.rows_per_tick)),
        row("mean time of a tick", "ms", lambda run: _mean(run, lambda second: second.tick_ms)),
        row("requests", "", lambda run: run.totals.requests),
        row("failed requests", "", lambda run: run.totals.failed),
        row("highest rate that holds", "requests/s", lambda run: run.find_max.best_rate if run.find_max else None),
    )
    return tuple(row for row in rows if any(value is not None for value in row.values))


def _mean(run: LoadDocument, value: Callable[[ServerSecond], float | None]) -> float | None:
    """The mean of the seconds in which there was something."""
    seconds = run.server_metrics.timeline if run.server_metrics is not None else ()
    values = [item for item in map(value, seconds) if item is not None]
    return sum(values) / len(values) if values else None


def _warnings(runs: Mapping[str, LoadDocument], differing: Mapping[str, tuple[Any, ...]]) -> list[str]:
    asked = [name for name in differing if name not in HARMLESS_SETTINGS]
    if len({_model_name(run) for run in runs.values()}) > 1:
        asked.append("model")
    found = []
    if asked:
        found.append(f"The tests did not ask for the same work: they differ in {', '.join(asked)}.")
    for name, run in runs.items():
        if run.client.is_limit:
            found.append(f"{name}: {run.client.warning or 'the client is likely to have been the limit'}")
        if run.failure is not None:
            found.append(f"{name} failed: {run.failure}")
    return found


def _model_name(run: LoadDocument) -> str:
    """Without the version: to compare two of one model is what some tests are for."""
    return run.server.model.partition("/versions/")[0]
