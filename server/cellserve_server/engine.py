"""The engine: one loop that schedules, loads, ticks, commits and answers.

Batches form by themselves: what arrives while a tick computes is in the next one. A run works on slab rows of its
own, and a commit makes them the session's: until then the session's state is what it was, so a run that fails, is
cancelled or comes too late leaves no trace. The rows from before the last run are kept, so that its repeat can be
computed again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from cellserve.errors import (
    CellServeError,
    DeadlineExceededError,
    DrainingError,
    QueueFullError,
    RunCancelledError,
)
from cellserve.tensors import Array
from cellserve_server.admission import check_alive, is_repeat
from cellserve_server.config import ServerConfig
from cellserve_server.incidents import internal_error
from cellserve_server.lanes import Lane, LaneTable, metrics_label
from cellserve_server.metrics import Metrics
from cellserve_server.runs import Run, RunResult
from cellserve_server.scheduler import Scheduler
from cellserve_server.sessions import LastRun, Session, SessionTable
from cellserve_server.ticks import Batch, gather, scatter
from cellserve_server.turns import Turn
from cellserve_server.whole_runs import WholeRuns

DRAIN_RETRY_S = 1.0
OUTCOMES: dict[type[CellServeError], str] = {RunCancelledError: "cancelled", DeadlineExceededError: "deadline"}

T = TypeVar("T")


class Engine:
    """Steps sessions and sessionless runs. Everything but the arithmetic happens on one event loop.

    Args:
        config: the limits.
        sessions: the sessions; ``release`` is to be called with each that ends.
        metrics: told of ticks and runs.
        clock: unix seconds, never going back.
        new_id: makes the ids under which bugs are logged.
    """

    def __init__(
        self,
        config: ServerConfig,
        sessions: SessionTable,
        metrics: Metrics,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.clock = clock
        self.draining = False
        self.lanes = LaneTable()
        self._sessions = sessions
        self._config = config
        self._metrics = metrics
        self._new_id = new_id
        self._log = structlog.get_logger("cellserve.engine")
        self._scheduler: Scheduler[Lane, Run] = Scheduler(config.max_tick_rows)
        self._runs: set[Run] = set()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cellserve-compute")
        self._whole = WholeRuns(clock, self._finish, self._fail, self._observe_whole)
        self._waiting_turns = 0
        self._room = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def queued_runs(self) -> int:
        """Runs that wait or are under way."""
        return len(self._runs)

    @property
    def queued_bytes(self) -> int:
        """Bytes of these runs' inputs and outputs."""
        return self._queued_bytes

    def start(self) -> asyncio.Task[None]:
        """Starts the loop. The task ends only by ``stop``, or by a bug: who starts the engine watches it."""
        self._loop_task = asyncio.get_running_loop().create_task(self._loop(), name="cellserve-engine")
        return self._loop_task

    async def drain(self, timeout_s: float) -> None:
        """Refuses new work and waits until what is under way is done; what is not by then fails with DRAINING."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            self._log.warning("drain_timeout", runs_left=len(self._runs), timeout_s=timeout_s)
            for run in self._runs:
                run.refuse(draining_error())
            await self._idle.wait()  # Each run that is left is refused before its next step.

    async def stop(self) -> None:
        """Stops the loop and the compute thread."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        await self._whole.stop()
        self._thread.shutdown(wait=True)

    # --- what comes in ----------------------------------------------------------------------------------------

    async def execute(self, run: Run) -> RunResult:
        """Submits a run and waits for it. When the caller stops waiting, the run is cancelled.

        Raises:
            CellServeError: why the run did not happen.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run.on_done = lambda _: None if done.done() else done.set_result(None)
        self.submit(run)
        try:
            await done
        except asyncio.CancelledError:
            run.cancel()
            raise
        if run.error is not None:
            raise run.error
        assert run.result is not None, "a run that is done has a result or an error"
        return run.result

    def submit(self, run: Run) -> None:
        """Takes a run in. Its ``on_done`` is called exactly once, here or later.

        Raises:
            DrainingError: the server is stopping.
            QueueFullError: too many runs, or bytes of them, are under way.
        """
        if self.draining:
            raise draining_error()
        self._require_room(run)
        self._runs.add(run)
        self._queued_bytes += run.size_bytes
        self._idle.clear()
        if run.session is not None and run.session.busy:
            self._enqueue(run.session, partial(self._begin, run))
        else:
            self._begin(run)

    def in_turn(self, session: Session, action: Callable[[], T]) -> asyncio.Future[T]:
        """Does something with a session once the runs and turns that arrived before it are over.

        Returns:
            A future with what ``action`` returned or raised; cancelled before its turn, it is left out. What was read
            of the session has to come out by this way: once the turn is over the next one may change it.

        Raises:
            QueueFullError: too many operations wait.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        turn = Turn(action, future)
        if not session.busy:
            turn.take()
            return future
        if self._waiting_turns >= self._config.max_queued_runs:
            raise self._queue_full(f"{self._waiting_turns} operations wait for their turn")
        self._waiting_turns += 1
        self._enqueue(session, partial(self._take_turn, turn))
        return future

    def _take_turn(self, turn: Turn) -> None:
        self._waiting_turns -= 1
        turn.take()

    def release(self, session: Session) -> None:
        """A session is over: its rows go back, and its run under way is dropped. What waits for it is told in turn."""
        lane = self.lanes[session.model]
        lane.slab.give_back(session.state_rows)
        lane.slab.give_back(session.previous_rows)
        session.state_rows = session.previous_rows = ()
        if session.active is not None:
            session.active.refuse(self._sessions.ended_error(session))
        self.lanes.tidy(session.model)

    def _enqueue(self, session: Session, action: Callable[[], None]) -> None:
        if session.waiting is None:
            session.waiting = deque()
        session.waiting.append(action)

    def has_room(self, runs: int, size_bytes: int, share: float = 1.0) -> bool:
        """Whether so many runs of so many bytes in all would be taken. Any would where there is no other.

        Args:
            share: of the queue's limits that they may fill, with what is there.
        """
        if not self._runs:
            return True
        return (
            len(self._runs) + runs <= self._config.max_queued_runs * share
            and self._queued_bytes + size_bytes <= self._config.max_queued_bytes * share
        )

    async def room(self) -> None:
        """Waits until some run is over."""
        self._room.clear()
        await self._room.wait()

    def _require_room(self, run: Run) -> None:
        if not self.has_room(1, run.size_bytes):
            raise self._queue_full(
                f"{len(self._runs)} of {self._config.max_queued_runs} runs, "
                f"{self._queued_bytes} of {self._config.max_queued_bytes} bytes"
            )

    def _queue_full(self, how: str) -> QueueFullError:
        return QueueFullError(f"the queue is full: {how}", retry_after_s=self._config.queue_full_retry_ms / 1000)

    # --- how a run begins -------------------------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
        """A run's turn has come: checks it against its session as that is now, and readies it for its first tick."""
        try:
            check_alive(run, self.clock())
            if run.session is not None:
                self._sessions.check_life(run.session, run.uid)
                run.replaying = is_repeat(run, run.session)
        except CellServeError as error:
            self._settle(run, error)
            return
        lane = self.lanes[run.model]
        run.allocate_outputs()
        if run.steps == 0 or run.rows == 0:
            self._settle_without_steps(lane, run)
            return
        if not run.model.steppable:
            self._whole.begin(run)
            return
        run.work_rows = lane.slab.take(run.rows)
        self._load(lane, run)
        self._scheduler.add(lane, run, run.rows)
        self._wake.set()

    def _load(self, lane: Lane, run: Run) -> None:
        """Says where the run's first tick reads the state."""
        session = run.session
        if session is not None:
            session.active = run
            run.read_rows = session.previous_rows if run.replaying else session.state_rows
            if run.lengths is not None:
                # A row of length 0 never ticks: its state is carried on by copying all of them first.
                lane.slab.copy(run.read_rows, run.work_rows)
                run.read_rows = run.work_rows
            return
        run.read_rows = run.work_rows
        if run.initial_leaves is None:
            lane.slab.zero(run.work_rows)
        else:
            lane.slab.write(run.work_rows, run.initial_leaves)

    # --- the loop ---------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._scheduler:
                lane, taken = self._scheduler.next_tick()
                runs = [run for run in taken if self._still_wanted(run)]
                if runs:
                    await self._tick(lane, runs)
                # What has arrived meanwhile comes in here and is part of the next tick.
                await asyncio.sleep(0)

    def _still_wanted(self, run: Run) -> bool:
        try:
            check_alive(run, self.clock())
        except CellServeError as error:
            self._finish(run, error)
            return False
        return True

    async def _tick(self, lane: Lane, runs: Sequence[Run]) -> None:
        started = time.perf_counter()
        try:
            rows = await self._step(lane, runs)
        except Exception as error:  # Nothing in a tick raises on purpose.
            await self._isolate(lane, runs, error)
            return
        seconds = time.perf_counter() - started
        lane.observe(rows, seconds)
        self._metrics.tick(lane.label, rows, seconds)
        for run in runs:
            if run.position < run.steps:
                self._scheduler.add(lane, run, run.rows)
            else:
                self._commit(lane, run)

    async def _isolate(self, lane: Lane, runs: Sequence[Run], error: Exception) -> None:
        """A tick failed, which is a bug of ours: each run is tried alone, so that only the culprit fails."""
        if len(runs) > 1:
            for run in runs:
                await self._tick(lane, [run])
            return
        self._fail(runs[0], error)

    def _fail(self, run: Run, error: Exception) -> None:
        """Answers a run that met a bug of ours."""
        self._finish(run, internal_error(self._log, self._new_id, error, {"model": run.model.resource_name}))

    def _observe_whole(self, run: Run, seconds: float) -> None:
        label = metrics_label(run.model)
        self._metrics.tick(label, run.rows, seconds)
        self._metrics.steps(label, run.steps)

    async def _step(self, lane: Lane, runs: Sequence[Run]) -> int:
        batch = gather(lane.slab, runs)
        outputs, leaves = await self._compute(lane, batch)
        scatter(lane.slab, batch, outputs, leaves)
        return batch.rows

    async def _compute(self, lane: Lane, batch: Batch) -> tuple[list[Array], list[Array]]:
        """The cell, once for the batch: on the loop when that is short, else in the compute thread."""
        predicted = lane.predicted_seconds(batch.rows)
        network = lane.model.network
        if predicted is not None and predicted * 1e6 < self._config.inline_tick_us:
            return network.step(batch.inputs, batch.leaves)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, network.step, batch.inputs, batch.leaves)

    # --- how a run ends ---------------------------------------------------------------------------------------

    def _commit(self, lane: Lane, run: Run) -> None:
        session = run.session
        if session is not None and session.ended:
            self._still_wanted(run)  # Its end refused it.
            return
        leaves = lane.slab.read(run.work_rows) if run.return_state else None
        if session is not None:
            if not run.replaying:
                self._move(lane, session, run)
            self._sessions.renew(session)
        if run.replaying:
            self._metrics.replay(lane.label)
        else:
            self._metrics.steps(lane.label, run.steps)
        step_count = session.step_count if session is not None else 0
        run.result = RunResult(run.outputs, leaves, step_count, run.steps, run.replaying)
        self._finish(run, None)

    def _move(self, lane: Lane, session: Session, run: Run) -> None:
        """Makes the run's rows the session's state, and keeps those from before it for a repeat."""
        lane.slab.give_back(session.previous_rows)
        session.previous_rows = session.state_rows
        session.state_rows = run.work_rows
        run.work_rows = ()
        session.last_run = LastRun(run.run_id, session.step_count, run.steps, run.input_digest) if run.run_id else None
        session.step_count += run.steps

    def _settle_without_steps(self, lane: Lane, run: Run) -> None:
        """A run of no steps or no rows: nothing moves."""
        leaves: list[Array] | None = None
        if run.return_state and run.session is not None:
            leaves = lane.slab.read(run.session.state_rows)
        elif run.return_state and run.initial_leaves is not None:
            leaves = list(run.initial_leaves)
        elif run.return_state:
            leaves = [np.zeros((run.rows, size), run.model.description.dtype) for size in run.model.leaf_sizes]
        step_count = run.session.step_count if run.session is not None else 0
        run.result = RunResult(run.outputs, leaves, step_count, run.steps, replayed=False)
        self._settle(run, None)

    def _finish(self, run: Run, error: CellServeError | None) -> None:
        """Answers a run that had begun, and lets what waits for its session begin."""
        self._settle(run, error)
        session = run.session
        while session is not None and session.waiting and session.active is None:
            session.waiting.popleft()()

    def _settle(self, run: Run, error: CellServeError | None) -> None:
        """Gives the run's rows back and answers."""
        run.error = error
        self._runs.discard(run)
        self._queued_bytes -= run.size_bytes
        if run.work_rows:
            self.lanes[run.model].slab.give_back(run.work_rows)
            run.work_rows = ()
            self.lanes.tidy(run.model)
        outcome = "ok" if error is None else OUTCOMES.get(type(error), "error")
        self._metrics.run_done(metrics_label(run.model), outcome)
        if run.session is not None and run.session.active is run:
            run.session.active = None
        if not self._runs:
            self._idle.set()
        self._room.set()
        if run.on_done is not None:
            run.on_done(run)


def draining_error() -> DrainingError:
    """What new work is told while the server stops."""
    return DrainingError("the server is stopping and takes no new work", retry_after_s=DRAIN_RETRY_S)
