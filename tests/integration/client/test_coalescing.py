"""Steps of many callers go out together; order, deadlines, cancellation, retries and errors stay each caller's own."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cellserve.errors import (
    DeadlineExceededError,
    DrainingError,
    FailedPreconditionError,
    FieldInvalidError,
    QueueFullError,
    RunCancelledError,
    SessionNotFoundError,
    UnavailableError,
    UnimplementedError,
)
from cellserve.tensors import Array
from cellserve_client import RetryPolicy, aio, connect, rnn
from cellserve_server.config import ServerConfig
from tests.flaky_proxy import Loss
from tests.integration.client.helpers import DEPTH, UNITS, WAIT_S, assert_close
from tests.integration.client.stream_proxy import StreamProxy, stream_proxy
from tests.servers import TEST_CONFIG, LoopThread, RunningApp, ServerProcess, server_process

SESSIONS, ROUNDS = 24, 12
# Hardly waits, and often: streams are cut many times here.
PATIENT = RetryPolicy(first_delay_s=0.001, max_delay_s=0.01)


class Streamed:
    """Sessions that each step with an input of their own, always the same: the step count tells the output.

    Args:
        count: how many.
        longest: steps that are known before.
    """

    def __init__(self, cell: aio.Cell, count: int, longest: int = 80) -> None:
        self._cell = cell
        self._longest = longest
        self.inputs = np.random.default_rng(7).standard_normal((count, DEPTH)).astype(np.float32)
        self.sessions: list[aio.Session] = []
        self._expected = np.zeros(0)

    async def __aenter__(self) -> Streamed:
        frames = np.repeat(self.inputs[:, np.newaxis], self._longest, axis=1)
        self._expected, _ = await rnn.dynamic_rnn(self._cell, frames, dtype=np.float32)
        self.sessions = list(await asyncio.gather(*(self._cell.session().open() for _ in self.inputs)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(session.close() for session in self.sessions))

    async def step(self, index: int, timeout_s: float | None = None) -> Array:
        """Steps one session and checks what comes."""
        session = self.sessions[index]
        output: Array = await session.step(self.inputs[index], timeout_s=timeout_s)
        assert_close(output, self._expected[index, session.step_count - 1])
        return output

    async def steps(self, index: int, count: int) -> None:
        """Steps one session some times."""
        for _ in range(count):
            await self.step(index)

    async def all_step(self, count: int) -> None:
        """Steps every session some times, all at once."""
        await asyncio.gather(*(self.steps(index, count) for index in range(len(self.sessions))))

    async def check_counts(self) -> None:
        """What the client and the server have counted is the same."""
        for session in self.sessions:
            known = session.step_count
            assert (await session.refresh()).step_count == known


Use = Callable[[aio.Server, Streamed], Any]


def run(loop: LoopThread, address: str, use: Use, count: int = SESSIONS) -> None:
    """Uses sessions on a connection to an address."""

    async def connect_and_use() -> None:
        async with aio.connect(address, retry=PATIENT, timeout_s=WAIT_S) as remote:
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            async with Streamed(cell, count) as streamed:
                await use(remote, streamed)

    loop.run(connect_and_use())


def test_many_coroutines_share_messages(loop_thread: LoopThread, proxy: StreamProxy) -> None:
    async def use(_: aio.Server, streamed: Streamed) -> None:
        await streamed.all_step(ROUNDS)
        assert [session.step_count for session in streamed.sessions] == [ROUNDS] * SESSIONS

    run(loop_thread, proxy.address, use)
    assert sum(size * messages for size, messages in proxy.sizes.items()) == SESSIONS * ROUNDS
    assert proxy.seen["Step"] <= SESSIONS * ROUNDS / 4, proxy.sizes
    assert proxy.seen["StreamSteps"] == 1


def test_many_at_once_go_out_as_two_messages(loop_thread: LoopThread, proxy: StreamProxy) -> None:
    async def use(_: aio.Server, streamed: Streamed) -> None:
        await streamed.all_step(1)  # Opens them.
        proxy.sizes.clear()
        await streamed.all_step(1)

    run(loop_thread, proxy.address, use, 40)
    assert proxy.sizes == {20: 2}


def test_threads_share_messages(proxy: StreamProxy) -> None:
    with connect(proxy.address) as remote, ThreadPoolExecutor(16) as pool:
        cell = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
        frame = np.ones(DEPTH, np.float32)
        expected = rnn.dynamic_rnn(cell, np.tile(frame, (1, ROUNDS, 1)), dtype=np.float32)[0][0]

        def work(_: int) -> None:
            with cell.session() as session:
                for row in expected:
                    assert_close(session.step(frame), row)
                assert session.step_count == ROUNDS

        list(pool.map(work, range(16)))
    assert sum(size * messages for size, messages in proxy.sizes.items()) == 16 * ROUNDS
    assert proxy.seen["Step"] < 16 * ROUNDS, proxy.sizes


def test_a_step_that_comes_alone_is_sent_at_once(loop_thread: LoopThread, proxy: StreamProxy) -> None:
    async def use(_: aio.Server, streamed: Streamed) -> None:
        await streamed.steps(0, 10)
        # One that gets no answer holds nobody back.
        proxy.plan("Step", Loss.REQUEST_SILENTLY)
        held = asyncio.create_task(streamed.step(0))
        await asyncio.to_thread(proxy.held.acquire, timeout=WAIT_S)
        await streamed.steps(1, 10)
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        await streamed.steps(0, 1)

    run(loop_thread, proxy.address, use, 2)
    assert proxy.sizes == {1: 22}


def test_messages_without_answers_hold_others_back_for_a_moment_only(
    loop_thread: LoopThread, proxy: StreamProxy
) -> None:
    async def use(_: aio.Server, streamed: Streamed) -> None:
        await streamed.all_step(1)
        proxy.plan("Step", *[Loss.REQUEST_SILENTLY] * 3)
        held = []
        for index in range(3):
            held.append(asyncio.create_task(streamed.step(index)))
            await asyncio.to_thread(proxy.held.acquire, timeout=WAIT_S)
        await streamed.steps(3, 5)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await streamed.all_step(1)
        await streamed.check_counts()

    run(loop_thread, proxy.address, use, 4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
def test_half_of_the_callers_give_up(loop_thread: LoopThread, server_address: str, how: str, seed: int) -> None:
    async def use(_: aio.Server, streamed: Streamed) -> None:
        choice = random.Random(seed)
        for _round in range(ROUNDS):
            tasks = []
            for index in range(SESSIONS):
                gives_up = choice.random() < 0.5
                timeout_s = choice.uniform(0.0001, 0.02) if gives_up and how == "timed out" else None
                tasks.append((gives_up, asyncio.create_task(streamed.step(index, timeout_s))))
            if how == "cancelled":
                for gives_up, task in choice.sample(tasks, len(tasks)):
                    for _turn in range(choice.randrange(3)):
                        await asyncio.sleep(0)
                    if gives_up:
                        task.cancel()
            for gives_up, task in tasks:
                try:
                    await task
                except (asyncio.CancelledError, DeadlineExceededError):
                    assert gives_up
        await streamed.all_step(2)
        await streamed.check_counts()

    run(loop_thread, server_address, use)


@pytest.mark.parametrize("seed", range(2))
def test_a_stream_that_is_cut_again_and_again(loop_thread: LoopThread, proxy: StreamProxy, seed: int) -> None:
    async def use(_: aio.Server, streamed: Streamed) -> None:
        choice = random.Random(seed)
        proxy.plan(
            "Step", *[choice.choice([None, None, None, Loss.REQUEST, Loss.ANSWER]) for _ in range(40)], *[None] * 10
        )

        async def cut() -> None:
            for _cut in range(5):
                await asyncio.sleep(choice.uniform(0, 0.01))
                proxy.cut_streams()

        await asyncio.gather(streamed.all_step(ROUNDS), cut())
        assert [session.step_count for session in streamed.sessions] == [ROUNDS] * SESSIONS
        await streamed.check_counts()

    run(loop_thread, proxy.address, use)
    assert proxy.seen["StreamSteps"] > 5


def test_an_error_at_one_position_is_its_callers_alone(loop_thread: LoopThread, server_address: str) -> None:
    async def use(remote: aio.Server, streamed: Streamed) -> None:
        await streamed.all_step(1)
        gone, moved = streamed.sessions[3], streamed.sessions[5]
        await remote.delete_session(gone.id)
        await (await remote.open_session(moved.id)).reset()
        tasks = [asyncio.create_task(streamed.step(index)) for index in range(SESSIONS)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {index for index, outcome in enumerate(found) if isinstance(outcome, BaseException)} == {3, 5}
        for index, word in ((3, "deleted"), (5, "reset")):
            with pytest.raises(SessionNotFoundError, match=word):
                await streamed.step(index)
        await moved.refresh()
        await streamed.step(5)

    run(loop_thread, server_address, use)


@pytest.mark.parametrize("error", [QueueFullError("full", retry_after_s=0.001), DrainingError("stopping")])
def test_positions_that_are_refused_for_now_are_sent_again(
    loop_thread: LoopThread, proxy: StreamProxy, error: Any
) -> None:
    async def use(_: aio.Server, streamed: Streamed) -> None:
        proxy.plan("Step", error, error)
        await streamed.all_step(3)
        await streamed.check_counts()

    run(loop_thread, proxy.address, use)
    assert proxy.seen["GetModel"] == proxy.seen["StreamSteps"] - 1 == 0


def test_a_life_that_was_begun_here_is_opened_anew(loop_thread: LoopThread, server_address: str) -> None:
    async def use(_: aio.Server, streamed: Streamed) -> None:
        for _round in range(3):
            await streamed.all_step(2)
            await asyncio.gather(*(session.reset() for session in streamed.sessions))
        await streamed.all_step(1)
        assert {session.step_count for session in streamed.sessions} == {1}

    run(loop_thread, server_address, use)


def test_a_server_without_streams_gets_requests(loop_thread: LoopThread, proxy: StreamProxy) -> None:
    proxy.plan("StreamSteps", UnimplementedError("Method not found!"))

    async def use(_: aio.Server, streamed: Streamed) -> None:
        await streamed.all_step(3)
        await streamed.check_counts()

    run(loop_thread, proxy.address, use, 4)
    assert (proxy.seen["StreamSteps"], proxy.seen["Step"], proxy.sizes) == (1, 12, {})


@pytest.mark.parametrize(
    "config",
    [replace(TEST_CONFIG, max_stream_handles=4), replace(TEST_CONFIG, max_stream_groups=1)],
    ids=["handles", "groups"],
)
def test_what_the_stream_does_not_take_steps_alone(
    loop_thread: LoopThread, start_server: Callable[[ServerConfig], RunningApp], config: ServerConfig
) -> None:
    server = start_server(config)
    with stream_proxy(loop_thread, server.address) as proxy:

        async def use(remote: aio.Server, streamed: Streamed) -> None:
            await streamed.all_step(2)
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=4, input_size=DEPTH)
            async with Streamed(cell, 3) as others:
                await others.all_step(2)
                await streamed.all_step(1)
                await others.check_counts()

        run(loop_thread, proxy.address, use, 4)
        assert proxy.seen["Step"] - proxy.sizes.total() == 3 * 2, "the others' steps were requests"


def test_dropped_sessions_give_their_handles_back(
    loop_thread: LoopThread, start_server: Callable[[ServerConfig], RunningApp]
) -> None:
    server = start_server(replace(TEST_CONFIG, max_stream_handles=6))
    with stream_proxy(loop_thread, server.address) as proxy:

        async def use(remote: aio.Server, streamed: Streamed) -> None:
            await streamed.all_step(1)
            for _round in range(3):
                opened = [await remote.open_session(session.id) for session in streamed.sessions]
                for session in opened:
                    await session.step(np.zeros(DEPTH, np.float32))
                del opened, session
                gc.collect()
            await asyncio.gather(*(session.refresh() for session in streamed.sessions))

        run(loop_thread, proxy.address, use, 3)
        assert proxy.seen["Step"] == proxy.sizes.total(), "no step was a request"


def test_without_coalescing_each_step_is_a_request(loop_thread: LoopThread, proxy: StreamProxy) -> None:
    async def use_requests() -> None:
        async with aio.connect(proxy.address, coalesce=False) as remote:
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            async with Streamed(cell, 3) as streamed:
                await streamed.all_step(2)

    loop_thread.run(use_requests())
    assert (proxy.seen["Step"], proxy.seen["StreamSteps"]) == (6, 0)


def test_closing_the_connection_ends_all_steps_under_way(loop_thread: LoopThread, proxy: StreamProxy) -> None:
    async def close_in_between() -> None:
        async with aio.connect(proxy.address) as remote:
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            sessions = [await cell.session() for _ in range(8)]
            frame = np.zeros(DEPTH, np.float32)
            await asyncio.gather(*(session.step(frame) for session in sessions))
            proxy.plan("Step", *[Loss.REQUEST_SILENTLY] * 9)
            tasks = [asyncio.create_task(session.step(frame)) for session in sessions]
            await asyncio.to_thread(proxy.held.acquire, timeout=WAIT_S)
            waiting = asyncio.create_task(sessions[0].step(frame))
            await asyncio.sleep(0)
            await remote.close()
            for task in tasks:
                with pytest.raises(RunCancelledError, match="the connection was closed"):
                    await task
            for late in (waiting, sessions[1].step(frame)):
                with pytest.raises((FailedPreconditionError, RunCancelledError), match="closed"):
                    await late

    loop_thread.run(close_in_between())


@pytest.mark.parametrize("look", ["none", "refresh", "state"])
def test_a_lost_step_that_arrives_late_is_not_taken_for_somebody_elses(
    loop_thread: LoopThread, proxy: StreamProxy, look: str
) -> None:
    """A broken connection's last message is applied after the server was asked about it, by a look or the next step."""
    proxy.deliver_lost_late = True

    async def use() -> None:
        async with aio.connect(proxy.address, retry=RetryPolicy(max_attempts=1)) as remote:
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            async with Streamed(cell, 1) as streamed:
                await streamed.steps(0, 2)
                proxy.plan("Step", Loss.REQUEST)
                with pytest.raises(UnavailableError):
                    await streamed.step(0)
                session = streamed.sessions[0]
                if look != "none":
                    await (session.refresh() if look == "refresh" else session.state())
                    assert session.step_count == 2
                await streamed.steps(0, 2)
                assert session.step_count == 5
                await streamed.check_counts()

    loop_thread.run(use())
    assert proxy.delivered_late == 1


