"""What the engine tells of its ticks to who watches them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.testing import assert_array_equal

from cellserve.tensors import Array
from cellserve_server.engine.observing import ChunkTick, LoneStep, StepTick
from cellserve_server.engine.runs import Run
from cellserve_server.tick_times import PHASES, TickTimes
from tests.unit.engine_bench import Bench, drive, submit_all, until
from tests.unit.test_blocks import Stream, names


class Watcher:
    """Keeps copies of what it is told."""

    def __init__(self, bench: Bench) -> None:
        self.told: list[str] = []
        self.times: list[TickTimes] = []
        self.outputs: list[Array] = []
        self.leaves: list[Array] = []
        self.step_counts: list[int] = []
        self.commits_s: list[float] = []
        bench.engine.observers.append(self)

    def steps_answered(self, tick: StepTick) -> None:
        self._keep("steps", tick.outputs, tick.leaves, tick.times)
        self.step_counts += tick.step_counts.tolist()

    def chunk_computed(self, tick: ChunkTick) -> None:
        self._keep("chunk", tick.outputs, tick.leaves, tick.times)

    def step_answered(self, step: LoneStep) -> None:
        self._keep("step", step.outputs, step.leaves, step.times)
        self.step_counts.append(step.session.step_count)

    def run_committed(self, run: Run, leaves: Sequence[Array], commit_s: float) -> None:
        assert run.session is not None
        self.told.append("run")
        self.step_counts.append(run.session.step_count)
        self.commits_s.append(commit_s)
        self.leaves.append(leaves[0].copy())

    def _keep(self, what: str, outputs: Sequence[Array], leaves: Sequence[Array], times: TickTimes) -> None:
        self.told.append(what)
        self.times.append(times)
        self.outputs.append(outputs[0].copy())
        self.leaves.append(leaves[0].copy())


def test_a_tick_of_many_steps_is_told_once_with_what_was_answered() -> None:
    async def test(bench: Bench) -> None:
        watcher = Watcher(bench)
        stream = Stream(bench, names(5))
        run = bench.run(bench.session("by itself"), return_state=True)
        submit_all(bench, [run])
        answers = await stream.step(range(5))
        assert watcher.told == ["steps"]
        assert watcher.step_counts == [1] * 6
        assert run.result is not None
        assert_array_equal(watcher.outputs[0][:5], np.concatenate([answers.outputs[place] for place in range(5)]))
        assert_array_equal(watcher.outputs[0][5:], run.result.outputs[0][:, 0])
        states = [bench.state(session)[0] for session in stream.sessions]
        assert_array_equal(watcher.leaves[0][:5], np.concatenate(states))

    drive(test)


def test_a_longer_run_is_told_by_its_chunks_and_when_its_state_is_its_sessions() -> None:
    async def test(bench: Bench) -> None:
        watcher = Watcher(bench)
        session = bench.session()
        result = await bench.engine.execute(bench.run(session, steps=5))
        assert watcher.told == ["chunk"] * (len(watcher.told) - 1) + ["run"]
        assert len(watcher.told) > 2
        assert watcher.step_counts == [5]
        assert_array_equal(np.concatenate(watcher.outputs, axis=1), result.outputs[0])
        assert_array_equal(watcher.leaves[-1], bench.state(session)[0])
        assert watcher.commits_s[0] >= 0

    drive(test, max_chunk_steps=2)


def test_a_repeat_moves_nothing_and_is_no_commit() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        await bench.engine.execute(bench.run(session, run_id=7))
        watcher = Watcher(bench)
        await bench.engine.execute(bench.run(session, run_id=7))
        assert watcher.told == ["chunk"]

    drive(test)


def test_a_step_that_needs_no_tick_is_told_too() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        await bench.engine.execute(bench.run(session))  # How long a step takes is known now.
        watcher = Watcher(bench)
        inputs = bench.run(session, seed=1).inputs[0][:, 0]
        done = bench.engine.step_at_once(session, session.life, [inputs], 1, 0)
        assert done is not None
        assert watcher.told == ["step"]
        assert watcher.step_counts == [2]
        assert_array_equal(watcher.outputs[0], done[1][0])
        assert_array_equal(watcher.leaves[0], bench.state(session)[0])

    drive(test, at_once_us=10**6)


def test_who_has_gone_is_told_no_more() -> None:
    async def test(bench: Bench) -> None:
        watcher = Watcher(bench)
        session = bench.session()
        await bench.engine.execute(bench.run(session))
        told = list(watcher.told)
        bench.engine.observers.remove(watcher)
        await bench.engine.execute(bench.run(session))
        assert watcher.told == told

    drive(test)


def test_the_parts_of_a_tick_follow_each_other_and_make_up_its_time() -> None:
    async def test(bench: Bench) -> None:
        watcher = Watcher(bench)
        stream = Stream(bench, names(3))
        await stream.step(range(3))
        (times,) = watcher.times
        phases = dict(zip(PHASES, times.phases(), strict=True))
        assert phases.pop("commit") == 0  # There is no store.
        assert min(phases.values()) > 0
        assert abs(sum(phases.values()) - phases["queue"] - times.seconds) < 1e-9

    drive(test)


def test_a_step_that_waits_is_told_how_long() -> None:
    async def test(bench: Bench) -> None:
        watcher = Watcher(bench)
        session = bench.session()
        first, second = bench.run(session), bench.run(session, seed=1)
        done = submit_all(bench, [first, second])
        await until(lambda: len(done) == 2)
        assert [times.arrived for times in watcher.times] == [first.arrived, second.arrived]
        assert watcher.times[1].phases()[0] >= watcher.times[0].seconds

    drive(test)
