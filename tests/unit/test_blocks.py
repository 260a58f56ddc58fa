"""Blocks: the single steps of many sessions that came in one message, carried through the engine in columns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from cellserve.errors import (
    CellServeError,
    DeadlineExceededError,
    DrainingError,
    FieldInvalidError,
    InternalError,
    RunCancelledError,
    SessionNotFoundError,
    StepOutOfOrderError,
)
from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from cellserve_server.cells import Network
from cellserve_server.edge.step_submission import StepSubmission
from cellserve_server.edge.stream_answers import PendingSteps
from cellserve_server.edge.stream_groups import Group
from cellserve_server.engine import step_ticks
from cellserve_server.keys import Client
from cellserve_server.security import DEFAULT_TENANT
from tests.unit.engine_bench import DEPTH, UNITS, Bench, drive, fail_on, submit_all, until

MIB = 1 << 20


class Stream:
    """A stream's way into the engine, without the stream."""

    def __init__(self, bench: Bench, names: Sequence[str], batch_size: int = 0, client: str = "client") -> None:
        self.bench = bench
        self.sessions = [bench.session(name, batch_size) for name in names]
        rows = max(batch_size, 1)
        seats = bench.engine.lanes[bench.model].seats(rows)
        self.group = Group(bench.model, bench.model.resource_name, batch_size, seats, 1000)
        for handle, session in enumerate(self.sessions):
            self.group.handles.open(handle, session)
        self._submission = StepSubmission(bench.operations, Client(DEFAULT_TENANT, client))

    def inputs(self, count: int, seed: int = 0) -> Array:
        shape = (count, self.group.rows, DEPTH)
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    def steps(self, handles: Sequence[int], inputs: Array | None = None, **columns: Any) -> Answers:
        values = self.inputs(len(handles)) if inputs is None else inputs
        request = stream_pb2.Steps(seq=1, group=0, handles=handles, inputs=[values.tobytes()], **columns)
        answers = Answers(len(handles), self.group.rows)
        answers.pending = PendingSteps(
            1,
            0,
            self.group.columns,
            len(handles),
            on_ready=answers.collect,
            on_error=answers.noted.append,
        )
        split = self.group.columns.split(request.inputs, len(handles))
        self._submission.submit(self.group, request, split, answers.pending)
        return answers

    async def step(self, handles: Sequence[int], inputs: Array | None = None, **columns: Any) -> Answers:
        answers = self.steps(handles, inputs, **columns)
        await until(lambda: answers.complete)
        return answers


class Answers:
    """What has been answered to a Steps."""

    pending: PendingSteps

    def __init__(self, count: int, rows: int) -> None:
        self.count = count
        self.rows = rows
        self.step_counts: dict[int, int] = {}
        self.outputs: dict[int, Array] = {}
        self.replayed: set[int] = set()
        self.noted: list[CellServeError] = []
        self.parts = 0
        self.errors: dict[int, str] = {}

    def collect(self, pending: PendingSteps) -> None:
        # What a stream's writer does later.
        asyncio.get_running_loop().call_soon(self._take, pending)

    def _take(self, pending: PendingSteps) -> None:
        while pending.ready:
            stepped = pending.take(MIB)[0].stepped
            self.parts += 1
            everything = not stepped.positions and not stepped.errors
            positions = range(self.count) if everything else stepped.positions
            shape = (len(stepped.step_counts), self.rows, UNITS)
            columns = np.frombuffer(b"".join(stepped.outputs), np.float32).reshape(shape)
            for position, step_count, output in zip(positions, stepped.step_counts, columns, strict=True):
                assert position not in self.step_counts, "answered twice"
                self.step_counts[position] = step_count
                self.outputs[position] = output
            self.replayed.update(stepped.replayed)
            for error in stepped.errors:
                assert error.position not in self.errors, "answered twice"
                self.errors[error.position] = error.status.message

    @property
    def complete(self) -> bool:
        assert not set(self.step_counts) & set(self.errors), "answered twice"
        return len(self.step_counts) + len(self.errors) == self.count


def names(count: int) -> list[str]:
    return [f"s{number}" for number in range(count)]


def expected(bench: Bench, steps: Sequence[Array]) -> Array:
    """Where a session is after some steps from zeros, computed by the network alone: the RNN's output is its state."""
    leaves = [np.zeros((len(steps[0]), UNITS), np.float32)]
    for inputs in steps:
        _, leaves = bench.model.network.step([inputs], leaves)
    return leaves[0]


