"""Connections of both clients: threads, coroutines, deadlines, the end, and servers that are not there."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cellserve.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    QueueFullError,
    RunCancelledError,
    SessionNotFoundError,
    UnavailableError,
)
from cellserve.tensors import Array
from cellserve_client import RetryPolicy, aio, connect, rnn
from tests.flaky_proxy import FlakyProxy, Loss
from tests.integration.client.helpers import (
    DEPTH,
    UNITS,
    WAIT_S,
    Connect,
    assert_close,
)
from tests.servers import TEST_CONFIG, LoopThread, running_app

FRAME = np.array([0.1, -0.2, 0.3], np.float32)
RESTART_S = 60.0  # What a server may take to start on a busy machine.


def test_a_closed_connection_is_refused(connected: Connect, server_address: str) -> None:
    remote = connected(server_address)
    cell: Any = remote.cell(rnn.BasicRNNCell(UNITS), input_size=DEPTH)
    remote.close()
    remote.close()
    with pytest.raises(FailedPreconditionError, match=r"closed; make another one with connect\(\.\.\.\)"):
        cell(np.zeros((1, DEPTH), np.float32), cell.zero_state(1))
    with pytest.raises(FailedPreconditionError, match="closed"):
        remote.models()


def test_the_blocking_client_serves_many_threads(server_address: str) -> None:
    with connect(server_address) as remote, ThreadPoolExecutor(8) as pool:
        cell = remote.cell(rnn.BasicRNNCell(UNITS), input_size=DEPTH)

        def run(index: int) -> int:
            with cell.session() as session:
                for _ in range(10):
                    session.step(np.full(DEPTH, index, np.float32))
                return session.step_count

        assert list(pool.map(run, range(16))) == [10] * 16


def test_a_thread_can_use_what_another_made(server_address: str) -> None:
    found: list[Any] = []
    with connect(server_address) as remote:
        session = remote.cell(rnn.BasicRNNCell(UNITS), input_size=DEPTH).session()
        thread = threading.Thread(target=lambda: found.append(session.step(np.zeros(DEPTH, np.float32))))
        thread.start()
        thread.join()
        assert found[0].shape == (UNITS,)
        session.close()


def test_coroutines_on_one_session_apply_in_the_order_of_their_calls(
    server_address: str, loop_thread: LoopThread, frames: Array
) -> None:
    async def step_all() -> None:
        async with aio.connect(server_address) as remote:
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            async with cell.session() as session:
                found = await asyncio.gather(*(session.step(frame) for frame in frames[0]))
                state = await session.state()
            outputs, expected = await rnn.dynamic_rnn(cell, frames[:1], dtype=np.float32)
            assert_close(np.stack(found), outputs[0])
            assert_close(state, expected)

    loop_thread.run(step_all())


def test_a_session_can_be_awaited_or_entered(server_address: str, loop_thread: LoopThread) -> None:
    async def use_both() -> None:
        async with aio.connect(server_address) as remote:
            cell = await remote.cell(rnn.BasicRNNCell(UNITS), input_size=DEPTH)
            session = await remote.session(cell, session_id="awaited")
            assert session.id == "awaited"
            await session.close()
            async with remote.session(cell, session_id="entered") as entered:
                assert entered.id == "entered"
            with pytest.raises(SessionNotFoundError):
                await remote.open_session("entered")

    loop_thread.run(use_both())


@pytest.mark.usefixtures("impatient")
def test_a_call_waits_its_turn_no_longer_than_its_deadline(connected: Connect, proxy: FlakyProxy) -> None:
    cell: Any = connected(proxy.address).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session, ThreadPoolExecutor(1) as pool:
        proxy.plan("Step", Loss.REQUEST_SILENTLY)
        first = pool.submit(session.step, FRAME, timeout_s=0.4)
        assert proxy.held.acquire(timeout=WAIT_S)
        with pytest.raises(DeadlineExceededError, match=r"waited 0\.1 s for earlier calls on it"):
            session.step(FRAME, timeout_s=0.1)
        with pytest.raises(DeadlineExceededError, match="no answer from"):
            first.result()
        session.step(FRAME)
        assert session.step_count == 1


# One wait is within the timeout and two are not: with a timeout for each of its requests a call would succeed.
BUSY = QueueFullError("full", retry_after_s=0.15)
TIMEOUT_S = 0.25
AT_ONCE = RetryPolicy(first_delay_s=0.0)


@pytest.mark.parametrize("method", ["RunSequence", "Call"])
def test_a_timeout_is_one_for_the_building_and_the_running(connected: Connect, proxy: FlakyProxy, method: str) -> None:
    cell: Any = connected(proxy.address, AT_ONCE).cell(rnn.BasicLSTMCell(UNITS), seed=3)
    proxy.plan("DefineModel", BUSY)
    proxy.plan(method, BUSY)
    uses: dict[str, Callable[[], object]] = {
        "RunSequence": lambda: rnn.dynamic_rnn(cell, np.tile(FRAME, (1, 4, 1)), dtype=np.float32, timeout_s=TIMEOUT_S),
        "Call": lambda: cell.call(FRAME[np.newaxis], cell.zero_state(1), timeout_s=TIMEOUT_S),
    }
    with pytest.raises((QueueFullError, DeadlineExceededError)):
        uses[method]()
    assert proxy.seen[method] <= 1


@pytest.mark.parametrize("methods", [("GetModel", "CreateSession"), ("GetSession", "GetModel")])
def test_a_timeout_is_one_for_the_model_and_the_session(
    connected: Connect, proxy: FlakyProxy, methods: tuple[str, str]
) -> None:
    remote = connected(proxy.address, AT_ONCE)
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as there:
        for method in methods:
            proxy.plan(method, BUSY)
        before = proxy.seen[methods[1]]
        uses: dict[str, Callable[[], object]] = {
            "GetModel": lambda: remote.session(cell.info.name, timeout_s=TIMEOUT_S),
            "GetSession": lambda: remote.open_session(there.id, timeout_s=TIMEOUT_S),
        }
        with pytest.raises((QueueFullError, DeadlineExceededError)):
            uses[methods[0]]()
        assert proxy.seen[methods[1]] - before <= 1


def test_closing_the_connection_ends_calls_under_way(proxy: FlakyProxy) -> None:
    with connect(proxy.address) as remote, ThreadPoolExecutor(1) as pool:
        session = remote.cell(rnn.BasicLSTMCell(UNITS), input_size=DEPTH).session()
        proxy.plan("Step", Loss.REQUEST_SILENTLY)
        waiting = pool.submit(session.step, FRAME)
        assert proxy.held.acquire(timeout=WAIT_S)
        remote.close()
        with pytest.raises(RunCancelledError, match="the connection was closed"):
            waiting.result()


@pytest.mark.usefixtures("impatient")
def test_a_cancelled_step_is_settled(loop_thread: LoopThread, proxy: FlakyProxy) -> None:
    async def cancel_and_go_on() -> None:
        async with aio.connect(proxy.address) as remote:
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            async with cell.session() as session:
                for loss, count in ((Loss.ANSWER_SILENTLY, 2), (Loss.REQUEST_SILENTLY, 3)):
                    proxy.plan("Step", loss)
                    step = asyncio.create_task(session.step(FRAME))
                    assert await asyncio.to_thread(proxy.held.acquire, timeout=WAIT_S)
                    step.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await step
                    await session.step(FRAME)
                    assert session.step_count == count

    loop_thread.run(cancel_and_go_on())


def test_nobody_there_is_told_soon_and_says_what_to_do(connected: Connect, unused_port: int) -> None:
    remote = connected(f"localhost:{unused_port}", None)
    with pytest.raises(UnavailableError) as caught:
        remote.models()
    assert caught.value.message == (
        f"no server answers at localhost:{unused_port} (connection refused). "
        f"Is it started? cellserve serve --port {unused_port}"
    )


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens: it was given out a moment ago, and given back."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_a_server_that_is_started_again(connected: Connect, loop_thread: LoopThread) -> None:
    with running_app(loop_thread) as first:
        remote = connected(first.address, None)
        cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
        session = cell.session()
        session.step(FRAME)
        before, _ = cell(FRAME[np.newaxis], cell.zero_state(1))
        loop_thread.run(first.app.drain())
    with ThreadPoolExecutor(1) as pool:
        # It is called while nobody is there, and answered by the second server, which makes the model anew.
        called = threading.Event()

        def call() -> Array:
            called.set()
            output: Array = cell.call(FRAME[np.newaxis], cell.zero_state(1), timeout_s=RESTART_S)[0]
            return output

        after = pool.submit(call)
        called.wait()
        with running_app(loop_thread, replace(TEST_CONFIG, port=first.app.port)) as second:
            assert_close(after.result(), before)
            with pytest.raises(SessionNotFoundError, match=session.id):
                session.step(FRAME)
            loop_thread.run(second.app.drain())


def test_a_connection_lives_as_long_as_its_cells(server_address: str) -> None:
    cell = connect(server_address).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    gc.collect()
    session = cell.session()
    del cell
    gc.collect()
    session.step(FRAME)
    session.close()


def test_a_connection_that_nobody_holds_is_closed(server_address: str) -> None:
    before = set(threading.enumerate())
    remote = connect(server_address)
    assert remote.models() is not None
    (thread,) = (one for one in set(threading.enumerate()) - before if one.name == f"cellserve {server_address}")
    del remote
    gc.collect()
    thread.join(WAIT_S)
    assert not thread.is_alive()
