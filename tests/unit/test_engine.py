"""The engine in process: order, all or nothing, repeats, cancellation, deadlines, limits, isolation."""

from __future__ import annotations

import asyncio
import itertools
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cellserve.cells import BasicRNNCell
from cellserve.errors import (
    DeadlineExceededError,
    DrainingError,
    InternalError,
    QueueFullError,
    RunCancelledError,
    SessionNotFoundError,
    StepOutOfOrderError,
)
from cellserve.specs import ArraySpec, Bidirectional, ModelDescription
from cellserve_server.cells import Network
from cellserve_server.engine import tick_loop
from cellserve_server.engine.runs import OutputMode, Run
from cellserve_server.keys import Client
from cellserve_server.models.repository import draft_model
from cellserve_server.sessions.session import SessionSnapshot
from tests.unit.engine_bench import DEPTH, UNITS, Bench, drive, fail_on, submit_all, until


def test_runs_of_a_session_apply_in_the_order_in_which_they_arrive() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        runs = [bench.run(session, steps=1 + i % 3, seed=i) for i in range(9)]
        done = submit_all(bench, runs)
        await until(lambda: len(done) == 9)
        assert done == runs
        whole = np.concatenate([run.inputs[0] for run in runs], axis=1)
        alone = await bench.engine.execute(Run(bench.model, [whole], rows=1, return_state=True))
        assert alone.leaves is not None
        np.testing.assert_allclose(bench.state(session)[0], alone.leaves[0], atol=1e-6)
        assert session.step_count == whole.shape[1]

    drive(test)


def test_ready_runs_of_all_lengths_share_ticks() -> None:
    async def test(bench: Bench) -> None:
        sessions = [bench.session(f"s{i}") for i in range(8)]
        done = submit_all(bench, [bench.run(session, steps=1 + i) for i, session in enumerate(sessions)])
        await until(lambda: len(done) == 8)
        assert bench.metric("cellserve_ticks_total", model="defined") == 1 + 8  # the single step, the longest run
        assert bench.metric("cellserve_steps_total", model="defined") == sum(range(1, 9))
        assert [len(run.inputs[0][0]) for run in done] == list(range(1, 9))  # short ones do not wait for long ones

    drive(test, max_chunk_steps=1)


def test_longer_runs_go_on_by_several_steps_in_a_tick() -> None:
    async def test(bench: Bench) -> None:
        sessions = [bench.session(f"s{i}") for i in range(8)]
        runs = [bench.run(session, steps=40 + i, seed=i) for i, session in enumerate(sessions)]
        done = submit_all(bench, runs)
        await until(lambda: len(done) == 8)
        assert bench.metric("cellserve_ticks_total", model="defined") == 7  # 1, as nothing is known yet, 5 x 9, and 1
        for run, session in zip(runs, sessions, strict=True):
            (expected,), leaves = bench.model.network.run(
                run.inputs, np.array([run.steps]), [np.zeros((1, UNITS), np.float32)]
            )
            np.testing.assert_allclose(run.outputs[0], expected, atol=1e-6)
            np.testing.assert_allclose(bench.state(session)[0], leaves[0], atol=1e-6)

    drive(test, max_chunk_steps=8, max_chunk_us=10**9)


def test_a_cancelled_run_leaves_no_trace() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        await bench.engine.execute(bench.run(session))
        before = bench.state(session)
        run = bench.run(session, steps=500)
        done = submit_all(bench, [run])
        await until(lambda: run.position > 10)
        run.cancel()
        await until(lambda: bool(done))
        assert isinstance(run.error, RunCancelledError)
        np.testing.assert_array_equal(bench.state(session)[0], before[0])
        assert session.step_count == 1
        assert bench.engine.lanes[bench.model].rows_in_use == 2  # the state and the copy from before

    drive(test)


def test_a_caller_who_stops_waiting_cancels_his_run() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        run = bench.run(session, steps=1000)
        task = asyncio.create_task(bench.engine.execute(run))
        await until(lambda: run.position > 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: session.active is None)
        assert session.step_count == 0

    drive(test)