def test_a_message_is_one_tick_and_one_answer() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(50))
        inputs = stream.inputs(50)
        answers = await stream.step(range(50), inputs)
        assert answers.parts == 1
        assert answers.step_counts == dict.fromkeys(range(50), 1)
        assert bench.metric("cellserve_ticks_total", model="defined") == 1
        assert bench.metric("cellserve_steps_total", model="defined") == 50
        assert bench.metric("cellserve_runs_total", model="defined", outcome="ok") == 50
        for position in range(50):
            np.testing.assert_allclose(answers.outputs[position], expected(bench, [inputs[position]]), atol=1e-6)
            np.testing.assert_array_equal(bench.state(stream.sessions[position])[0], answers.outputs[position])
        assert bench.engine.queue.runs == bench.engine.queue.size_bytes == 0

    drive(test)


@pytest.mark.parametrize("batch_size", [0, 3])
def test_blocks_and_single_steps_share_ticks(batch_size: int) -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(5), batch_size)
        others = [bench.session(f"other {number}", batch_size) for number in range(3)]
        rows = max(batch_size, 1)
        runs = [bench.run(session, rows=rows, seed=number) for number, session in enumerate(others)]
        done = submit_all(bench, runs)
        inputs = stream.inputs(5)
        answers = await stream.step(range(5), inputs)
        await until(lambda: len(done) == 3)
        assert bench.metric("cellserve_ticks_total", model="defined") == 1
        for position in range(5):
            np.testing.assert_allclose(answers.outputs[position], expected(bench, [inputs[position]]), atol=1e-6)
        for run in runs:
            assert run.result is not None
            np.testing.assert_allclose(run.result.outputs[0][:, 0], expected(bench, [run.inputs[0][:, 0]]), atol=1e-6)

    drive(test)


def test_a_session_that_comes_twice_is_stepped_twice_in_order() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(2))
        inputs = stream.inputs(4)
        answers = await stream.step([0, 1, 0, 0], inputs)
        assert answers.step_counts == {0: 1, 1: 1, 2: 2, 3: 3}
        steps = [inputs[0], inputs[2], inputs[3]]
        np.testing.assert_allclose(answers.outputs[3], expected(bench, steps), atol=1e-6)

    drive(test)


def test_later_messages_wait_for_earlier_ones_session_by_session() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(6))
        inputs = [stream.inputs(6, seed) for seed in range(4)]
        pending = [stream.steps(range(6), inputs[number], expected_steps=[number] * 6) for number in range(4)]
        await until(lambda: all(answers.complete for answers in pending))
        for number, answers in enumerate(pending):
            assert answers.step_counts == dict.fromkeys(range(6), number + 1)
        for position in range(6):
            steps = [values[position] for values in inputs]
            np.testing.assert_allclose(pending[-1].outputs[position], expected(bench, steps), atol=1e-6)

    drive(test)


def test_a_large_message_takes_several_ticks() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(10))
        answers = await stream.step(range(10))
        assert len(answers.step_counts) == 10
        assert bench.metric("cellserve_ticks_total", model="defined") == 3

    drive(test, max_tick_rows=4)


def test_a_repeat_is_answered_again_and_a_conflict_refused() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(4))
        inputs = stream.inputs(4)
        columns = {"expected_steps": [0] * 4, "run_ids": [11, 12, 13, (1 << 64) - 1]}
        first = await stream.step(range(4), inputs, **columns)
        states = [bench.state(session)[0] for session in stream.sessions]
        changed = inputs.copy()
        changed[1, 0, 1] += 1
        again = await stream.step(range(4), changed, **columns)
        assert set(again.errors) == {1}
        assert "run_id" in again.errors[1]
        assert again.replayed == {0, 2, 3}
        assert set(again.step_counts.values()) == {1}
        for position in (0, 2, 3):
            np.testing.assert_allclose(again.outputs[position], first.outputs[position], atol=1e-6)
        for session, state in zip(stream.sessions, states, strict=True):
            np.testing.assert_array_equal(bench.state(session)[0], state)
        assert bench.metric("cellserve_steps_total", model="defined") == 4
        assert bench.metric("cellserve_replays_total", model="defined") == 3

    drive(test)


def test_a_step_of_a_message_can_be_repeated_by_another_way() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(2))
        inputs = stream.inputs(2)
        await stream.step(range(2), inputs, run_ids=[5, 6])
        run = bench.run(stream.sessions[1], run_id=6, expected_step=0)
        run.inputs[0][:] = inputs[1][:, np.newaxis]
        repeated = await bench.engine.execute(type(run)(bench.model, run.inputs, rows=1, session=run.session, run_id=6))
        assert repeated.replayed

    drive(test)


