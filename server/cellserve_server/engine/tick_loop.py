"""The loop that ticks: schedule, gather, compute, commit, answer.

A lane has two kinds of work that take turns: single steps of sessions, all in columns; and longer runs, which go on by
some time steps at a time (a chunk), because a product over many steps costs little more than one over one. A chunk is
cut so that it takes about ``max_chunk_us``, and has at most ``max_chunk_steps``: so long a single step waits for
sequences of any length.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.config import ServerConfig
from cellserve_server.engine.admission import check_alive
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.chunks import gather_chunk, scatter_chunk
from cellserve_server.engine.computing import Computing, Results
from cellserve_server.engine.runs import OutputMode, Run
from cellserve_server.engine.scheduler import Scheduler, Taken
from cellserve_server.engine.state_writer import StateWriter
from cellserve_server.engine.ticks import Committed, Gathered, Part, commit, gather, next_records
from cellserve_server.metrics import Metrics
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.lanes import Lane
from cellserve_server.sessions.records import encode_states
from cellserve_server.sessions.seats import Seats
from cellserve_server.sessions.session import Session


class Owner(Protocol):
    """Who is told how work ends: the engine."""

    def committed(self, run: Run, leaves: Sequence[Array]) -> None:
        """All steps of a run are computed, and are not its session's state yet."""
        ...

    def answer(self, run: Run, leaves: Sequence[Array]) -> None:
        """A run's step is its session's state."""
        ...

    def finish(self, run: Run, error: CellServeError | None) -> None:
        """A run is over."""
        ...

    def fail(self, run: Run, error: Exception) -> None:
        """A run met a bug of ours."""
        ...

    def bug(self, model: LoadedModel, error: Exception) -> CellServeError:
        """Logs a bug of ours; what its callers see of it."""
        ...

    def steps_over(self, block: StepBlock, model: LoadedModel, count: int, outcome: str) -> None:
        """Steps of a block are answered."""
        ...

    def refuse_step(self, block: StepBlock, model: LoadedModel, step: int, error: CellServeError | None) -> None:
        """A step of a block is not applied; no error: its session has ended."""
        ...

    def go_on(self, session: Session) -> None:
        """Lets what waits for a session begin."""
        ...

    def note_moved(self) -> None:
        """States in memory have moved on."""
        ...

    @property
    def writer(self) -> StateWriter | None:
        """Where states are written before steps are answered; None: nowhere."""
        ...


