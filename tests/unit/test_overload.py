"""More work than can be done in time: what is refused, when, and what is done instead."""

from __future__ import annotations

import pytest

from cellserve.errors import DeadlineExceededError, QueueFullError
from cellserve_server.engine.admission import spare_s
from cellserve_server.engine.computing import MOST_SLOWNESS, Computing
from cellserve_server.sessions.lanes import Lane
from cellserve_server.sessions.seats import StateBudget
from tests.unit.engine_bench import Bench, drive, submit_all, until
from tests.unit.test_blocks import Stream, names


@pytest.mark.parametrize(
    ("waited_s", "tick_s", "expected_s"),
    [
        (0.0, 0.0, 0.0),
        (0.0, 100.0, 0.0),  # It has not waited, so it is tried: there is nothing better to do.
        (1.0, 0.0, 0.5),
        (1.0, 0.25, 0.75),
        (1.0, 100.0, 4.5),
    ],
)
def test_the_longer_it_has_waited_the_more_time_has_to_be_left(
    waited_s: float, tick_s: float, expected_s: float
) -> None:
    assert spare_s(waited_s, tick_s) == expected_s


def test_what_has_waited_for_most_of_its_time_is_refused_and_what_came_later_is_done() -> None:
    async def test(bench: Bench) -> None:
        now = bench.clock()
        early, late, patient = (bench.session(name) for name in ("early", "late", "patient"))
        old = bench.run(early, deadline=now + 10)
        waits = bench.run(patient)
        done = submit_all(bench, [old, waits])
        bench.clock.advance(8)
        new = bench.run(late, deadline=now + 18)
        done += submit_all(bench, [new])
        await until(lambda: all(run.result or run.error for run in (old, waits, new)))
        assert isinstance(old.error, QueueFullError)
        assert "overloaded" in old.error.message
        # To try again before its deadline would be in vain, and the client sees that.
        assert old.error.retry_after_s == 8.0
        assert new.error is None
        assert waits.error is None
        assert [session.step_count for session in (early, late, patient)] == [0, 1, 1]
        assert bench.metric("cellserve_runs_total", model="defined", outcome="shed") == 1
        await bench.engine.execute(bench.run(early, deadline=bench.clock() + 10))
        assert early.step_count == 1

    drive(test)


@pytest.mark.parametrize(("steps", "timeout_s"), [(1, 10.0), (20, 10.0)])
def test_a_deadline_that_has_passed_is_told_as_one(steps: int, timeout_s: float) -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        run = bench.run(session, steps=steps, deadline=bench.clock() + timeout_s)
        done = submit_all(bench, [run])
        bench.clock.advance(timeout_s + 1)
        await until(lambda: bool(done))
        assert isinstance(run.error, DeadlineExceededError)
        assert session.step_count == 0
        assert not bench.metric("cellserve_ticks_total", model="defined")

    drive(test)


@pytest.mark.parametrize(("predicted_s", "is_done"), [(0.5, True), (10.0, False)])
@pytest.mark.parametrize("steps", [1, 2])
def test_what_could_not_be_done_before_its_deadline_is_not_begun(predicted_s: float, is_done: bool, steps: int) -> None:
    async def test(bench: Bench) -> None:
        bench.engine.lanes[bench.model].observe(1, predicted_s / steps)
        bench.engine.lanes[bench.model].observe(2, predicted_s / steps)
        session = bench.session()
        run = bench.run(session, steps=steps, deadline=bench.clock() + 4)
        done = submit_all(bench, [run])
        bench.clock.advance(1)
        await until(lambda: bool(done))
        assert (run.error is None) is is_done
        assert session.step_count == (steps if is_done else 0)

    drive(test)


def test_a_wrong_prediction_is_mended_by_what_comes_next() -> None:
    async def test(bench: Bench) -> None:
        lane = bench.engine.lanes[bench.model]
        lane.observe(1, 1e6)
        session = bench.session()
        for number in range(1, 100):
            await bench.engine.execute(bench.run(session, deadline=bench.clock() + 1))
            assert session.step_count == number
        predicted_s = lane.predicted_seconds(1)
        assert predicted_s is not None
        assert predicted_s < 1.0

    drive(test)


def test_a_sequence_that_has_begun_goes_on_to_its_deadline() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        run = bench.run(session, steps=100, deadline=bench.clock() + 10)
        done = submit_all(bench, [run])
        await until(lambda: run.position > 2)
        bench.clock.advance(9)
        await until(lambda: bool(done))
        assert run.error is None
        assert session.step_count == 100

    drive(test, max_chunk_steps=1)


def test_what_is_refused_makes_room_in_the_same_tick() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(8))
        late = stream.steps(range(6), timeouts_ms=[3000] * 5 + [100_000])
        bench.clock.advance(2.5)
        answers = stream.steps([6, 7], timeouts_ms=[3000, 3000])
        await until(lambda: late.complete and answers.complete)
        assert set(late.errors) == set(range(5))
        assert {type(error) for error in late.noted} == {QueueFullError}
        assert set(late.step_counts) == {5}
        assert set(answers.step_counts) == {0, 1}
        assert bench.metric("cellserve_ticks_total", model="defined") == 1
        assert bench.metric("cellserve_runs_total", model="defined", outcome="shed") == 5
        assert not any(session.busy for session in stream.sessions)
        assert bench.engine.queue.runs == bench.engine.queue.size_bytes == 0

    drive(test, max_tick_rows=3)


