"""Runs of models that need whole sequences: one at a time, in a thread of their own, beside the ticks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.engine.admission import check_alive
from cellserve_server.engine.runs import OutputMode, Run, RunResult
from cellserve_server.tick_times import TickTimes


class WholeRuns:
    """Takes runs without a session whose models cannot be stepped.

    Args:
        clock: the engine's.
        finish: called with each run that is over; its result is set, or the error is given.
        fail: called with each run that failed by a bug of ours, and the exception.
        observe: told of each sequence: the run and its times.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        finish: Callable[[Run, CellServeError | None], None],
        fail: Callable[[Run, Exception], None],
        observe: Callable[[Run, TickTimes], None],
    ) -> None:
        self._clock = clock
        self._finish = finish
        self._fail = fail
        self._observe = observe
        self._one_at_a_time = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cellserve-whole")
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, run: Run) -> None:
        """Takes a run whose turn has come."""
        task = asyncio.get_running_loop().create_task(self._run(run), name="cellserve-whole-run")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Gives up what waits, and waits for the thread."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def _run(self, run: Run) -> None:
        try:
            async with self._one_at_a_time:
                check_alive(run, self._clock())
                times = TickTimes(run.arrived)
                outputs, leaves = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, run)
                times.note_computed()
                self._observe(run, times)
        except CellServeError as error:
            self._finish(run, error)
        except Exception as error:  # Nothing here raises anything else on purpose.
            self._fail(run, error)
        else:
            run.result = RunResult(outputs, leaves, step_count=0, steps_applied=run.steps, replayed=False)
            self._finish(run, None)

    def _compute(self, run: Run) -> tuple[list[Array], list[Array] | None]:
        """In the thread: the outputs that are wanted, and the state where it is. Stops when nobody waits any more."""
        lengths = np.full(run.rows, run.time, dtype=np.int64) if run.lengths is None else run.lengths
        outputs, leaves = run.model.network.run(
            run.inputs, lengths, run.leaves, lambda: check_alive(run, self._clock())
        )
        if run.mode is OutputMode.NONE:
            outputs = []
        elif run.mode is OutputMode.LAST:
            last = np.maximum(lengths - 1, 0)  # A row of length 0 is zeros everywhere, at step 0 too.
            outputs = [output[np.arange(run.rows), last][:, np.newaxis] for output in outputs]
        return outputs, leaves if run.return_state else None
