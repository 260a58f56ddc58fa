"""The engine: takes work in, bounded, gives each session one run at a time, and has a loop that ticks.

Batches form by themselves: what arrives while a tick computes is in the next one. Until a run is committed its
session's state is what it was, so a run that fails, is cancelled or comes too late leaves no trace. The state from
before the last run is kept, so that its repeat can be computed again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import structlog

from cellserve.errors import (
    CellServeError,
    DeadlineExceededError,
    DrainingError,
    QueueFullError,
    RunCancelledError,
    StateRolledBackError,
    StepOutOfOrderError,
)
from cellserve.tensors import Array
from cellserve_server.config import ServerConfig
from cellserve_server.engine.admission import check_alive, is_repeat
from cellserve_server.engine.at_once import StepsAtOnce
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.observing import TickObserver
from cellserve_server.engine.ownership import Ownership
from cellserve_server.engine.run_queue import RunQueue
from cellserve_server.engine.runs import Run, RunResult
from cellserve_server.engine.sharing import Sharing
from cellserve_server.engine.state_writer import StateWriter
from cellserve_server.engine.tick_loop import TickLoop
from cellserve_server.engine.turns import Turn
from cellserve_server.engine.whole_runs import WholeRuns
from cellserve_server.incidents import internal_error
from cellserve_server.keys import Client
from cellserve_server.metrics import EngineMetrics
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.lanes import LaneTable, metrics_label
from cellserve_server.sessions.records import encode_states
from cellserve_server.sessions.seats import BUSY, FLAGS, StateBudget
from cellserve_server.sessions.session import LastRun, Session
from cellserve_server.sessions.table import SessionTable
from cellserve_server.tenant_limits import TenantLimits
from cellserve_server.tick_times import TickTimes

DRAIN_RETRY_S = 1.0
OUTCOMES: dict[type[CellServeError], str] = {
    RunCancelledError: "cancelled",
    DeadlineExceededError: "deadline",
    QueueFullError: "shed",
}

T = TypeVar("T")


class Engine:
    """Steps sessions and sessionless runs. Everything but the arithmetic happens on one event loop.

    Args:
        config: the limits.
        sessions: the sessions; ``release`` is to be called with each that ends.
        metrics: told of ticks and runs.
        clock: unix seconds, never going back.
        new_id: makes the ids under which bugs are logged.
        limits: those of tenants; None: as the settings say.

    Attributes:
        clock: as given.
        draining: whether new work is refused, because the server stops.
        lanes: what is kept for each model.
        queue: how much is under way.
        sharing: whether several tenants use the server just now.
        writer: writes states to a store before steps are answered; None: memory is where they are.
        ownership: looks whether sessions are still here before runs are refused; None: they are nowhere else.
        observers: told of ticks; to be added to and taken from on the event loop, at any time.
        on_moved: called when states in memory have moved on that are to be written later; None: there are none.
        store_refusal: why no new work is taken although the server does not stop; None: it is.
    """

    def __init__(
        self,
        config: ServerConfig,
        sessions: SessionTable,
        metrics: EngineMetrics,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        limits: TenantLimits | None = None,
    ) -> None:
        self.clock = clock
        self.draining = False
        self.writer: StateWriter | None = None
        self.ownership: Ownership | None = None
        self.observers: list[TickObserver] = []
        self.on_moved: Callable[[], None] | None = None
        self.store_refusal: CellServeError | None = None
        # Twice: a table may have grown to twice of what is in it.
        self.lanes = LaneTable(StateBudget(2 * config.max_state_bytes))
        self._sessions = sessions
        self._config = config
        self._metrics = metrics
        self._new_id = new_id
        self._log = structlog.get_logger("cellserve.engine")
        self.queue = RunQueue(config, limits)
        self._runs: set[Run] = set()
        self._blocks: dict[StepBlock, int] = {}  # steps of each that are not over
        self._orphans: dict[int, Session] = {}  # by life: sessions that have ended while a block had them
        self._waiting_turns = 0
        self.sharing = Sharing(lambda: self.queue.tenants)
        self._ticks = TickLoop(config, metrics, self.observers, clock, self, self.sharing)
        self._at_once = StepsAtOnce(config, metrics, self.observers, clock)
        self._whole = WholeRuns(clock, self.finish, self.fail, self._observe_whole)

    def start(self) -> asyncio.Task[None]:
        """Starts the loop. The task ends only by ``stop``, or by a bug: who starts the engine watches it."""
        return self._ticks.start()

    async def drain(self, timeout_s: float) -> None:
        """Refuses new work and waits until what is under way is done; what is not by then fails with DRAINING."""
        self.draining = True
        self.queue.close()
        try:
            await asyncio.wait_for(self.queue.idle.wait(), timeout_s)
        except TimeoutError:
            self._log.warning("drain_timeout", runs_left=self.queue.runs, timeout_s=timeout_s)
            for run in self._runs:
                run.refuse(draining_error())
            for block in self._blocks:
                block.cancel(draining_error())
            await self.queue.idle.wait()  # Each run that is left is refused before its next tick.

    async def stop(self) -> None:
        """Stops the loop and the compute threads."""
        await self._ticks.stop()
        await self._whole.stop()
        if self.ownership is not None:
            await self.ownership.stop()

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

    def submit(self, run: Run, *, has_room: bool = False) -> None:
        """Takes a run in. Its ``on_done`` is called exactly once, here or later.

        Args:
            has_room: room was waited for, so there is.

        Raises:
            UnavailableError: the server is stopping, or is cut off from its store.
            QueueFullError: too many runs, or bytes of them, are under way.
        """
        self.require_serving()
        if not has_room:
            self.queue.require_room(run.size_bytes, run.client)
        run.arrived = time.perf_counter()
        self._runs.add(run)
        self.queue.add(1, run.size_bytes, run.client)
        if run.session is not None and run.session.busy:
            run.session.defer(partial(self._begin, run))
        else:
            self._begin(run)

    def submit_block(self, block: StepBlock, model: LoadedModel) -> None:
        """Takes a block in whose steps are admissible now. Room was waited for before.

        Raises:
            UnavailableError: the server is stopping, or is cut off from its store; no step was taken.
        """
        self.require_serving()
        block.arrived = time.perf_counter()
        self._blocks[block] = len(block)
        self.queue.add(len(block), len(block) * block.step_bytes, block.client)
        self._ticks.add_block(self.lanes[model], block)

    def step_at_once(
        self, session: Session, life: int, inputs: Sequence[Array], expected_step: int | None, run_id: int
    ) -> tuple[int, list[Array]] | None:
        """A step here and now, when there is nothing else to do, or nothing of its tenant; see ``StepsAtOnce.step``."""
        if self.draining or self.writer is not None or self.store_refusal is not None:
            return None
        tenant = session.key.tenant
        if self.queue.runs and not self._may_go_aside(tenant):
            return None
        done = self._at_once.step(self.lanes[session.model], session, life, inputs, expected_step, run_id)
        if done is not None:
            self.sharing.note(tenant)
            self.note_moved()
        return done

    def _may_go_aside(self, tenant: str) -> bool:
        return self.sharing.is_shared and not self.queue.runs_of(tenant) and self._ticks.take_aside(tenant)

    @property
    def is_serving(self) -> bool:
        """Whether new work is taken."""
        return not self.draining and self.store_refusal is None

    def require_serving(self) -> None:
        """Refuses new work that is not to be taken.

        Raises:
            UnavailableError: the server is stopping, or is cut off from its store.
        """
        if self.draining:
            raise draining_error()
        if self.store_refusal is not None:
            raise self.store_refusal

    @asynccontextmanager
    async def holding(self, session: Session) -> AsyncIterator[None]:
        """Has a session to oneself once the runs and turns that arrived before are over: what comes later waits.

        It may have ended by then, or end meanwhile.

        Raises:
            QueueFullError: too many operations wait.
        """
        hold = _Hold()

        def take() -> None:
            session.occupy(hold)

        try:
            await self.in_turn(session, take)
            yield
        finally:
            if session.active is hold:
                session.vacate()
                self.go_on(session)

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
            most = self._config.max_queued_runs
            raise self.queue.full(f"{self._waiting_turns} operations wait for their turn", most)
        self._waiting_turns += 1
        session.defer(partial(self._take_turn, turn))
        return future

    def _take_turn(self, turn: Turn) -> None:
        self._waiting_turns -= 1
        turn.take()

    def release(self, session: Session) -> None:
        """A session is over: its seat goes back, its run under way is dropped, what waits for it is told in turn."""
        if session.active is None and session.seats.words[session.base + FLAGS] & BUSY:
            self._orphans[session.life] = session  # A block has it, and will look for it.
        session.seats.give_back(session.seat)
        if session.active is not None:
            session.active.refuse(self._sessions.ended_error(session))
        self.lanes.tidy(session.model)

    # --- how a run begins -------------------------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
        """A run's turn has come: checks it against its session as that is now, and readies it for its first tick."""
        session = run.session
        try:
            check_alive(run, self.clock())
            if session is not None:
                self._sessions.check_life(session, run.uid)
                run.replaying = is_repeat(run, session)
            run.prepare()
        except (StepOutOfOrderError, StateRolledBackError) as error:
            if session is None or self.ownership is None:
                self._settle(run, error)
            else:
                self.ownership.refuse(run, session, error)
        except CellServeError as error:
            self._settle(run, error)
        except MemoryError as error:
            self._settle(run, self.bug(run.model, error))
        else:
            self._start(run)

    def _start(self, run: Run) -> None:
        if run.steps == 0 or run.rows == 0:
            self._settle_without_steps(run)
        elif not run.model.steppable:
            self._whole.begin(run)
        else:
            if run.session is not None:
                run.session.occupy(run)
            self._ticks.add_run(self.lanes[run.model], run)

    # --- how work ends ----------------------------------------------------------------------------------------

    def committed(self, run: Run, leaves: Sequence[Array]) -> None:
        """All steps of a run are computed: its state becomes its session's, and it is answered.

        Args:
            leaves: the state after the run, ``[rows, units]`` each.
        """
        session = run.session
        if session is None or run.replaying:
            self._replayed(run, leaves)
            return
        last = LastRun(run.run_id, session.step_count, run.steps, run.input_digest) if run.run_id else None
        began = time.perf_counter()
        if self.writer is None:
            self._move(run, session, last, leaves, began)
        else:
            record = session.record_after(last, run.steps, self.clock())
            states = encode_states(record, leaves, session.rows)
            self.writer.add([session], record, states, partial(self._written, run, session, last, leaves, began))

    def _replayed(self, run: Run, leaves: Sequence[Array]) -> None:
        if run.session is not None:
            run.session.renew(self.clock())
        self.answer(run, leaves)

    def _written(self, run: Run, session: Session, last: LastRun | None, leaves: Sequence[Array], began: float) -> None:
        """The store has the state after a run, or has refused it, and the session is out of memory."""
        if session.ended:
            self.finish(run, run.refusal or self._sessions.ended_error(session))
        else:
            self._metrics.run_written(metrics_label(run.model), time.perf_counter() - began)
            self._move(run, session, last, leaves, began)

    def _move(self, run: Run, session: Session, last: LastRun | None, leaves: Sequence[Array], began: float) -> None:
        commit_s = time.perf_counter() - began
        session.move(leaves, last, run.steps)
        session.renew(self.clock())
        self.note_moved()
        for observer in self.observers:
            observer.run_committed(run, leaves, commit_s)
        self.answer(run, leaves)

    def note_moved(self) -> None:
        """States in memory have moved on."""
        if self.on_moved is not None:
            self.on_moved()

    def answer(self, run: Run, leaves: Sequence[Array]) -> None:
        """Answers a run that is over and whose session has its state."""
        label = metrics_label(run.model)
        if run.replaying:
            self._metrics.replay(label)
        else:
            self._metrics.steps(label, run.steps)
        step_count = run.session.step_count if run.session is not None else 0
        kept = list(leaves) if run.return_state else None
        run.result = RunResult(run.outputs, kept, step_count, run.steps, run.replaying)
        self.finish(run, None)

    def finish(self, run: Run, error: CellServeError | None) -> None:
        """Answers a run that had begun, and lets what waits for its session begin."""
        self._settle(run, error)
        if run.session is not None:
            self.go_on(run.session)

    def fail(self, run: Run, error: Exception) -> None:
        """Answers a run that met a bug of ours."""
        self.finish(run, self.bug(run.model, error))

    def bug(self, model: LoadedModel, error: Exception) -> CellServeError:
        """Logs a bug of ours; what its callers see of it."""
        return internal_error(self._log, self._new_id, error, {"model": model.resource_name})

    def steps_over(self, block: StepBlock, model: LoadedModel, count: int, outcome: str) -> None:
        """So many steps of a block are answered."""
        self._blocks[block] -= count
        if not self._blocks[block]:
            del self._blocks[block]
        self._count_out(block.client, model, count, count * block.step_bytes, outcome, block.arrived, is_step=True)

    def refuse_step(self, block: StepBlock, model: LoadedModel, step: int, error: CellServeError | None) -> None:
        """A step of a block is not applied.

        Args:
            error: why; None: its session has ended.
        """
        session = self._orphans.pop(int(block.lives[step]), None) or block.seats.occupants[int(block.index[step])]
        assert session is not None, "a session that a block has is at its seat, or has ended"
        error = error or self._sessions.ended_error(session)
        block.sink.fail(int(block.positions[step]), error)
        self.steps_over(block, model, 1, outcome_of(error))
        session.vacate()
        self.go_on(session)

    def go_on(self, session: Session) -> None:
        """Lets what waits for a session begin, until one is a run that takes time."""
        while session.active is None and (action := session.next_in_line()) is not None:
            action()

    def _settle_without_steps(self, run: Run) -> None:
        """A run of no steps or no rows: nothing moves, so its state is the one that it was prepared with."""
        step_count = run.session.step_count if run.session is not None else 0
        kept = list(run.leaves) if run.return_state else None
        run.result = RunResult(run.outputs, kept, step_count, run.steps, replayed=False)
        self._settle(run, None)

    def _count_out(
        self,
        client: Client,
        model: LoadedModel,
        runs: int,
        size_bytes: int,
        outcome: str,
        arrived: float,
        *,
        is_step: bool,
    ) -> None:
        seconds = time.perf_counter() - arrived
        self._metrics.runs_done(metrics_label(model), outcome, runs, seconds, is_step=is_step)
        self.queue.remove(runs, size_bytes, client)

    def _settle(self, run: Run, error: CellServeError | None) -> None:
        """Answers."""
        run.error = error
        self._runs.discard(run)
        if run.session is not None and run.session.active is run:
            run.session.vacate()
        outcome = outcome_of(error)
        self._count_out(run.client, run.model, 1, run.size_bytes, outcome, run.arrived, is_step=run.is_step)
        if run.on_done is not None:
            run.on_done(run)

    def _observe_whole(self, run: Run, times: TickTimes) -> None:
        label = metrics_label(run.model)
        self._metrics.tick(label, run.rows, times)
        self._metrics.steps(label, run.steps)


class _Hold:
    """What is under way on a session that an operation holds."""

    def refuse(self, error: CellServeError) -> None:
        """The session has ended; the operation finds out."""


def outcome_of(error: CellServeError | None) -> str:
    """How metrics call the end of a run."""
    return "ok" if error is None else OUTCOMES.get(type(error), "error")


def draining_error() -> DrainingError:
    """What new work is told while the server stops."""
    return DrainingError("the server is stopping and takes no new work", retry_after_s=DRAIN_RETRY_S)