def test_an_interruption_gives_a_threads_step_up(proxy: StreamProxy) -> None:
    frame = np.zeros(DEPTH, np.float32)
    done = threading.Event()
    with connect(proxy.address) as remote:
        session = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH).session()
        session.step(frame)
        proxy.plan("Step", Loss.ANSWER_SILENTLY)

        def interrupt() -> None:
            # One that comes just before the main thread falls asleep is not noticed by Python.
            while proxy.held.acquire(timeout=WAIT_S) and not done.wait(0.1):
                os.kill(os.getpid(), signal.SIGINT)
                proxy.held.release()

        before = signal.signal(signal.SIGINT, _raise_once(done))
        try:
            with ThreadPoolExecutor(1) as pool:
                interrupting = pool.submit(interrupt)
                with pytest.raises(KeyboardInterrupt):
                    session.step(frame)
                interrupting.result(WAIT_S)
        finally:
            signal.signal(signal.SIGINT, before)
        session.step(frame)
        assert session.step_count == 3, "it was applied, and the session knows"


def _raise_once(done: threading.Event) -> Callable[..., None]:
    def handle(*_: object) -> None:
        if not done.is_set():
            done.set()
            raise KeyboardInterrupt

    return handle


def test_a_server_that_stops_is_told_to_every_caller(loop_thread: LoopThread) -> None:
    async def step_until_it_stops(server: ServerProcess) -> None:
        async with aio.connect(server.address, retry=RetryPolicy(max_attempts=1)) as remote:
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            sessions = [await cell.session() for _ in range(8)]
            begun = asyncio.Event()

            async def step_on(session: aio.Session) -> None:
                while True:
                    await session.step(np.zeros(DEPTH, np.float32))
                    begun.set()

            tasks = [asyncio.create_task(step_on(session)) for session in sessions]
            await begun.wait()
            server.process.terminate()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, UnavailableError), outcome

    with server_process() as server:
        loop_thread.run(step_until_it_stops(server))
        assert server.wait() == 0, server.errors()


