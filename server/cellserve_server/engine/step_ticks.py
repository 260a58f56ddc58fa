"""Ticks of single steps of sessions, all in columns: gather, compute, commit, answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.chunk_ticks import ChunkTicks
from cellserve_server.engine.computing import Computing
from cellserve_server.engine.observing import StepTick, TickObserver
from cellserve_server.engine.owner import Owner, still_wanted
from cellserve_server.engine.runs import OutputMode, Run
from cellserve_server.engine.scheduler import Taken
from cellserve_server.engine.state_writer import StateWriter
from cellserve_server.engine.ticks import Committed, Gathered, Part, commit, gather, next_records
from cellserve_server.metrics import EngineMetrics
from cellserve_server.sessions.lanes import Lane
from cellserve_server.sessions.records import encode_states
from cellserve_server.sessions.seats import Seats
from cellserve_server.sessions.session import Session
from cellserve_server.tick_times import TickTimes


class StepTicks:
    """Does ticks of single steps.

    Args:
        computing: does the arithmetic.
        chunks: does the steps that have a tick for themselves.
        metrics: told of ticks and steps.
        observers: told of ticks.
        clock: the engine's.
        owner: told how work ends.
    """

    def __init__(
        self,
        computing: Computing,
        chunks: ChunkTicks,
        metrics: EngineMetrics,
        observers: Sequence[TickObserver],
        clock: Callable[[], float],
        owner: Owner,
    ) -> None:
        self._computing = computing
        self._chunks = chunks
        self._metrics = metrics
        self._observers = observers
        self._clock = clock
        self._owner = owner

    async def tick(self, lane: Lane, seats: Seats[Session], taken: Sequence[Taken[Run | StepBlock]]) -> None:
        """Does the steps that the scheduler has taken; all their sessions are at these seats."""
        parts = [Part(item, item.take(count)) for item, count in taken if isinstance(item, StepBlock)]
        runs = [item for item, _ in taken if isinstance(item, Run)]
        if not parts and len(runs) == 1:
            await self._lone_step(lane, runs[0])
        else:
            await self._try_steps(lane, seats, parts, runs)

    async def _lone_step(self, lane: Lane, run: Run) -> None:
        """A run that has a tick for itself needs no columns."""
        if not still_wanted(run, self._clock(), self._owner):
            return
        assert run.session is not None, "steps without a session go by chunks"
        try:
            run.leaves = run.session.read_state()
        except MemoryError as error:
            self._owner.fail(run, error)
            return
        await self._chunks.try_runs(lane, [run])

    async def _try_steps(self, lane: Lane, seats: Seats[Session], parts: list[Part], runs: list[Run]) -> None:
        now = self._clock()
        parts = [kept for part in parts if (kept := self._still_wanted_of(lane, part, now)).size]
        runs = [run for run in runs if still_wanted(run, now, self._owner)]
        if not parts and not runs:
            return
        times = TickTimes(min([*(part.block.arrived for part in parts), *(run.arrived for run in runs)]))
        try:
            batch = gather(seats, parts, runs)
            times.note_gathered()
            rows = len(batch.taken) * seats.rows
            outputs, leaves, waited = await self._computing.do(
                lane, rows, 1, lambda: lane.model.network.step(batch.inputs, batch.leaves)
            )
            times.note_computed()
            if waited:
                narrowed = self._without_the_ended(lane, batch, outputs, leaves)
                if narrowed is None:
                    return
                batch, outputs, leaves = narrowed
            if self._owner.writer is not None:
                self._write(self._owner.writer, lane, batch, outputs, leaves, times)
                return
            done = commit(batch, leaves, self._clock())
        except Exception as error:  # Nothing in a tick raises on purpose: a bug of ours, or no memory.
            await self._isolate(lane, seats, parts, runs, error)
            return
        self._owner.note_moved()
        self._answer(lane, batch, outputs, leaves, done, times)

    def _write(
        self,
        writer: StateWriter,
        lane: Lane,
        batch: Gathered,
        outputs: list[Array],
        leaves: list[Array],
        times: TickTimes,
    ) -> None:
        """Has the states after a tick written; ticks of other sessions go on meanwhile."""
        records = next_records(batch, self._clock())
        sessions = [session for seat in batch.taken.tolist() if (session := batch.seats.occupants[seat]) is not None]
        assert len(sessions) == len(records), "all sessions of a tick live"
        states = encode_states(records, leaves, batch.seats.rows)
        writer.add(sessions, records, states, partial(self._written, lane, batch, outputs, leaves, times))

    def _written(
        self, lane: Lane, batch: Gathered, outputs: list[Array], leaves: list[Array], times: TickTimes
    ) -> None:
        """The store has the states after a tick, but for those sessions that are out of memory now."""
        times.note_committed()
        narrowed = self._without_the_ended(lane, batch, outputs, leaves)
        if narrowed is not None:
            batch, outputs, leaves = narrowed
            self._answer(lane, batch, outputs, leaves, commit(batch, leaves, self._clock()), times)

    def _answer(
        self,
        lane: Lane,
        batch: Gathered,
        outputs: list[Array],
        leaves: list[Array],
        done: Committed,
        times: TickTimes,
    ) -> None:
        times.note_scattered()
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
        times.note_encoded()
        self._metrics.tick(lane.label, start * rows, times)
        if self._observers:
            tick = StepTick(lane, batch, outputs, leaves, done.step_counts, times)
            for observer in self._observers:
                observer.steps_answered(tick)
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
        runs = [
            run
            for run, is_kept in zip(batch.runs, kept_runs, strict=True)
            if is_kept or still_wanted(run, self._clock(), self._owner)
        ]
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