def test_a_run_whose_deadline_passes_between_ticks_leaves_no_trace() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        run = bench.run(session, steps=1000, deadline=bench.clock() + 5)
        done = submit_all(bench, [run])
        await until(lambda: run.position > 10)
        bench.clock.advance(6)
        await until(lambda: bool(done))
        assert isinstance(run.error, DeadlineExceededError)
        assert session.step_count == 0
        assert bench.metric("cellserve_runs_total", model="defined", outcome="deadline") == 1

    drive(test)


def test_a_repeat_gets_the_same_answer_and_moves_nothing() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        await bench.engine.execute(bench.run(session, seed=1))
        first = await bench.engine.execute(bench.run(session, steps=4, seed=2, run_id=7, expected_step=1))
        state = bench.state(session)
        again = await bench.engine.execute(
            bench.run(session, steps=4, seed=2, run_id=7, expected_step=1, return_state=True)
        )
        assert again.replayed
        assert not first.replayed
        np.testing.assert_allclose(again.outputs[0], first.outputs[0], atol=1e-6)
        assert again.leaves is not None
        np.testing.assert_allclose(again.leaves[0], state[0], atol=1e-6)
        np.testing.assert_array_equal(bench.state(session)[0], state[0])
        assert session.step_count == again.step_count == 5
        assert bench.metric("cellserve_replays_total", model="defined") == 1
        assert bench.metric("cellserve_steps_total", model="defined") == 5

    drive(test)


@pytest.mark.parametrize(
    "changed",
    [{"run_id": 8}, {"seed": 3}, {"steps": 3}, {"expected_step": 0}, {"run_id": 0}],
    ids=["another caller", "other inputs", "another length", "another step", "no run_id"],
)
def test_anything_but_the_repeat_is_a_conflict(changed: dict[str, int]) -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        await bench.engine.execute(bench.run(session, seed=1))
        options = {"steps": 4, "seed": 2, "run_id": 7, "expected_step": 1}
        await bench.engine.execute(bench.run(session, **options))
        state = bench.state(session)
        with pytest.raises(StepOutOfOrderError) as caught:
            await bench.engine.execute(bench.run(session, **{**options, **changed}))
        assert caught.value.metadata["step_count"] == "5"
        assert caught.value.metadata["expected_step"] == str({**options, **changed}["expected_step"])
        np.testing.assert_array_equal(bench.state(session)[0], state[0])

    drive(test)


def test_the_repeat_can_still_be_answered_after_a_later_run_failed() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        first = await bench.engine.execute(bench.run(session, seed=2, run_id=7, expected_step=0))
        late = bench.run(session, steps=500, seed=3, run_id=8, expected_step=1)
        done = submit_all(bench, [late])
        await until(lambda: late.position > 3)
        late.cancel()
        await until(lambda: bool(done))
        again = await bench.engine.execute(bench.run(session, seed=2, run_id=7, expected_step=0))
        assert again.replayed
        np.testing.assert_allclose(again.outputs[0], first.outputs[0], atol=1e-6)

    drive(test)


def test_rows_past_their_length_are_carried() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session(batch_size=3)
        await bench.engine.execute(bench.run(session, rows=3, seed=1))
        before = bench.state(session)[0]
        lengths = np.array([0, 2, 1])
        run = bench.run(session, steps=4, rows=3, seed=2, lengths=lengths)
        run.inputs[0][0] = np.nan  # The padding of a row that is not stepped.
        result = await bench.engine.execute(run)
        after = bench.state(session)[0]
        np.testing.assert_array_equal(after[0], before[0])
        for row, length in enumerate(lengths):
            assert np.all(result.outputs[0][row, length:] == 0)
            if length:
                np.testing.assert_array_equal(after[row], result.outputs[0][row, length - 1])
        assert result.steps_applied == 2
        assert session.step_count == 3  # a step counts once, whatever the rows' lengths

    drive(test)


def test_a_run_of_no_steps_changes_nothing() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        await bench.engine.execute(bench.run(session, run_id=5, expected_step=0))
        state = bench.state(session)
        result = await bench.engine.execute(bench.run(session, steps=0, run_id=6, expected_step=1, return_state=True))
        assert result.outputs[0].shape == (1, 0, UNITS)
        assert result.step_count == 1
        np.testing.assert_array_equal(bench.state(session)[0], state[0])
        assert (await bench.engine.execute(bench.run(session, run_id=5, expected_step=0))).replayed

    drive(test)


