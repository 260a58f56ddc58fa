"""Ticks of longer runs, some time steps of each at a time, and of steps that have a tick for themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cellserve_server.config import ServerConfig
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.chunks import gather_chunk, scatter_chunk
from cellserve_server.engine.computing import Computing, Results
from cellserve_server.engine.observing import ChunkTick, TickObserver
from cellserve_server.engine.owner import Owner, still_wanted
from cellserve_server.engine.runs import Run
from cellserve_server.engine.scheduler import Taken
from cellserve_server.metrics import EngineMetrics
from cellserve_server.sessions.lanes import Lane
from cellserve_server.tick_times import TickTimes


class ChunkTicks:
    """Does ticks of longer runs.

    Args:
        config: how long a chunk may be.
        computing: does the arithmetic.
        metrics: told of ticks.
        observers: told of ticks.
        clock: the engine's.
        owner: told how work ends.
        go_on: has a run that has steps left take part in a later tick.
    """

    def __init__(
        self,
        config: ServerConfig,
        computing: Computing,
        metrics: EngineMetrics,
        observers: Sequence[TickObserver],
        clock: Callable[[], float],
        owner: Owner,
        go_on: Callable[[Lane, Run], None],
    ) -> None:
        self._config = config
        self._computing = computing
        self._metrics = metrics
        self._observers = observers
        self._clock = clock
        self._owner = owner
        self._go_on = go_on

    async def tick(self, lane: Lane, taken: Sequence[Taken[Run | StepBlock]]) -> None:
        """Does the next steps of the runs that the scheduler has taken."""
        runs = [item for item, _ in taken if isinstance(item, Run) and still_wanted(item, self._clock(), self._owner)]
        if runs:
            await self.try_runs(lane, runs)

    async def try_runs(self, lane: Lane, runs: list[Run]) -> None:
        """Does the next steps of these runs, which somebody waits for."""
        times = TickTimes(min((run.arrived for run in runs if not run.position), default=None))
        rows = sum(run.rows for run in runs)
        network = lane.model.network
        try:
            chunk = gather_chunk(runs, self._chunk_steps(lane, rows))
            times.note_gathered()

            def step() -> Results:
                outputs, leaves = network.step([array[:, 0] for array in chunk.inputs], chunk.leaves)
                return [output[:, np.newaxis] for output in outputs], leaves

            def run_steps() -> Results:
                return network.run(chunk.inputs, chunk.lengths, chunk.leaves)

            work = step if chunk.is_one_step else run_steps
            outputs, leaves, _ = await self._computing.do(lane, rows, chunk.steps, work)
            times.note_computed()
            scatter_chunk(chunk, outputs, leaves)
            times.note_scattered()
        except Exception as error:  # Nothing in a tick raises on purpose: a bug of ours, or no memory.
            if len(runs) == 1:
                self._owner.fail(runs[0], error)
                return
            for run in runs:
                await self.try_runs(lane, [run])
            return
        self._metrics.tick(lane.label, rows, times)
        if self._observers:
            tick = ChunkTick(lane, chunk, outputs, leaves, times)
            for observer in self._observers:
                observer.chunk_computed(tick)
        for run in runs:
            if run.position < run.steps:
                self._go_on(lane, run)
            elif run.session is None or not run.session.ended:
                self._owner.committed(run, run.leaves)
            else:
                still_wanted(run, self._clock(), self._owner)  # Its session's end refused it.

    def _chunk_steps(self, lane: Lane, rows: int) -> int:
        """The time steps that a chunk may have."""
        step_s = lane.predicted_seconds(rows)
        if step_s is None:
            return 1
        return max(1, min(self._config.max_chunk_steps, int(self._config.max_chunk_us / (step_s * 1e6 + 1e-3))))
