"""Ticks as the engine tells of them: a span each, if a run in it is traced, to which the runs' spans link."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from cellserve.tensors import Array
from cellserve_server.engine.observing import ChunkTick, LoneStep, StepTick
from cellserve_server.engine.runs import Run
from cellserve_server.models.repository import LoadedModel
from cellserve_server.tick_times import TickTimes
from cellserve_server.tracing.runs import RunTrace
from cellserve_server.tracing.spans import Spans

# Who is traced in a tick, and since when it waits.
Traced: TypeAlias = tuple[RunTrace, float]


class TickTracer:
    """Watches the engine's ticks.

    Args:
        spans: makes spans.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._lone: LoneStep | None = None

    @property
    def lone_began(self) -> float:
        """When the step that was done just now, without a tick, was begun, on ``time.perf_counter``."""
        return self._last_lone().times.began

    def steps_answered(self, tick: StepTick) -> None:
        """As of ``TickObserver``."""
        traced: list[Traced] = []
        for part in tick.batch.parts:
            if part.block.traces:
                taken = set(part.block.positions[part.steps].tolist())
                traces = [trace for position, trace in part.block.traces.items() if position in taken]
                traced += _to_tell(traces, part.block.arrived)
        traced += _to_tell_of(tick.batch.runs)
        if not traced:
            return
        steps = len(tick.step_counts)
        rows = steps * tick.batch.seats.rows
        self._tell(traced, tick.lane.model, tick.times, rows=rows, steps=1, runs=steps)
        for trace, _ in traced:
            trace.committed(tick.times.computed, tick.times.scattered)

    def chunk_computed(self, tick: ChunkTick) -> None:
        """As of ``TickObserver``."""
        runs = tick.chunk.runs
        if traced := _to_tell_of(runs):
            rows = sum(run.rows for run in runs)
            self._tell(traced, tick.lane.model, tick.times, rows=rows, steps=tick.chunk.steps, runs=len(runs))

    def step_answered(self, step: LoneStep) -> None:
        """As of ``TickObserver``. Whose step it was is known only to who asked for it, who comes to know next."""
        self._lone = step

    def run_committed(self, run: Run, leaves: Sequence[Array], commit_s: float) -> None:
        """As of ``TickObserver``."""
        if isinstance(run.trace, RunTrace):
            now = time.perf_counter()
            run.trace.committed(now - commit_s, now)

    def tell_at_once(self, trace: RunTrace) -> None:
        """The step that was done just now, without a tick, was this run's."""
        lone = self._last_lone()
        rows, times = lone.session.rows, lone.times
        trace.describe(lone.lane.model, lone.session, rows, 1)
        self._tell(_to_tell([trace], times.arrived), lone.lane.model, times, rows=rows, steps=1, runs=1, at_once=True)
        trace.committed(times.computed, times.scattered)

    def _last_lone(self) -> LoneStep:
        assert self._lone is not None, "the engine has told of the step before it gave its outputs"
        return self._lone

    def _tell(
        self,
        traced: Sequence[Traced],
        model: LoadedModel,
        times: TickTimes,
        *,
        rows: int,
        steps: int,
        runs: int,
        at_once: bool = False,
    ) -> None:
        attributes: dict[str, str | int | bool] = {
            "cellserve.model": model.resource_name,
            "cellserve.rows": rows,
            "cellserve.steps": steps,
            "cellserve.runs": runs,
        }
        if at_once:
            attributes["cellserve.at_once"] = True
        tick = self._spans.begin_tick(attributes, times.began)
        parts = (
            ("cellserve.gather", times.began, times.gathered),
            ("cellserve.cell", times.gathered, times.computed),
            ("cellserve.commit", times.computed, times.committed),
            ("cellserve.scatter", times.committed, times.scattered),
            ("cellserve.encode", times.scattered, times.encoded),
        )
        for name, began, ended in parts:
            if ended > began:
                self._spans.add(tick, name, began, ended)
        for trace, arrived in traced:
            trace.ticked(tick, times, arrived)
        tick.end(self._spans.at_ns(times.encoded))


def _to_tell_of(runs: Sequence[Run]) -> list[Traced]:
    return [traced for run in runs if run.trace is not None for traced in _to_tell([run.trace], run.arrived)]


def _to_tell(traces: Iterable[object], arrived: float) -> list[Traced]:
    return [(trace, arrived) for trace in traces if isinstance(trace, RunTrace) and trace.takes_part()]