def test_a_long_line_of_what_is_too_late_is_refused_to_its_end() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(200))
        late = stream.steps(range(200), timeouts_ms=[3000] * 200)
        bench.clock.advance(2.5)
        await until(lambda: late.complete)
        assert len(late.errors) == 200
        assert bench.engine.queue.runs == bench.engine.queue.size_bytes == 0

    drive(test, max_tick_rows=1)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_long_line_of_late_runs_is_refused_to_its_end(steps: int) -> None:
    async def test(bench: Bench) -> None:
        now = bench.clock()
        runs = [bench.run(bench.session(name), steps=steps, deadline=now + 3) for name in names(200)]
        done = submit_all(bench, runs)
        bench.clock.advance(2.5)
        await until(lambda: len(done) == 200)
        assert {type(run.error) for run in done} == {QueueFullError}
        assert bench.engine.queue.runs == bench.engine.queue.size_bytes == 0

    drive(test, max_tick_rows=1)


def test_a_tick_has_as_many_rows_as_its_time_allows() -> None:
    lane = Lane(Bench().model, StateBudget(), 0)
    assert lane.rows_within(0.1, 1024) == 1024  # Nothing is known yet.
    lane.observe(1, 0.005)
    assert lane.rows_within(0.1, 1024) == pytest.approx(20, abs=1)
    lane.observe(20, 0.02)  # Together each row takes less.
    assert lane.rows_within(0.1, 1024) == pytest.approx(100, abs=1)
    lane.observe(1, 0.005)
    assert lane.rows_within(0.1, 1024) == pytest.approx(100, abs=1)
    assert lane.rows_within(0.1, 64) == 64
    assert lane.rows_within(0.0, 1024) == 1


@pytest.mark.parametrize(("max_tick_us", "ticks"), [(1_000_000, 2), (100_000_000, 1)])
def test_ticks_are_no_longer_than_they_may_be_by_what_is_known(max_tick_us: int, ticks: int) -> None:
    async def test(bench: Bench) -> None:
        bench.engine.lanes[bench.model].observe(1, 10.0)
        stream = Stream(bench, names(3))
        answers = await stream.step(range(3))
        assert len(answers.step_counts) == 3
        assert bench.metric("cellserve_ticks_total", model="defined") == ticks

    drive(test, max_tick_us=max_tick_us)


def test_a_busy_machine_is_reckoned_with() -> None:
    computing = Computing(0)
    try:
        assert computing.slowness == 1.0
        computing.note(computed_s=1.0, took_s=3.0)
        assert computing.slowness == pytest.approx(3.0)
        for _ in range(50):
            computing.note(computed_s=1.0, took_s=1.0)
        assert computing.slowness == pytest.approx(1.0, rel=0.01)
        computing.note(computed_s=1e-6, took_s=1e-3)  # A short one tells little.
        assert computing.slowness == pytest.approx(1.0, rel=0.01)
        computing.note(computed_s=1.0, took_s=1e3)
        assert computing.slowness == MOST_SLOWNESS
    finally:
        computing.stop()


def test_of_too_many_sequences_the_last_are_refused_before_they_cost_anything() -> None:
    async def test(bench: Bench) -> None:
        first = [bench.run(bench.session(f"first {i}"), steps=10, deadline=bench.clock() + 30) for i in range(4)]
        done = submit_all(bench, first)
        await until(lambda: all(run.position for run in first))
        last = [bench.run(bench.session(f"last {i}"), steps=10, deadline=bench.clock() + 30) for i in range(4)]
        done += submit_all(bench, last)
        bench.clock.advance(3)  # Ten times as long for ten steps is as long as they have, and a little more.
        await until(lambda: all(run.result or run.error for run in (*first, *last)))
        assert [run.error for run in first] == [None] * 4
        assert {type(run.error) for run in last} == {QueueFullError}
        assert [run.position for run in last] == [0] * 4
        assert not any(run.session.busy for run in last if run.session is not None)

    drive(test, max_tick_rows=2, max_chunk_steps=1)


@pytest.mark.parametrize(("passed_s", "is_done"), [(1.0, True), (8.0, False)])
def test_a_sequence_that_has_become_too_slow_makes_room_for_others(passed_s: float, is_done: bool) -> None:
    async def test(bench: Bench) -> None:
        slow, *others = (bench.run(bench.session(name), steps=20) for name in names(4))
        slow.deadline = bench.clock() + 20
        done = submit_all(bench, [slow, *others])
        await until(lambda: slow.position == 5)
        bench.clock.advance(passed_s)  # for five steps, and there are fifteen more
        await until(lambda: len(done) == 4)
        assert (slow.error is None) is is_done
        assert [run.error for run in others] == [None] * 3

    drive(test, max_tick_rows=1, max_chunk_steps=1)


def test_one_that_has_the_server_to_itself_goes_on_as_long_as_it_may() -> None:
    async def test(bench: Bench) -> None:
        run = bench.run(bench.session(), steps=20, deadline=bench.clock() + 20)
        done = submit_all(bench, [run])
        await until(lambda: run.position == 5)
        bench.clock.advance(19)
        await until(lambda: bool(done))
        assert run.error is None

    drive(test, max_tick_rows=1, max_chunk_steps=1)


def test_to_try_again_before_the_same_deadline_is_in_vain() -> None:
    async def test(bench: Bench) -> None:
        bench.engine.lanes[bench.model].observe(1, 10.0)
        run = bench.run(bench.session(), deadline=bench.clock() + 4)
        done = submit_all(bench, [run])
        bench.clock.advance(1)
        await until(lambda: bool(done))
        assert isinstance(run.error, QueueFullError)
        assert run.error.retry_after_s == 3.0

    drive(test)
