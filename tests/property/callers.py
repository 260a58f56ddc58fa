"""Callers of every kind, each of which checks what it gets against its own session alone, whoever else is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from cellserve.errors import DeadlineExceededError, GroupStepError, QueueFullError
from cellserve.states import flatten
from cellserve.tensors import Array
from cellserve_client import Server, aio, rnn
from tests.property.histories import Alone, Histories, Run, draw_run, one_step

Result = TypeVar("Result")

SHORTEST_S, LONGEST_S = 0.0002, 0.01
BATCH, MEMBERS, LONGEST_RUN = 3, 6, 9
SEQUENCES = 0.4
MOST_IN_A_ROW = 3
NOBODY = np.zeros(0, np.int64)


class Whims:
    """Decides how long a caller waits: some give up now and then, but not for ever.

    Args:
        random: the caller's.
        gives_up: whether this one does.
    """

    def __init__(self, random: np.random.Generator, gives_up: bool) -> None:
        self._random = random
        self._gives_up = gives_up
        self._times = 0  # in a row

    def timeout_s(self) -> float | None:
        """How long the next call may take; None: as long as it does."""
        if not self._gives_up or self._times == MOST_IN_A_ROW or self._random.random() < 0.5:
            self._times = 0
            return None
        self._times += 1
        return float(self._random.uniform(SHORTEST_S, LONGEST_S))

    async def wait(self, call: Callable[[float | None], Coroutine[Any, Any, Result]]) -> Result | None:
        """Makes a call with a timeout; None: it was given up, by its timeout or cancelled."""
        timeout_s = self.timeout_s()
        if timeout_s is None:
            return await call(None)
        if self._random.random() < 0.5:
            try:
                return await call(timeout_s)
            except (DeadlineExceededError, QueueFullError):
                return None
        task = asyncio.create_task(call(None))
        for _ in range(self._random.integers(0, 12)):
            await asyncio.sleep(0)  # Another place in its way each time.
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return None


@dataclass(frozen=True)
class Caller:
    """Who a caller is.

    Attributes:
        alone: the model that it uses.
        connection: of the caller's kind.
        cell: the model on the server.
        random: its own.
        gives_up: whether it does now and then.
        rounds: how many calls it makes.
    """

    alone: Alone
    connection: aio.Server
    cell: aio.Cell
    random: np.random.Generator
    gives_up: bool
    rounds: int

    @property
    def whims(self) -> Whims:
        """New ones."""
        return Whims(self.random, self.gives_up)

    async def uses_a_session(
        self, batch_size: int | None, poisoned: Sequence[int] = (), sequences: float = 0.0
    ) -> None:
        """Steps a session, some of whose rows get NaN and the like.

        Args:
            sequences: which part of its calls are sequences.
        """
        async with self.cell.session(batch_size=batch_size) as session:
            rows = batch_size or 1
            histories = Histories(self.alone, rows, np.setdiff1d(np.arange(rows), poisoned))
            await self.goes_on(session, histories, np.array(poisoned, np.int64), sequences)

    async def goes_on(
        self, session: aio.Session, histories: Histories, poisoned: Array = NOBODY, sequences: float = 0.0
    ) -> None:
        """Steps a session that has a history, and reads it in the end."""
        rows, whims = session.batch_size or 1, self.whims
        for _ in range(self.rounds):
            await self._looks(session, histories)
            if self.random.random() < sequences:
                run = draw_run(self.alone, self.random, rows, LONGEST_RUN, poisoned)
                await self._runs(session, histories, whims, run)
            else:
                await self._steps(session, histories, whims, draw_run(self.alone, self.random, rows, 1, poisoned))
        await self._steps(
            session, histories, Whims(self.random, False), draw_run(self.alone, self.random, rows, 1, poisoned)
        )
        histories.are_at((await session.refresh()).step_count, await session.state())

    async def _looks(self, session: aio.Session, histories: Histories) -> None:
        """Reads the session now and then. What was given up just before may happen after that."""
        match self.random.integers(0, 10):
            case 0:
                histories.may_be_at((await session.refresh()).step_count)
            case 1:
                state = await session.state()
                histories.may_be_at(session.step_count, state)

    async def _steps(self, session: aio.Session, histories: Histories, whims: Whims, drawn: Run) -> None:
        run = one_step(drawn.inputs[:, 0])
        inputs = drawn.inputs[:, 0] if session.batch_size else drawn.inputs[0, 0]
        outputs = await whims.wait(lambda timeout_s: session.step(inputs, timeout_s=timeout_s))
        if outputs is None:
            histories.lost(run)
        else:
            histories.answered(run, outputs.reshape(len(run.inputs), 1, -1), session.step_count)

    async def _runs(self, session: aio.Session, histories: Histories, whims: Whims, run: Run) -> None:
        sequence, lengths = (run.inputs, run.lengths) if session.batch_size else (run.inputs[0], run.lengths[0])
        outputs = await whims.wait(lambda timeout_s: session.run(sequence, lengths, timeout_s=timeout_s))
        if outputs is None:
            histories.lost(run)
        else:
            histories.answered(run, outputs.reshape(*run.inputs.shape[:2], -1), session.step_count)

    async def calls_without_a_session(self) -> None:
        """Sends whole sequences, and single steps with a state of its own; what is given up is as if it never was."""
        whims = self.whims
        everyone = np.arange(BATCH)
        for _ in range(self.rounds):
            run = draw_run(self.alone, self.random, BATCH, LONGEST_RUN, NOBODY)
            found = await whims.wait(
                lambda timeout_s, run=run: rnn.dynamic_rnn(  # type: ignore[misc]
                    self.cell, run.inputs, run.lengths, dtype=self.alone.dtype, timeout_s=timeout_s
                )
            )
            if found is None:
                continue
            outputs, state = found
            wanted, leaves = self.alone.after(self.alone.zeros(BATCH), run)
            assert self.alone.are_close([outputs], [wanted], everyone)
            assert self.alone.are_close(flatten(self.alone.state_size, state), leaves, everyone)
            step = one_step(self.alone.inputs(self.random, BATCH))
            output, after = await self.cell.call(step.inputs[:, 0], state)
            wanted, leaves = self.alone.after(leaves, step)
            assert self.alone.are_close([output], [wanted[:, 0]], everyone)
            assert self.alone.are_close(flatten(self.alone.state_size, after), leaves, everyone)

    async def steps_a_group(self, guest: Caller) -> None:
        """Steps a group whose members come and go; one of them gets NaN and the like.

        Args:
            guest: who steps members by themselves that have left for a while.
        """
        async with self.cell.session_group(MEMBERS) as group:
            members = {index: Histories(self.alone, 1, NOBODY if index == 0 else None) for index in range(MEMBERS)}
            whims = self.whims
            for number in range(self.rounds):
                await self._steps_members(group, members, whims)
                if number % 3 == 1:
                    await self._lets_some_go(group, members)
                if number % 4 == 2:
                    await self._lends_one(group, members, guest)
            await self._steps_members(group, members, Whims(self.random, gives_up=False), everyone=True)
            assert len(group) == len(members) == MEMBERS

    async def _steps_members(
        self, group: aio.SessionGroup, members: dict[int, Histories], whims: Whims, everyone: bool = False
    ) -> None:
        chosen = self.random.permutation(group.members)
        chosen = chosen[: len(chosen) if everyone else self.random.integers(1, len(chosen) + 1)]
        inputs = self.alone.inputs(self.random, len(chosen))
        inputs[chosen == 0] = self.alone.poison(self.random, int(np.count_nonzero(chosen == 0)))

        async def step(timeout_s: float | None) -> tuple[Array, Array] | None:
            try:
                return await group.step(inputs, members=chosen, timeout_s=timeout_s), np.ones(len(chosen), bool)
            except GroupStepError as error:
                if timeout_s is None:
                    raise
                return error.outputs, error.applied

        found = await whims.wait(step)
        outputs, applied = (inputs, np.zeros(len(chosen), bool)) if found is None else found
        counts = dict(zip(group.members.tolist(), group.step_counts.tolist(), strict=True))
        for position, index in enumerate(chosen.tolist()):
            run = one_step(inputs[position : position + 1])
            if applied[position]:
                members[index].answered(run, outputs[position].reshape(1, 1, -1), counts[index])
            else:
                members[index].lost(run)

    async def _lets_some_go(self, group: aio.SessionGroup, members: dict[int, Histories]) -> None:
        """Some members leave for good, and as many new ones come, who get their indices."""
        leaving = self.random.permutation(group.members[group.members > 0])[:2]
        await group.remove(leaving)
        for index in leaving.tolist():
            del members[index]
        for index in (await group.add(len(leaving))).tolist():
            members[index] = Histories(self.alone, 1)

    async def _lends_one(self, group: aio.SessionGroup, members: dict[int, Histories], guest: Caller) -> None:
        """A member leaves, is stepped by itself on another connection, and comes back."""
        index = int(self.random.choice(group.members[group.members > 0]))
        histories, id_ = members.pop(index), group.ids[group.members.tolist().index(index)]
        await group.remove([index], delete=False)
        session = await guest.connection.open_session(id_)
        await guest.goes_on(session, histories)
        (back,) = (await group.add(ids=[session.detach()])).tolist()
        members[back] = histories


@dataclass(frozen=True)
class ThreadCaller:
    """A caller of the blocking client, in a thread of its own.

    Attributes:
        alone, random, gives_up, rounds: as of ``Caller``.
        connection: that all threads share.
    """

    alone: Alone
    connection: Server
    random: np.random.Generator
    gives_up: bool
    rounds: int

    def uses_a_session(self) -> None:
        """Steps a session, and runs a sequence now and then."""
        alone, histories, whims = self.alone, Histories(self.alone, 1), Whims(self.random, self.gives_up)
        cell = self.connection.cell(
            alone.cell, alone.seed, dtype=alone.dtype, input_size=None if alone.takes_ids else alone.input_size
        )
        if alone.takes_ids:
            cell.build()
        with cell.session() as session:
            for _ in range(self.rounds):
                longest = LONGEST_RUN if self.random.random() < SEQUENCES else 1
                run = draw_run(alone, self.random, 1, longest, NOBODY)
                timeout_s = whims.timeout_s()
                try:
                    if longest == 1:
                        outputs = session.step(run.inputs[0, 0], timeout_s=timeout_s)
                    else:
                        outputs = session.run(run.inputs[0], timeout_s=timeout_s)
                except (DeadlineExceededError, QueueFullError):
                    assert timeout_s is not None, "only who is in a hurry gives up"
                    histories.lost(run)
                else:
                    histories.answered(run, outputs.reshape(1, run.steps, -1), session.step_count)
            run = draw_run(alone, self.random, 1, 1, NOBODY)
            histories.answered(run, session.step(run.inputs[0, 0]).reshape(1, 1, -1), session.step_count)
            histories.are_at(session.refresh().step_count, session.state())