class TickLoop:
    """Ticks as long as there is work.

    Args:
        config: the limits.
        metrics: told of ticks and steps.
        clock: the engine's.
        owner: told how work ends.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics, clock: Callable[[], float], owner: Owner) -> None:
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._owner = owner
        # Of a lane's queues those of single steps are their seats; the one of longer runs is None.
        self._scheduler: Scheduler[Lane, Seats[Session] | None, Run | StepBlock] = Scheduler(config.max_tick_rows)
        self._wake = asyncio.Event()
        self._computing = Computing(config.inline_tick_us)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Starts the loop."""
        self._task = asyncio.get_running_loop().create_task(self._loop(), name="cellserve-engine")
        return self._task

    async def stop(self) -> None:
        """Stops the loop and the compute thread."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._computing.stop()

    def add_block(self, lane: Lane, block: StepBlock) -> None:
        """Takes a block, whose sessions are idle; they are its from now on."""
        block.occupy()
        self._scheduler.add(lane, block.seats, block.client, block, block.seats.rows, len(block))
        self._wake.set()

    def add_run(self, lane: Lane, run: Run) -> None:
        """Takes a prepared run. A single step of a session goes with the blocks, all else by chunks."""
        seats = run.session.seats if run.session is not None and run.is_plain_step else None
        self._scheduler.add(lane, seats, run.client, run, run.rows)
        self._wake.set()

    async def _loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._scheduler:
                lane, seats, taken = self._scheduler.next_tick()
                if seats is None:
                    await self._chunk_tick(lane, taken)
                else:
                    await self._step_tick(lane, seats, taken)
                # What has arrived meanwhile comes in here and is part of the next tick.
                await asyncio.sleep(0)

    # --- single steps ---------------------------------------------------------------------------------------------

    async def _step_tick(self, lane: Lane, seats: Seats[Session], taken: Sequence[Taken[Run | StepBlock]]) -> None:
        parts = [Part(item, item.take(count)) for item, count in taken if isinstance(item, StepBlock)]
        runs = [item for item, _ in taken if isinstance(item, Run)]
        if not parts and len(runs) == 1:
            await self._lone_step(lane, runs[0])
        else:
            await self._try_steps(lane, seats, parts, runs)

    async def _lone_step(self, lane: Lane, run: Run) -> None:
        """A run that has a tick for itself needs no columns."""
        if not self._still_wanted(run):
            return
        assert run.session is not None, "steps without a session go by chunks"
        try:
            run.leaves = run.session.read_state()
        except MemoryError as error:
            self._owner.fail(run, error)
            return
        await self._try_chunk(lane, [run])

    async def _try_steps(self, lane: Lane, seats: Seats[Session], parts: list[Part], runs: list[Run]) -> None:
        now = self._clock()
        parts = [kept for part in parts if (kept := self._still_wanted_of(lane, part, now)).size]
        runs = [run for run in runs if self._still_wanted(run)]
        if not parts and not runs:
            return
        started = time.perf_counter()
        try:
            batch = gather(seats, parts, runs)
            rows = len(batch.taken) * seats.rows
            outputs, leaves, waited = await self._computing.do(
                lane, rows, 1, lambda: lane.model.network.step(batch.inputs, batch.leaves)
            )
            if waited:
                narrowed = self._without_the_ended(lane, batch, outputs, leaves)
                if narrowed is None:
                    return
                batch, outputs, leaves = narrowed
            if self._owner.writer is not None:
                self._write(self._owner.writer, lane, batch, outputs, leaves)
                self._metrics.tick(lane.label, rows, time.perf_counter() - started)
                return
            done = commit(batch, leaves, self._clock())
        except Exception as error:  # Nothing in a tick raises on purpose: a bug of ours, or no memory.
            await self._isolate(lane, seats, parts, runs, error)
            return
        self._owner.note_moved()
        self._answer(lane, batch, outputs, leaves, done)
        self._metrics.tick(lane.label, rows, time.perf_counter() - started)

    def _write(
        self, writer: StateWriter, lane: Lane, batch: Gathered, outputs: list[Array], leaves: list[Array]
    ) -> None:
        """Has the states after a tick written; ticks of other sessions go on meanwhile."""
        records = next_records(batch, self._clock())
        sessions = [session for seat in batch.taken.tolist() if (session := batch.seats.occupants[seat]) is not None]
        assert len(sessions) == len(records), "all sessions of a tick live"
        states = encode_states(records, leaves, batch.seats.rows)
        writer.add(sessions, records, states, partial(self._written, lane, batch, outputs, leaves))

    def _written(self, lane: Lane, batch: Gathered, outputs: list[Array], leaves: list[Array]) -> None:
        """The store has the states after a tick, but for those sessions that are out of memory now."""
        narrowed = self._without_the_ended(lane, batch, outputs, leaves)
        if narrowed is not None:
            batch, outputs, leaves = narrowed
            self._answer(lane, batch, outputs, leaves, commit(batch, leaves, self._clock()))

    def _answer(self, lane: Lane, batch: Gathered, outputs: list[Array], leaves: list[Array], done: Committed) -> None:
        rows = batch.seats.rows
        start = 0
        for part in batch.parts:
            stop = start + part.size
            part.block.sink.stepped(
                part.block.positions[part.steps],
                done.step_counts[start:stop],
                [output[start * rows : stop * rows] for output in outputs],
            )
            self._owner.steps_over(part.block, lane.model, stop - start, "ok")
            start = stop
        if start:
            self._metrics.steps(lane.label, start)
        for run in batch.runs:
            span = slice(start * rows, (start + 1) * rows)
            if run.mode is not OutputMode.NONE:
                for target, output in zip(run.outputs, outputs, strict=True):
                    target[:, 0] = output[span]
            self._owner.answer(run, [leaf[span] for leaf in leaves] if run.return_state else ())
            start += 1
        for session in done.waiting:
            self._owner.go_on(session)

    def _without_the_ended(
        self, lane: Lane, batch: Gathered, outputs: list[Array], leaves: list[Array]
    ) -> tuple[Gathered, list[Array], list[Array]] | None:
        """The batch without the sessions that have ended while it was computed; None: none is left."""
        masks = [_alive(part) for part in batch.parts]
        kept_runs = [run.session is None or not run.session.ended for run in batch.runs]
        kept = np.concatenate([*masks, np.array(kept_runs, dtype=bool)])
        if np.count_nonzero(kept) == len(kept):
            return batch, outputs, leaves
        for part, mask in zip(batch.parts, masks, strict=True):
            self._refuse(lane, part, ~mask, None)
        parts = [part.narrowed(mask) for part, mask in zip(batch.parts, masks, strict=True) if np.count_nonzero(mask)]
        # Its session's end refused each of the others.
        runs = [run for run, is_kept in zip(batch.runs, kept_runs, strict=True) if is_kept or self._still_wanted(run)]
        if not np.count_nonzero(kept):
            return None
        rows = np.repeat(kept, batch.seats.rows)
        narrowed = Gathered(batch.seats, parts, runs, batch.taken[kept], batch.inputs, batch.leaves)
        return narrowed, [output[rows] for output in outputs], [leaf[rows] for leaf in leaves]

    async def _isolate(
        self, lane: Lane, seats: Seats[Session], parts: list[Part], runs: list[Run], error: Exception
    ) -> None:
        """A tick failed, which is a bug of ours: each step is tried alone, so that only the culprit fails."""
        if sum(part.size for part in parts) + len(runs) > 1:
            for part in parts:
                for step in range(part.size):
                    mask = np.zeros(part.size, dtype=bool)
                    mask[step] = True
                    await self._try_steps(lane, seats, [part.narrowed(mask)], [])
            for run in runs:
                await self._try_steps(lane, seats, [], [run])
        elif runs:
            self._owner.fail(runs[0], error)
        else:
            (part,) = parts
            self._refuse(lane, part, np.ones(1, dtype=bool), self._owner.bug(lane.model, error))

    # --- longer runs ----------------------------------------------------------------------------------------------

    async def _chunk_tick(self, lane: Lane, taken: Sequence[Taken[Run | StepBlock]]) -> None:
        runs = [item for item, _ in taken if isinstance(item, Run) and self._still_wanted(item)]
        if runs:
            await self._try_chunk(lane, runs)

    async def _try_chunk(self, lane: Lane, runs: list[Run]) -> None:
        started = time.perf_counter()
        rows = sum(run.rows for run in runs)
        network = lane.model.network
        try:
            chunk = gather_chunk(runs, self._chunk_steps(lane, rows))

            def step() -> Results:
                outputs, leaves = network.step([array[:, 0] for array in chunk.inputs], chunk.leaves)
                return [output[:, np.newaxis] for output in outputs], leaves

            def run_steps() -> Results:
                return network.run(chunk.inputs, chunk.lengths, chunk.leaves)

            work = step if chunk.is_one_step else run_steps
            outputs, leaves, _ = await self._computing.do(lane, rows, chunk.steps, work)
            scatter_chunk(chunk, outputs, leaves)
        except Exception as error:  # Nothing in a tick raises on purpose: a bug of ours, or no memory.
            if len(runs) == 1:
                self._owner.fail(runs[0], error)
                return
            for run in runs:
                await self._try_chunk(lane, [run])
            return
        self._metrics.tick(lane.label, rows, time.perf_counter() - started)
        for run in runs:
            if run.position < run.steps:
                self._scheduler.add(lane, None, run.client, run, run.rows)
            elif run.session is None or not run.session.ended:
                self._owner.committed(run, run.leaves)
            else:
                self._still_wanted(run)  # Its session's end refused it.

    def _chunk_steps(self, lane: Lane, rows: int) -> int:
        """The time steps that a chunk may have."""
        step_s = lane.predicted_seconds(rows)
        if step_s is None:
            return 1
        return max(1, min(self._config.max_chunk_steps, int(self._config.max_chunk_us / (step_s * 1e6 + 1e-3))))

    # --- common ---------------------------------------------------------------------------------------------------

    def _still_wanted(self, run: Run) -> bool:
        try:
            check_alive(run, self._clock())
        except CellServeError as error:
            self._owner.finish(run, error)
            return False
        return True

    def _still_wanted_of(self, lane: Lane, part: Part, now: float) -> Part:
        """The steps of a part that are still to be done; the others are refused, each with its reason."""
        block = part.block
        alive = block.alive(part.steps)
        if alive is not None:
            self._refuse(lane, part, ~alive, None)
            part = part.narrowed(alive)
        if block.earliest > now and block.refusal is None and not block.refusals:
            return part
        errors = block.errors_of(part.steps, now)
        refused = np.array([error is not None for error in errors], dtype=bool)
        for step, error in zip(_steps_of(part), errors, strict=True):
            if error is not None:
                self._owner.refuse_step(block, lane.model, step, error)
        return part.narrowed(~refused)

    def _refuse(self, lane: Lane, part: Part, mask: Array, error: CellServeError | None) -> None:
        for step in _steps_of(part.narrowed(mask)):
            self._owner.refuse_step(part.block, lane.model, step, error)


def _alive(part: Part) -> Array:
    alive = part.block.alive(part.steps)
    return np.ones(part.size, dtype=bool) if alive is None else alive


def _steps_of(part: Part) -> list[int]:
    steps = part.steps
    return list(range(steps.start, steps.stop)) if isinstance(steps, slice) else [int(step) for step in steps]
