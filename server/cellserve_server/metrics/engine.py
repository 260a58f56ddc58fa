"""Metrics of ticks, runs and the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge

from cellserve_server.metrics.tallies import Buckets, TalliedCounter, TalliedHistogram, Tally
from cellserve_server.tick_times import PHASES, TickTimes

OUTCOMES = ("ok", "error", "cancelled", "deadline")
# Beyond so many names of models the rest share one label, so that loading and unloading cannot grow it for ever: each
# is some 160 series.
MAX_MODEL_LABELS = 200
OTHER_MODELS = "other"
TICK_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
TICK_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
PHASE_SECONDS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RUN_SECONDS = (1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class _ModelMetrics:
    """One model's children: looking labels up costs more than counting."""

    steps: Tally
    replays: Tally
    ticks: Tally
    tick_rows: Buckets
    tick_seconds: Buckets
    phases: tuple[Buckets, ...]
    commits: Buckets
    runs: dict[str, Tally]
    step_seconds: Buckets
    sequence_seconds: Buckets


class EngineMetrics:
    """Counts what the engine does, by model. Nothing here is done once a step: a tick or a part of a message counts.

    Args:
        registry: where its metrics are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        model = ("model",)
        self._models: dict[str, _ModelMetrics] = {}
        self._steps = TalliedCounter("cellserve_steps", "Steps applied; repeats apart.", model, registry)
        self._replays = TalliedCounter("cellserve_replays", "Repeated runs answered again.", model, registry)
        self._ticks = TalliedCounter("cellserve_ticks", "Passes of the engine.", model, registry)
        self._tick_rows = TalliedHistogram(
            "cellserve_tick_rows", "Rows that a tick stepped.", model, TICK_ROWS, registry
        )
        self._tick_seconds = TalliedHistogram(
            "cellserve_tick_seconds",
            "What a tick took, without the wait before it and the store.",
            model,
            TICK_SECONDS,
            registry,
        )
        self._phase_seconds = TalliedHistogram(
            "cellserve_tick_phase_seconds",
            "What the parts of a tick took, and the wait before it; a part that a tick does not have is left out.",
            ("model", "phase"),
            PHASE_SECONDS,
            registry,
        )
        self._runs = TalliedCounter("cellserve_runs", "Runs ended, by outcome.", ("model", "outcome"), registry)
        self._run_seconds = TalliedHistogram(
            "cellserve_run_seconds",
            "From a run's arrival to its answer, whatever its outcome.",
            ("model", "kind"),
            RUN_SECONDS,
            registry,
        )
        self._queue_runs = Gauge("cellserve_queue_runs", "Runs that wait or are under way.", registry=registry)
        self._queue_bytes = Gauge("cellserve_queue_bytes", "Bytes of these runs.", registry=registry)

    def watch(self, *, queue_runs: Callable[[], int], queue_bytes: Callable[[], int]) -> None:
        """Says where gauges get their values from. Called by another thread: the functions read one number each."""
        self._queue_runs.set_function(queue_runs)
        self._queue_bytes.set_function(queue_bytes)

    def tick(self, model: str, rows: int, times: TickTimes) -> None:
        """The engine passed once over so many rows of a model."""
        children = self._of(model)
        children.ticks.count += 1
        children.tick_rows.observe(rows)
        children.tick_seconds.observe(times.seconds)
        for phase, seconds in zip(children.phases, times.phases(), strict=True):
            if seconds:
                phase.observe(seconds)

    def run_written(self, model: str, seconds: float) -> None:
        """The store has the state after a run whose ticks ended before it was written."""
        self._of(model).commits.observe(seconds)

    def steps(self, model: str, count: int) -> None:
        """So many steps of a model were applied."""
        self._of(model).steps.count += count

    def replay(self, model: str) -> None:
        """A repeated run was answered again."""
        self._of(model).replays.count += 1

    def runs_done(self, model: str, outcome: str, count: int, seconds: float, *, is_step: bool) -> None:
        """So many runs ended together.

        Args:
            outcome: ``ok``, ``error``, ``cancelled`` or ``deadline``.
            seconds: since they arrived.
            is_step: whether they are of one step each.
        """
        children = self._of(model)
        children.runs[outcome].count += count
        (children.step_seconds if is_step else children.sequence_seconds).observe(seconds, count)

    def _of(self, model: str) -> _ModelMetrics:
        children = self._models.get(model)
        if children is not None:
            return children
        if len(self._models) >= MAX_MODEL_LABELS and model != OTHER_MODELS:
            return self._of(OTHER_MODELS)
        phases = {phase: self._phase_seconds.labels(model, phase) for phase in PHASES}
        children = self._models[model] = _ModelMetrics(
            steps=self._steps.labels(model),
            replays=self._replays.labels(model),
            ticks=self._ticks.labels(model),
            tick_rows=self._tick_rows.labels(model),
            tick_seconds=self._tick_seconds.labels(model),
            phases=tuple(phases.values()),
            commits=phases["commit"],
            runs={outcome: self._runs.labels(model, outcome) for outcome in OUTCOMES},
            step_seconds=self._run_seconds.labels(model, "step"),
            sequence_seconds=self._run_seconds.labels(model, "sequence"),
        )
        return children