def test_operations_wait_their_turn() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        run = bench.run(session, steps=50)
        behind = bench.run(session)
        done = submit_all(bench, [run])
        read = asyncio.create_task(bench.operations.read(session.key, with_state=True))
        await asyncio.sleep(0)
        reset = asyncio.create_task(bench.operations.reset(session.key, session.uid))
        await asyncio.sleep(0)
        behind.uid = session.uid  # The old life, which the reset ends before this run's turn comes.
        done_behind = submit_all(bench, [behind])
        again = asyncio.create_task(bench.operations.reset(session.key))
        seen, first, second = await asyncio.gather(read, reset, again)
        assert done == [run]
        assert run.result is not None
        # Each saw the session as it was in its own turn, though all turns came in one pass.
        assert seen.leaves is not None
        np.testing.assert_array_equal(seen.leaves[0], run.result.outputs[0][:, -1])
        assert (seen.step_count, first.step_count, second.step_count) == (50, 0, 0)
        assert len({seen.uid, first.uid, second.uid}) == 3
        await until(lambda: bool(done_behind))
        assert isinstance(behind.error, SessionNotFoundError)
        assert session.step_count == 0
        assert np.all(bench.state(session)[0] == 0)

    drive(test)


def test_too_many_operations_in_line_are_refused() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        done = submit_all(bench, [bench.run(session, steps=50)])
        reads = [asyncio.create_task(bench.operations.read(session.key, with_state=True)) for _ in range(9)]
        answers = await asyncio.gather(*reads, return_exceptions=True)
        assert [type(answer) for answer in answers[:4]] == [SessionSnapshot] * 4
        assert {type(answer) for answer in answers[4:]} == {QueueFullError}
        await until(lambda: bool(done))
        assert (await bench.operations.read(session.key, with_state=False)).step_count == 50

    drive(test, max_queued_runs=4)


def test_a_whole_sequence_does_not_hold_ticks_up() -> None:
    """A bidirectional model computes in its own thread, while sessions of other models step."""

    async def test(bench: Bench) -> None:
        both = Bidirectional(BasicRNNCell(UNITS), BasicRNNCell(UNITS))
        inputs, outputs = ArraySpec("inputs", np.dtype("f4"), (DEPTH,)), ArraySpec("out", np.dtype("f4"), (2 * UNITS,))
        description = ModelDescription((inputs,), (both,), (outputs,), np.dtype("f4"))
        whole = bench.models.adopt("default", draft_model(description, seed=2), None)
        entered, leave = threading.Event(), threading.Event()
        network = whole.network

        class Held:
            def run(self, *arguments: Any) -> Any:
                entered.set()
                assert leave.wait(30)
                return network.run(*arguments)

        whole.network = cast(Network, Held())
        values = np.random.default_rng(0).standard_normal((2, 5, DEPTH)).astype(np.float32)
        run = Run(whole, [values], rows=2, lengths=np.array([5, 3]), outputs=OutputMode.LAST, return_state=True)
        done = submit_all(bench, [run])
        await asyncio.to_thread(entered.wait, 30)
        session = bench.session()
        await bench.engine.execute(bench.run(session, steps=20))
        assert not done
        leave.set()
        await bench.engine.drain(30)
        assert done == [run]
        assert run.error is None
        assert run.result is not None
        zeros = [np.zeros((2, UNITS), np.float32)] * 2
        (expected,), leaves = network.run([values], np.array([5, 3]), zeros)
        np.testing.assert_allclose(run.result.outputs[0][:, 0], expected[[0, 1], [4, 2]], atol=1e-6)
        assert run.result.leaves is not None
        np.testing.assert_allclose(run.result.leaves[1], leaves[1], atol=1e-6)
        assert bench.engine.queue.runs == 0

    drive(test)