def test_a_session_under_two_handles_is_stepped_twice_in_order() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(3))
        stream.group.handles.open(70, stream.sessions[0])
        inputs = stream.inputs(3)
        answers = await stream.step([0, 70, 1], inputs)
        assert answers.step_counts == {0: 1, 1: 2, 2: 1}
        np.testing.assert_allclose(answers.outputs[1], expected(bench, [inputs[0], inputs[1]]), atol=1e-6)

    drive(test)


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("how", ["cancelled", "late", "ended"])
def test_steps_under_way_do_not_need_their_handles(how: str, reopened: bool) -> None:
    """A client may close a handle, and give its number to another session, while a step of it is under way."""

    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(3))
        answers = stream.steps([0, 1], timeouts_ms=[1000, 1000])
        first = stream.group.handles.close(0).session
        if reopened:
            stream.group.handles.open(0, stream.sessions[2])
        if how == "cancelled":
            answers.pending.cancel([0])
        elif how == "late":
            bench.clock.advance(2)
        else:
            bench.operations.sessions.end(first, "unloaded")
        await until(lambda: answers.complete)
        assert 0 in answers.errors
        assert not any(session.busy for session in stream.sessions)
        if how != "ended":
            run = bench.run(first)
            await bench.engine.execute(run)
            assert first.step_count == 1
        assert stream.sessions[2].step_count == 0

    drive(test)


@pytest.mark.parametrize("where", ["gather", "commit"])
def test_no_memory_for_a_tick_is_no_end_of_the_engine(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(3))
        whole = getattr(step_ticks, where)
        fails = iter([True, False, True, False])

        def short_of_memory(*arguments: Any) -> Any:
            if next(fails):
                raise MemoryError
            return whole(*arguments)

        monkeypatch.setattr(step_ticks, where, short_of_memory)
        answers = await stream.step(range(3))
        # The tick failed, then each step was tried alone: the second met it again.
        assert set(answers.errors) == {1}
        assert [session.step_count for session in stream.sessions] == [1, 0, 1]
        assert bench.engine.queue.runs == bench.engine.queue.size_bytes == 0
        assert not any(session.busy for session in stream.sessions)

    drive(test)


def test_errors_reach_their_positions_alone() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(6))
        bench.operations.sessions.end(stream.sessions[1], "deleted")
        bench.session("taker of the seat")
        await bench.operations.reset(stream.sessions[2].key)
        handles = [0, 1, 2, 3, 77, 5]
        answers = await stream.step(handles, expected_steps=[0, -1, -1, 9, -1, -5])
        assert set(answers.step_counts) == {0}
        assert "deleted" in answers.errors[1]
        assert "reset" in answers.errors[2]
        assert "applied 0 steps; the run expected 9" in answers.errors[3]
        assert "77" in answers.errors[4]
        assert "expected -1" in answers.errors[5]
        kinds = {type(error) for error in answers.noted}
        assert kinds == {SessionNotFoundError, StepOutOfOrderError, FieldInvalidError}

    drive(test)


def test_cancelled_steps_leave_no_trace_and_no_neighbour_behind() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(8))
        answers = stream.steps(range(8))
        answers.pending.cancel([1, 3, 99])
        await until(lambda: answers.complete)
        assert set(answers.errors) == {1, 3}
        assert {type(error) for error in answers.noted} == {RunCancelledError}
        assert [session.step_count for session in stream.sessions] == [1, 0, 1, 0, 1, 1, 1, 1]
        assert not any(session.busy for session in stream.sessions)
        again = await stream.step(range(8))
        assert again.step_counts == {0: 2, 1: 1, 2: 2, 3: 1, 4: 2, 5: 2, 6: 2, 7: 2}
        assert bench.metric("cellserve_runs_total", model="defined", outcome="cancelled") == 2
        everything = stream.steps(range(8))
        everything.pending.cancel(None)
        await until(lambda: everything.complete)
        assert len(everything.errors) == 8
        assert bench.engine.queue.runs == bench.engine.queue.size_bytes == 0

    drive(test)


def test_deadlines_are_each_steps_own() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(4))
        answers = stream.steps(range(4), timeouts_ms=[1000, 0, 3000, 2000])
        bench.clock.advance(2)
        await until(lambda: answers.complete)
        assert set(answers.errors) == {0, 3}
        assert {type(error) for error in answers.noted} == {DeadlineExceededError}
        assert [session.step_count for session in stream.sessions] == [0, 1, 1, 0]

    drive(test)


def test_what_waits_behind_a_block_has_its_turn() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(3))
        answers = stream.steps(range(3))
        run = bench.run(stream.sessions[1], steps=3)
        done = submit_all(bench, [run])
        read = asyncio.create_task(bench.operations.read(stream.sessions[0].key, with_state=True))
        deleted = asyncio.create_task(bench.operations.delete(stream.sessions[2].key))
        await until(lambda: answers.complete and bool(done))
        assert answers.step_counts == dict.fromkeys(range(3), 1)
        assert stream.sessions[1].step_count == 4
        assert (await read).step_count == 1
        await deleted
        assert stream.sessions[2].ended == "deleted"

    drive(test)