def test_another_event_loop_is_refused(server_address: str) -> None:
    remote = aio.connect(server_address)
    frame = np.zeros(DEPTH, np.float32)

    async def begin() -> aio.Session:
        cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
        session = await cell.session()
        await session.step(frame)
        return session

    async def step_elsewhere(session: aio.Session) -> None:
        with pytest.raises(FailedPreconditionError, match="another event loop"):
            await session.step(frame)

    with asyncio.Runner() as first:
        session = first.run(begin())
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, step_elsewhere(session)).result(WAIT_S)
        first.run(session.close())
        first.run(remote.close())


def test_ids_out_of_range_and_other_bad_inputs_move_nothing(loop_thread: LoopThread, server_address: str) -> None:
    async def use() -> None:
        async with aio.connect(server_address) as remote:
            cell = await remote.cell(rnn.EmbeddingWrapper(rnn.BasicRNNCell(UNITS), 5, DEPTH), seed=1)
            await cell.build()
            async with cell.session() as session, cell.session() as other:
                await asyncio.gather(session.step(1), other.step(2))
                found = await asyncio.gather(session.step(5), other.step(2), return_exceptions=True)
                assert isinstance(found[0], FieldInvalidError)
                assert (session.step_count, other.step_count) == (1, 2)
                await session.step(4)

    loop_thread.run(use())