def test_states_that_come_along_count_in_the_queue() -> None:
    async def test(bench: Bench) -> None:
        leaves = [np.zeros((100, UNITS), np.float32)]
        first = bench.run(None, rows=100, steps=1, initial_leaves=leaves)
        assert first.size_bytes == 100 * 4 * (DEPTH + UNITS + UNITS + UNITS)  # inputs, outputs, the state twice

    drive(test)


def test_many_refused_runs_in_line_do_not_nest() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        runs = [bench.run(session, steps=20)] + [bench.run(session, expected_step=99) for _ in range(5000)]
        done = submit_all(bench, runs)
        await until(lambda: len(done) == len(runs))
        assert {type(run.error) for run in done[1:]} == {StepOutOfOrderError}

    drive(test)


def test_a_full_queue_refuses_and_recovers() -> None:
    async def test(bench: Bench) -> None:
        sessions = [bench.session(f"s{i}") for i in range(5)]
        done = submit_all(bench, [bench.run(session) for session in sessions[:4]])
        with pytest.raises(QueueFullError, match="4 of 4 runs") as caught:
            bench.engine.submit(bench.run(sessions[4]))
        assert caught.value.retry_after_s == pytest.approx(0.05)
        await until(lambda: len(done) == 4)
        await bench.engine.execute(bench.run(sessions[4]))
        assert bench.engine.queue.size_bytes == 0

    drive(test, max_queued_runs=4)


def test_bytes_fill_the_queue_too_but_one_run_always_fits() -> None:
    async def test(bench: Bench) -> None:
        first, second = bench.session("a"), bench.session("b")
        done = submit_all(bench, [bench.run(first, steps=200)])
        with pytest.raises(QueueFullError, match="bytes"):
            bench.engine.submit(bench.run(second, steps=200))
        await until(lambda: len(done) == 1)
        assert done[0].error is None

    drive(test, max_queued_bytes=1024)


def test_a_failing_row_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        fail_on(666, bench, monkeypatch)
        sessions = [bench.session(f"s{i}") for i in range(3)]
        runs = [bench.run(session) for session in sessions]
        runs[1].inputs[0][:] = 666
        done = submit_all(bench, runs)
        await until(lambda: len(done) == 3)
        assert isinstance(runs[1].error, InternalError)
        assert "a bug" not in runs[1].error.message
        assert [run.error for run in (runs[0], runs[2])] == [None, None]
        assert [session.step_count for session in sessions] == [1, 0, 1]

    drive(test)


def test_draining_finishes_what_is_under_way_and_refuses_what_is_new() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        done = submit_all(bench, [bench.run(session, steps=50)])
        drain = asyncio.create_task(bench.engine.drain(60.0))
        await asyncio.sleep(0)
        with pytest.raises(DrainingError):
            bench.engine.submit(bench.run(session))
        await drain
        assert done[0].error is None
        assert session.step_count == 50

    drive(test)


def test_draining_gives_up_when_its_time_is_over() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        runs = [bench.run(session, steps=100_000), bench.run(session)]
        done = submit_all(bench, runs)
        await bench.engine.drain(0.0)
        assert [type(run.error) for run in done] == [DrainingError, DrainingError]
        assert session.step_count == 0

    drive(test)


def test_sessionless_runs_start_from_their_state_and_keep_no_row() -> None:
    async def test(bench: Bench) -> None:
        leaves = [np.full((2, UNITS), 0.5, np.float32)]
        run = bench.run(None, rows=2, initial_leaves=leaves, return_state=True, outputs=OutputMode.NONE)
        result = await bench.engine.execute(run)
        outputs, after = bench.model.network.step([run.inputs[0][:, 0]], leaves)
        assert result.outputs == []
        assert result.leaves is not None
        np.testing.assert_allclose(result.leaves[0], after[0], atol=1e-6)
        assert bench.engine.lanes[bench.model].rows_in_use == 0
        assert outputs[0].shape == (2, UNITS)

    drive(test)


