"""Callers that step sessions without a pause while others make faults, and keep account of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import numpy as np

from cellserve.errors import CellServeError, StateRolledBackError
from cellserve.tensors import Array
from cellserve_client import aio
from tests.faults.feed import CELL, CELL_SEED, DEPTH, UNITS, Feed

FIRST_CAPACITY = 256
LONGEST_SEQUENCE = 6
LONGEST_LULL_S = 10.0


@dataclass(frozen=True)
class LoadPlan:
    """How sessions are stepped.

    Attributes:
        sessions: how many.
        seed: of the inputs and of the callers' whims.
        pause_s: between two calls of one session, on average, in seconds.
        sequence_share: how many of the calls are sequences of a few steps.
        handles_rollbacks: whether a caller that is told of lost steps feeds them again; otherwise that is an error.
    """

    sessions: int = 64
    seed: int = 0
    pause_s: float = 0.02
    sequence_share: float = 0.1
    handles_rollbacks: bool = False


class Answers:
    """What was answered to one session: the output of every step that was acknowledged, and when."""

    def __init__(self) -> None:
        self._outputs: Array = np.empty((FIRST_CAPACITY, UNITS), np.float32)
        self._times: Array = np.empty(FIRST_CAPACITY, np.float64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def outputs(self) -> Array:
        """``[steps, UNITS]``."""
        return self._outputs[: self._count]

    @property
    def times(self) -> Array:
        """When each was acknowledged, by the monotonic clock, ``[steps]``."""
        return self._times[: self._count]

    def add(self, outputs: Array, when: float) -> None:
        """The outputs of some steps, ``[steps, UNITS]``."""
        end = self._count + len(outputs)
        while end > len(self._outputs):
            self._outputs = np.concatenate([self._outputs, np.empty_like(self._outputs)])
            self._times = np.concatenate([self._times, np.empty_like(self._times)])
        self._outputs[self._count : end] = outputs
        self._times[self._count : end] = when
        self._count = end

    def roll_back(self, count: int) -> Array:
        """Only so many are left; when the others were acknowledged."""
        lost = self.times[count:].copy()
        self._count = count
        return lost


@dataclass
class Rollback:
    """A server has said that it lost steps.

    Attributes:
        session: whose.
        told_at: when, by the monotonic clock.
        acknowledged_at: when each of them was acknowledged.
    """

    session: int
    told_at: float
    acknowledged_at: Array


@dataclass
class Tally:
    """What all callers have seen.

    Attributes:
        steps: that were acknowledged, those that were fed again counted again.
        calls: that were answered.
        longest_pause_s: the longest that one call took.
        errors: what callers saw as an error: there is to be none.
        rollbacks: losses that were told.
    """

    steps: int = 0
    calls: int = 0
    longest_pause_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    rollbacks: list[Rollback] = field(default_factory=list)


class Callers:
    """One caller for each session, all on one connection.

    Args:
        server: the connection.
        plan: how sessions are stepped.
    """

    def __init__(self, server: aio.Server, plan: LoadPlan) -> None:
        self.plan = plan
        self.feed = Feed(plan.seed)
        self.answers = [Answers() for _ in range(plan.sessions)]
        self.tally = Tally()
        self._server = server
        self._sessions: list[aio.Session] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._done = asyncio.Event()
        self._answered = asyncio.Event()

    @property
    def ids(self) -> list[str]:
        """The sessions' ids."""
        return [session.id for session in self._sessions]

    async def open(self) -> None:
        """Makes the sessions."""
        cell = await self._server.cell(CELL, input_size=DEPTH, seed=CELL_SEED)
        self._sessions = list(
            await asyncio.gather(
                *(
                    self._server.session(cell, session_id=f"fault-{self.plan.seed}-{index}")
                    for index in range(self.plan.sessions)
                )
            )
        )

    def start(self) -> None:
        """Has the callers begin."""
        self._tasks = [
            asyncio.get_running_loop().create_task(self._call(index), name=f"caller-{index}")
            for index in range(self.plan.sessions)
        ]

    async def finish(self) -> None:
        """Has every caller finish the call that it is at, and returns when all have."""
        self._done.set()
        await asyncio.gather(*self._tasks)

    async def until_steps_go_on(self) -> None:
        """Returns with the next step that is acknowledged, or after a while: then callers will tell what is wrong."""
        self._answered.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._answered.wait(), LONGEST_LULL_S)

    def require_running(self) -> None:
        """A bug of a caller is not to be found at the end alone.

        Raises:
            BaseException: that a caller died of.
        """
        for task in self._tasks:
            if task.done() and (error := task.exception()) is not None:
                raise error

    async def _call(self, index: int) -> None:
        whims = np.random.default_rng([self.plan.seed, index])
        while not self._done.is_set():
            await asyncio.sleep(float(whims.exponential(self.plan.pause_s)))
            is_sequence = whims.random() < self.plan.sequence_share
            steps = int(whims.integers(1, LONGEST_SEQUENCE + 1)) if is_sequence else 1
            try:
                await self._call_once(index, steps, is_sequence)
            except StateRolledBackError as error:
                if not self.plan.handles_rollbacks:
                    self._note_error(index, error)
                    return
                self._note_rollback(index)
            except CellServeError as error:
                self._note_error(index, error)
                return  # What it thinks of its session may be wrong from here on.

    async def _call_once(self, index: int, steps: int, is_sequence: bool) -> None:
        session, answers = self._sessions[index], self.answers[index]
        first = len(answers)
        began = time.monotonic()
        try:
            if is_sequence:
                outputs = await session.run(self.feed.of(index, first, first + steps))
            else:
                outputs = await session.step(self.feed.at(index, first))
        finally:
            now = time.monotonic()
            self.tally.longest_pause_s = max(self.tally.longest_pause_s, now - began)
        answers.add(np.reshape(np.asarray(outputs), (steps, UNITS)), now)
        self.tally.steps += steps
        self.tally.calls += 1
        self._answered.set()
        if session.step_count != len(answers):
            self.tally.errors.append(
                f"session {index}: {len(answers)} steps were acknowledged, and it counts {session.step_count}"
            )

    def _note_rollback(self, index: int) -> None:
        lost = self.answers[index].roll_back(self._sessions[index].step_count)
        self.tally.rollbacks.append(Rollback(index, time.monotonic(), lost))

    def _note_error(self, index: int, error: CellServeError) -> None:
        at = len(self.answers[index])
        self.tally.errors.append(f"session {index} at step {at}: {type(error).__name__}: {error.message}")