def test_sessions_that_end_while_a_block_waits_are_told_and_no_seat_is_mixed_up() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(4))
        answers = stream.steps(range(4))
        bench.operations.sessions.end(stream.sessions[1], "unloaded")
        behind = bench.run(stream.sessions[1])
        done = submit_all(bench, [behind])
        thief = bench.session("takes the seat")
        assert thief.seat == stream.sessions[1].seat
        await until(lambda: answers.complete and bool(done))
        assert set(answers.errors) == {1}
        assert "unloaded" in answers.errors[1]
        assert isinstance(behind.error, SessionNotFoundError)
        assert thief.step_count == 0
        assert not thief.busy
        np.testing.assert_array_equal(bench.state(thief)[0], 0)

    drive(test)


class Held:
    """A network whose steps wait for a test, in the compute thread."""

    def __init__(self, network: Network) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self._network = network

    def step(self, inputs: Sequence[Array], leaves: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        self.entered.set()
        assert self.leave.wait(30)
        return self._network.step(inputs, leaves)


def test_sessions_that_end_while_a_block_computes_are_not_written_to() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(4))
        held = Held(bench.model.network)
        bench.model.network = cast(Network, held)
        run = bench.run(bench.session("single"))
        inputs = stream.inputs(4)
        done = submit_all(bench, [run])
        answers = stream.steps(range(4), inputs)
        await asyncio.to_thread(held.entered.wait, 30)
        ended = stream.sessions[2]
        bench.operations.sessions.end(ended, "unloaded")
        assert run.session is not None
        bench.operations.sessions.end(run.session, "unloaded")
        thieves = [bench.session("first thief"), bench.session("second thief")]
        assert {thief.seat for thief in thieves} == {ended.seat, run.session.seat}
        held.leave.set()
        await until(lambda: answers.complete and bool(done))
        assert set(answers.errors) == {2}
        assert isinstance(run.error, SessionNotFoundError)
        for thief in thieves:
            assert thief.step_count == 0
            np.testing.assert_array_equal(bench.state(thief)[0], 0)
        for position in (0, 1, 3):
            np.testing.assert_allclose(answers.outputs[position], expected(bench, [inputs[position]]), atol=1e-6)
        assert bench.engine.queue.runs == bench.engine.queue.size_bytes == 0

    drive(test)


def test_a_failing_row_fails_alone_in_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        fail_on(666, bench, monkeypatch)
        stream = Stream(bench, names(5))
        inputs = stream.inputs(5)
        inputs[3] = 666
        answers = await stream.step(range(5), inputs)
        assert set(answers.errors) == {3}
        assert isinstance(answers.noted[0], InternalError)
        assert "a bug" not in answers.errors[3]
        assert [session.step_count for session in stream.sessions] == [1, 1, 1, 0, 1]
        inputs[3] = 1
        assert (await stream.step(range(5), inputs)).step_counts == {0: 2, 1: 2, 2: 2, 3: 1, 4: 2}

    drive(test)


def test_nothing_crosses_rows() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(6))
        inputs = stream.inputs(6)
        clean = await stream.step(range(6), inputs)
        for session in stream.sessions:
            await bench.operations.reset(session.key)
            stream.group.handles.open(stream.sessions.index(session), session)
        poisoned = inputs.copy()
        poisoned[2], poisoned[4, 0, 0] = np.nan, np.inf
        answers = await stream.step(range(6), poisoned)
        for position in (0, 1, 3, 5):
            np.testing.assert_array_equal(answers.outputs[position], clean.outputs[position])
        assert np.isnan(answers.outputs[2]).all()

    drive(test)


def test_draining_refuses_a_block_and_gives_up_one_that_waits() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(3))
        waiting = stream.steps(range(3))
        await bench.engine.drain(0.0)
        late = stream.steps(range(3))
        await until(lambda: waiting.complete and late.complete)
        assert {type(error) for error in (*waiting.noted, *late.noted)} <= {DrainingError}
        assert len(late.errors) == 3
        counts = [session.step_count for session in stream.sessions]
        assert counts == [waiting.step_counts.get(position, 0) for position in range(3)]

    drive(test)


def test_a_greedy_client_holds_no_other_up() -> None:
    async def test(bench: Bench) -> None:
        greedy = Stream(bench, [f"greedy {number}" for number in range(200)], client="greedy")
        modest = Stream(bench, names(2), client="modest")
        backlog = greedy.steps(range(200))
        answers = await modest.step(range(2))
        assert answers.complete
        # In the first tick; the loop may have begun another before the answer is looked at. Alone it takes 25.
        assert bench.metric("cellserve_ticks_total", model="defined") <= 2
        await until(lambda: backlog.complete)
        assert len(backlog.step_counts) == 200

    drive(test, max_tick_rows=8)