def test_expiry_ends_unused_sessions_and_not_busy_ones() -> None:
    async def test(bench: Bench) -> None:
        unused, used = bench.session("unused"), bench.session("used")
        bench.clock.advance(3000)
        await bench.engine.execute(bench.run(used))
        bench.clock.advance(1000)
        bench.operations.sessions.expire_due()
        assert unused.ended == "expired"
        assert not used.ended
        with pytest.raises(SessionNotFoundError, match="expired") as caught:
            bench.operations.sessions.get(unused.key)
        assert caught.value.metadata["cause"] == "expired"
        run = bench.run(used, steps=1000)
        done = submit_all(bench, [run])
        await until(lambda: run.position > 3)
        bench.clock.advance(100_000)
        bench.operations.sessions.expire_due()
        await until(lambda: bool(done))
        assert run.error is None
        assert not used.ended

    drive(test)


def test_sessions_that_expire_together_do_so_in_portions() -> None:
    async def test(bench: Bench) -> None:
        for number in range(25):
            bench.session(f"s{number}")
        bench.clock.advance(4000)
        sessions = bench.operations.sessions
        left = []
        while (due := sessions.expire_due(limit=10)) is not None and due <= bench.clock():
            left.append(len(sessions))
        assert left == [15, 5]
        assert len(sessions) == 0

    drive(test)


def test_ending_a_models_sessions_drops_their_runs_and_rows() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        runs = [bench.run(session, steps=1000), bench.run(session)]
        done = submit_all(bench, runs)
        await until(lambda: runs[0].position > 3)
        bench.residents.end_sessions_of(bench.model)
        await until(lambda: len(done) == 2)
        assert {type(run.error) for run in runs} == {SessionNotFoundError}
        assert all("unloaded" in run.error.message for run in runs if run.error)
        assert bench.engine.lanes[bench.model].rows_in_use == 0
        assert bench.model.session_count == 0

    drive(test)


def test_an_operation_whose_session_ends_while_it_waits_leaves_the_seat_to_the_next_session() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        run = bench.run(session, steps=1000)
        submit_all(bench, [run])
        await until(lambda: run.position > 3)

        async def hold() -> str:
            async with bench.engine.holding(session):
                return session.ended

        waiting = asyncio.create_task(hold())
        await asyncio.sleep(0)  # Until it stands in line.
        bench.residents.sessions.end(session, "deleted")
        other = bench.session("other")
        assert other.base == session.base
        assert await waiting == "deleted"
        assert not other.busy
        await bench.engine.execute(bench.run(other))

    drive(test)


def test_a_whole_sequence_that_nobody_waits_for_is_stopped_between_steps() -> None:
    async def test(bench: Bench) -> None:
        both = Bidirectional(BasicRNNCell(UNITS), BasicRNNCell(UNITS))
        inputs, outputs = ArraySpec("inputs", np.dtype("f4"), (DEPTH,)), ArraySpec("out", np.dtype("f4"), (2 * UNITS,))
        description = ModelDescription((inputs,), (both,), (outputs,), np.dtype("f4"))
        whole = bench.models.adopt("default", draft_model(description, seed=2), None)
        run = Run(whole, [np.zeros((1, 1_000_000, DEPTH), np.float32)], rows=1)  # Minutes, were it not stopped.
        done = submit_all(bench, [run])
        await bench.engine.drain(0.0)
        assert done == [run]
        assert isinstance(run.error, DrainingError)

    drive(test)


def test_no_memory_for_a_run_is_its_error_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        whole = Run.prepare

        def prepare(run: Run) -> None:
            if run.run_id == 7:
                raise MemoryError
            whole(run)

        monkeypatch.setattr(Run, "prepare", prepare)
        with pytest.raises(InternalError):
            await bench.engine.execute(bench.run(session, run_id=7))
        assert not session.busy
        await bench.engine.execute(bench.run(session, run_id=8))
        assert session.step_count == 1
        assert bench.engine.queue.runs == 0

    drive(test)


def test_a_copy_that_takes_the_expired_name_of_its_original_has_its_steps() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        await bench.engine.execute(bench.run(session, steps=3))
        state = bench.state(session)
        fork = bench.engine.in_turn(session, lambda: None)
        await fork
        run = bench.run(session, steps=1000)
        done = submit_all(bench, [run])
        copying = asyncio.create_task(bench.operations.fork(session.key, "", session.key))
        await until(lambda: run.position > 3)
        bench.clock.advance(10_000)
        run.cancel()
        await until(lambda: bool(done))
        copy = await copying
        assert copy.step_count == 3
        assert session.ended == "expired"
        found = bench.operations.sessions.get(session.key)
        np.testing.assert_array_equal(bench.state(found)[0], state[0])

    drive(test)


def test_one_timer_is_enough_for_all_that_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        armed = []
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(delay: float, *arguments: Any) -> Any:
            handle = call_later(delay, *arguments)
            armed.append((delay, handle))
            return handle

        monkeypatch.setattr(loop, "call_later", noted)
        for number in range(2500):
            bench.session(f"s{number}", ttl_s=5 + number % 3)
        bench.clock.advance(100)
        bench.residents.expire_now()
        bench.session("made between")
        await until(lambda: len(bench.operations.sessions) == 1)
        assert min(delay for delay, _ in armed) >= 1
        assert sum(not handle.cancelled() for _, handle in armed) <= 2
        bench.residents.stop()
        assert all(handle.cancelled() or handle.when() <= loop.time() for _, handle in armed)

    drive(test)


def give_much_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has ticks give way for ``QUIET_TURNS`` turns."""
    monkeypatch.setattr(tick_loop, "QUIET_TURN_S", 3600.0)  # Every turn is a quiet one.
    monkeypatch.setattr(tick_loop, "MOST_WAY_S", 1e9)
    monkeypatch.setattr(tick_loop, "WAY_PER_TICK", 1e9)


@pytest.mark.parametrize(("tenants", "turns"), [(1, 1), (2, 1 + tick_loop.QUIET_TURNS)], ids=["alone", "shared"])
def test_while_tenants_share_ticks_give_way_to_what_else_there_is(
    tenants: int, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_much_way(monkeypatch)
    monkeypatch.setattr(tick_loop, "SMALL_ROWS", 0)

    async def test(bench: Bench) -> None:
        clients = [Client(f"tenant-{number % tenants}", "connection") for number in range(4)]
        runs = [bench.run(bench.session(f"s{number}"), client=client) for number, client in enumerate(clients)]
        done = submit_all(bench, runs)
        loop_turns: list[int] = []  # before each tick
        while len(loop_turns) < len(runs):
            before = len(done)
            loop_turns.append(0)
            while len(done) == before:
                await asyncio.sleep(0)
                loop_turns[-1] += 1
        assert loop_turns[1:] == [turns] * 3

    drive(test, max_tick_rows=1, max_shared_tick_rows=1)


def has_more(done: list[Run], count: int) -> bool:
    return len(done) > count


def test_who_brings_little_has_it_done_while_ticks_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    give_much_way(monkeypatch)
    greedy, modest = (Client(tenant, "connection") for tenant in ("greedy", "modest"))

    async def test(bench: Bench) -> None:
        many = [bench.run(bench.session(f"s{number}"), client=greedy) for number in range(3 * tick_loop.SMALL_ROWS)]
        session, before = bench.session("modest"), 0
        done = submit_all(bench, many)
        for round_ in range(4):
            await until(partial(has_more, done, before))
            before = len(done)
            own = submit_all(bench, [bench.run(session, client=modest)])
            await until(partial(bool, own))
            assert len(done) <= before + (not round_), "they share only since then"
            before = len(done)
        await until(lambda: len(done) == len(many))

    drive(test, max_tick_rows=1, max_shared_tick_rows=1)


def test_sequences_of_who_has_little_wait_for_ordinary_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    give_much_way(monkeypatch)
    greedy, modest = (Client(tenant, "connection") for tenant in ("greedy", "modest"))
    steps = 12

    async def test(bench: Bench) -> None:
        long = bench.run(bench.session("long"), steps=steps, client=modest)
        many = [bench.run(bench.session(f"s{number}"), client=greedy) for number in range(2 * steps)]
        own = submit_all(bench, [long])
        done = submit_all(bench, many)
        await until(partial(bool, own))
        assert len(done) >= steps - 1, "a chunk of it for each of their ticks"

    drive(test, max_tick_rows=1, max_shared_tick_rows=1, max_chunk_steps=1)


def test_what_is_done_for_who_has_little_takes_no_longer_than_the_tick_before(monkeypatch: pytest.MonkeyPatch) -> None:
    give_much_way(monkeypatch)
    by_calls = SimpleNamespace(perf_counter=itertools.count(1).__next__)  # Everything takes a second.
    monkeypatch.setattr(tick_loop, "time", by_calls)
    greedy, modest = (Client(tenant, "connection") for tenant in ("greedy", "modest"))

    async def test(bench: Bench) -> None:
        many = [bench.run(bench.session(f"s{number}"), client=greedy) for number in range(2 * tick_loop.SMALL_ROWS)]
        few = [bench.run(bench.session(f"m{number}"), client=modest) for number in range(6)]
        done = submit_all(bench, many)
        await until(partial(bool, done))
        for run in few:
            run.on_done = done.append
            bench.engine.submit(run)
        await until(lambda: run in done)
        order = [run.client.tenant for run in done]
        assert order[:2] == ["greedy", "modest"]
        assert "greedy" in order[2:6], "ordinary ticks came between"

    drive(test, max_tick_rows=1, max_shared_tick_rows=1)


def test_a_tenants_lone_steps_at_once_are_so_many_between_two_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tick_loop, "MOST_ASIDES", 2)
    monkeypatch.setattr(tick_loop, "SMALL_ROWS", 0)

    async def test(bench: Bench) -> None:
        mine, theirs = bench.session("mine"), bench.session("theirs")
        inputs = [np.zeros((1, DEPTH), np.float32)]
        for session in (mine, theirs):
            own = submit_all(bench, [bench.run(session, client=Client("other", "connection"))])
            await until(partial(bool, own))
        bench.engine.sharing.note("other")
        bench.engine.sharing.note(mine.key.tenant)
        for _ in range(2):
            own = submit_all(bench, [bench.run(theirs, client=Client("other", "connection"))])
            steps = [bench.engine.step_at_once(mine, mine.life, inputs, None, 0) for _ in range(4)]
            assert [step is not None for step in steps] == [True, True, False, False]
            await until(partial(bool, own))

    drive(test, at_once_us=10**9)


def test_ticks_are_smaller_while_tenants_share() -> None:
    async def test(bench: Bench) -> None:
        sizes = []
        for tenants in (1, 2):
            clients = [Client(f"tenant-{number % tenants}", "connection") for number in range(8)]
            names = [f"{tenants}-{number}" for number in range(8)]
            runs = [bench.run(bench.session(name), client=client) for name, client in zip(names, clients, strict=True)]
            done = submit_all(bench, runs)
            await until(partial(bool, done))
            sizes.append(len(done))
            await until(bench.engine.queue.idle.is_set)
        assert sizes == [8, 2]

    drive(test, max_tick_rows=8, max_shared_tick_rows=2)


def test_a_step_at_once_does_not_wait_for_what_another_tenant_has_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        mine, theirs = bench.session("mine"), bench.session("theirs")
        inputs = [np.zeros((1, DEPTH), np.float32)]
        for session in (mine, theirs):  # How long a step takes is learned by steps.
            done = submit_all(bench, [bench.run(session, client=Client("other", "connection"))])
            await until(partial(bool, done))
        assert not bench.engine.sharing.is_shared
        submit_all(bench, [bench.run(theirs, client=Client("other", "connection"))])
        assert bench.engine.step_at_once(mine, mine.life, inputs, 1, 0) is None, "it is a client as others are"
        bench.engine.sharing.note(mine.key.tenant)
        noted: list[str] = []
        monkeypatch.setattr(bench.engine.sharing, "note", noted.append)
        done_at_once = bench.engine.step_at_once(mine, mine.life, inputs, 1, 0)
        assert done_at_once is not None
        assert done_at_once[0] == 2
        assert noted == [mine.key.tenant], "those share too who never wait"
        monkeypatch.undo()
        await until(lambda: theirs.step_count == 2)
        submit_all(bench, [bench.run(theirs, client=Client(mine.key.tenant, "connection"))])
        assert bench.engine.step_at_once(mine, mine.life, inputs, 2, 0) is None, "after what its tenant has in line"

    drive(test, at_once_us=10**9)
