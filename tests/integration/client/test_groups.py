"""Session groups of both clients: many sessions, one array; the same promises as for single sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cellserve.errors import (
    CellServeError,
    DeadlineExceededError,
    DtypeMismatchError,
    FieldInvalidError,
    GroupStepError,
    ModelNotSteppableError,
    QueueFullError,
    QuotaExceededError,
    SessionNotFoundError,
    ShapeMismatchError,
    StepOutOfOrderError,
    UnavailableError,
)
from cellserve.tensors import Array
from cellserve_client import Server, aio, rnn
from cellserve_server.config import ServerConfig
from tests.flaky_proxy import Loss
from tests.gates import GatedNetwork
from tests.integration.client.helpers import DEPTH, ONCE, ROWS, STEPS, TWICE, UNITS, WAIT_S, Connect, assert_close
from tests.integration.client.stream_proxy import StreamProxy
from tests.integration.edges import bidirectional_spec
from tests.integration.stream_client import IN_THREAD
from tests.servers import TEST_CONFIG, LoopThread, RunningApp, define_spec

COUNT = 6
SOON_S = 0.2


@pytest.fixture
def sequences() -> Array:
    """Inputs ``[COUNT, STEPS, DEPTH]``."""
    return np.random.default_rng(8).standard_normal((COUNT, STEPS, DEPTH)).astype(np.float32)


@pytest.fixture
def expected(lstm: Any, sequences: Array) -> Array:
    """What the members give for these, ``[COUNT, STEPS, UNITS]``."""
    outputs: Array = rnn.dynamic_rnn(lstm, sequences, dtype=np.float32)[0]
    return outputs


def test_a_group_is_many_sessions(remote: Server, lstm: Any, sequences: Array, expected: Array) -> None:
    with lstm.session_group(COUNT, ttl_s=90) as group:
        assert len(group) == COUNT
        assert group.members.tolist() == list(range(COUNT))
        for step in range(STEPS):
            outputs = group.step(sequences[:, step])
            assert_close(outputs, expected[:, step])
            outputs[:] = 0  # They are the caller's own.
        assert group.step_counts.tolist() == [STEPS] * COUNT
        ids = group.ids
        assert [remote.session_info(id_).step_count for id_ in ids] == [STEPS] * COUNT
        assert remote.session_info(ids[0]).ttl_s == 90
    for id_ in ids:
        with pytest.raises(SessionNotFoundError, match="deleted"):
            remote.session_info(id_)
    group.close()
    with pytest.raises(SessionNotFoundError, match="closed by this client"):
        group.step(sequences[:, 0])


def test_members_with_a_batch_size(remote: Server, lstm: Any, sequences: Array, expected: Array) -> None:
    pairs = sequences.reshape(COUNT // ROWS, ROWS, STEPS, DEPTH)
    with remote.session_group(lstm, COUNT // ROWS, batch_size=ROWS) as group:
        for step in range(STEPS):
            outputs = group.step(pairs[:, :, step])
            assert outputs.shape == (COUNT // ROWS, ROWS, UNITS)
            assert_close(outputs.reshape(COUNT, UNITS), expected[:, step])


def test_some_members_in_any_order(lstm: Any, sequences: Array, expected: Array) -> None:
    with lstm.session_group(COUNT) as group:
        some = [4, 1, 5]
        assert_close(group.step(sequences[some, 0], members=some), expected[some, 0])
        assert group.step_counts.tolist() == [0, 1, 0, 0, 1, 1]
        others = np.array([0, 2, 3], np.uint8)
        assert_close(group.step(sequences[others, 0], members=others), expected[others, 0])
        assert_close(group.step(sequences[:, 1]), expected[:, 1])
        assert group.step(np.zeros((0, DEPTH), np.float32), members=[]).shape == (0, UNITS)


def test_members_join_and_leave(remote: Server, lstm: Any, sequences: Array, expected: Array) -> None:
    with lstm.session_group(3) as group:
        first = group.step(sequences[:3, 0])
        assert_close(first, expected[:3, 0])
        left = group.ids[1]
        group.remove([1])
        with pytest.raises(SessionNotFoundError, match="deleted"):
            remote.session_info(left)
        assert group.members.tolist() == [0, 2]
        assert_close(group.step(sequences[[0, 2], 1]), expected[[0, 2], 1])
        with pytest.raises(FieldInvalidError, match="members: expected indices of members; got 1"):
            group.step(sequences[:1, 0], members=[1])
        assert sorted(group.add(2).tolist()) == [1, 3], "a freed index is given again"
        assert_close(group.step(sequences[[1, 3], 0], members=[1, 3]), expected[[1, 3], 0])
        assert_close(group.step(sequences[[0, 2], 2], members=[0, 2]), expected[[0, 2], 2])
        assert group.step_counts.tolist() == [3, 1, 3, 1]
        kept = group.ids[0]
        group.remove([0], delete=False)
        with remote.open_session(kept) as session:
            assert_close(session.step(sequences[0, 3]), expected[0, 3])


def test_a_group_of_sessions_that_are_there(remote: Server, lstm: Any, sequences: Array, expected: Array) -> None:
    with lstm.session() as session:
        session.step(sequences[0, 0])
        group = remote.session_group(lstm.info.name, ids=[session.id, f"{session.id}-new"])
        assert group.step_counts.tolist() == [1, 0]
        found = group.step(np.stack([sequences[0, 1], sequences[1, 0]]))
        assert_close(found, [expected[0, 1], expected[1, 0]])
        with pytest.raises(FieldInvalidError, match="no members yet"):
            group.add(ids=[session.id])
        assert group.detach() == [session.id, f"{session.id}-new"]
        with pytest.raises(SessionNotFoundError, match="detached by this client"):
            group.step(np.zeros((2, DEPTH), np.float32))
        session.refresh()
        assert_close(session.step(sequences[0, 2]), expected[0, 2])
        remote.delete_session(f"{session.id}-new")


def test_a_model_of_several_outputs_or_ids_will_do(remote: Server) -> None:
    cell: Any = remote.cell(rnn.EmbeddingWrapper(rnn.BasicRNNCell(UNITS), 5, DEPTH), seed=1)
    cell.build()
    with cell.session_group(3) as group, cell.session() as session:
        outputs = group.step(np.array([1, 2, 3], np.int32))
        assert_close(outputs[1], session.step(2))
        with pytest.raises(GroupStepError) as caught:
            group.step(np.array([1, 9, 3], np.int32))
        assert list(caught.value.errors) == [1]
        assert isinstance(caught.value.errors[1], FieldInvalidError)


@pytest.mark.parametrize(
    ("inputs", "members", "error", "message"),
    [
        (np.zeros((COUNT, DEPTH + 1), np.float32), None, ShapeMismatchError, r"expected shape \[6, 3\]; got \[6, 4\]"),
        (np.zeros((2, DEPTH), np.float32), None, ShapeMismatchError, r"expected shape \[6, 3\]; got \[2, 3\]"),
        (np.zeros((COUNT, DEPTH)), None, DtypeMismatchError, "expected float32; got float64"),
        (np.zeros((2, DEPTH), np.float32), [1, 1], FieldInvalidError, "members: expected each index once"),
        (np.zeros((2, DEPTH), np.float32), [1, 6], FieldInvalidError, "members: expected indices of members; got 6"),
        (np.zeros((2, DEPTH), np.float32), [1, -1], FieldInvalidError, "got -1"),
        (np.zeros((2, DEPTH), np.float32), [0.5, 1], DtypeMismatchError, "members: expected integers"),
        (np.zeros((1, DEPTH), np.float32), 0, ShapeMismatchError, "members: expected a vector"),
    ],
)
def test_a_bad_step_is_refused_and_moves_nothing(
    lstm: Any, inputs: Array, members: Any, error: type[CellServeError], message: str
) -> None:
    with lstm.session_group(COUNT) as group:
        with pytest.raises(error, match=message):
            group.step(inputs, members=members)
        assert group.step_counts.tolist() == [0] * COUNT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "count: expected either a count or ids"),
        ({"count": 2, "ids": ["a", "b"]}, "count: expected either a count or ids"),
        ({"count": -1}, "count: expected an integer of at least 1"),
        ({"count": True}, "count: expected an integer"),
        ({"ids": ["a", "a"]}, "ids: expected each once"),
        ({"ids": [""]}, "session_id: expected 1 to 128 characters"),
        ({"count": 1, "batch_size": 0}, "batch_size: expected an integer of at least 1"),
        ({"count": 1, "ttl_s": -1}, "ttl_s: expected seconds above 0"),
    ],
)
def test_bad_arguments_of_a_group(lstm: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldInvalidError, match=message):
        lstm.session_group(**arguments)


def test_a_model_that_cannot_be_stepped_has_no_group(connected: Connect, server: RunningApp) -> None:
    name = define_spec(server.stubs, bidirectional_spec()).name
    with pytest.raises(ModelNotSteppableError):
        connected(server.address).session_group(name, 2)


def test_when_one_cannot_join_none_does(connected: Connect, start_server: Callable[..., RunningApp]) -> None:
    config: ServerConfig = replace(TEST_CONFIG, max_sessions=4)
    remote = connected(start_server(config).address)
    cell: Any = remote.cell(rnn.BasicRNNCell(UNITS), input_size=DEPTH)
    with cell.session_group(2) as group:
        with pytest.raises(QuotaExceededError) as caught:
            group.add(3)
        assert "1 of 3 sessions could not join" in caught.value.__notes__[0]
        assert len(group) == 2
        assert group.add(2).tolist() == [2, 3], "those that had been made were deleted again"


def test_a_member_that_is_gone_is_an_error_of_its_own(remote: Server, lstm: Any, sequences: Array) -> None:
    with lstm.session_group(COUNT) as group:
        before = group.step(sequences[:, 0])
        remote.delete_session(group.ids[2])
        remote.open_session(group.ids[4]).step(sequences[4, 1])
        with pytest.raises(GroupStepError, match="2 members of the group were not stepped") as caught:
            group.step(sequences[:, 1])
        error = caught.value
        assert isinstance(error.errors[2], SessionNotFoundError)
        assert isinstance(error.errors[4], StepOutOfOrderError)
        assert error.applied.tolist() == [True, True, False, True, False, True]
        assert not error.outputs[[2, 4]].any()
        assert np.abs(error.outputs[[0, 1, 3, 5]] - before[[0, 1, 3, 5]]).max() > 0
        assert group.step_counts.tolist() == [2, 2, 1, 2, 1, 2]
        group.remove([2, 4])
        group.step(sequences[[0, 1, 3, 5], 2])


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.ANSWER, QueueFullError("full", retry_after_s=0.001)])
def test_a_step_that_is_sent_again_is_applied_once(
    connected: Connect, proxy: StreamProxy, sequences: Array, expected: Array, loss: Any
) -> None:
    cell: Any = connected(proxy.address, TWICE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session_group(COUNT) as group:
        for step in range(STEPS):
            if step in (0, 2, 3):
                proxy.plan("Step", loss)
            assert_close(group.step(sequences[:, step]), expected[:, step])
        assert group.step_counts.tolist() == [STEPS] * COUNT


@pytest.mark.parametrize(
    ("loss", "error", "applied"),
    [
        (Loss.REQUEST, UnavailableError, 0),
        (Loss.ANSWER, UnavailableError, 1),
        (Loss.REQUEST_SILENTLY, DeadlineExceededError, 0),
        (Loss.ANSWER_SILENTLY, DeadlineExceededError, 1),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_lost_step_is_settled_by_the_next(
    connected: Connect,
    proxy: StreamProxy,
    sequences: Array,
    expected: Array,
    loss: Loss,
    error: type[CellServeError],
    applied: int,
) -> None:
    cell: Any = connected(proxy.address, ONCE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session_group(COUNT) as group:
        group.step(sequences[:, 0])
        proxy.plan("Step", loss)
        with pytest.raises(error):
            group.step(sequences[:, 1], timeout_s=SOON_S if error is DeadlineExceededError else None)
        assert group.step_counts.tolist() == [1] * COUNT
        some = [0, 3]
        assert_close(group.step(sequences[some, 1 + applied], members=some), expected[some, 1 + applied])
        assert proxy.seen["GetSession"] == len(some), "only those that are to be stepped are asked about"
        others = [1, 2, 4, 5]
        assert_close(group.step(sequences[others, 1 + applied], members=others), expected[others, 1 + applied])
        assert_close(group.step(sequences[:, 2 + applied]), expected[:, 2 + applied])
        assert group.step_counts.tolist() == [3 + applied] * COUNT


def test_streams_that_are_cut_while_groups_and_sessions_step(loop_thread: LoopThread, proxy: StreamProxy) -> None:
    count, rounds = 40, 30
    inputs = np.random.default_rng(9).standard_normal((count, rounds, DEPTH)).astype(np.float32)

    async def step_and_cut() -> None:
        async with aio.connect(proxy.address, timeout_s=WAIT_S) as remote:
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            wanted, _ = await rnn.dynamic_rnn(cell, inputs, dtype=np.float32)

            async def group_steps() -> None:
                async with cell.session_group(count) as group:
                    for step in range(rounds):
                        assert_close(await group.step(inputs[:, step]), wanted[:, step])

            async def session_steps() -> None:
                async with cell.session() as session:
                    for step in range(rounds):
                        assert_close(await session.step(inputs[0, step]), wanted[0, step])

            proxy.plan("Step", *[None, None, None, Loss.ANSWER, None, None, Loss.REQUEST] * 5)
            await asyncio.gather(group_steps(), group_steps(), session_steps(), session_steps())

    loop_thread.run(step_and_cut())
    assert proxy.seen["StreamSteps"] > 5


@pytest.mark.usefixtures("impatient")
def test_a_cancelled_step_of_a_group_is_settled(loop_thread: LoopThread, proxy: StreamProxy) -> None:
    async def cancel_and_go_on() -> None:
        async with aio.connect(proxy.address) as remote:
            cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            frames = np.ones((COUNT, DEPTH), np.float32)
            async with cell.session_group(COUNT) as group:
                for loss, counts in ((None, 2), (Loss.ANSWER_SILENTLY, 4), (Loss.REQUEST_SILENTLY, 5)):
                    if loss is None:
                        await group.step(frames)
                    else:
                        proxy.plan("Step", loss)
                        step = asyncio.create_task(group.step(frames))
                        assert await asyncio.to_thread(proxy.held.acquire, timeout=WAIT_S)
                        step.cancel()
                        with pytest.raises(asyncio.CancelledError):
                            await step
                    await group.step(frames)
                    assert group.step_counts.tolist() == [counts] * COUNT

    loop_thread.run(cancel_and_go_on())


def test_steps_of_a_group_wait_for_each_other(lstm: Any, sequences: Array) -> None:
    with lstm.session_group(COUNT) as group, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: group.step(sequences[:, 0]), range(20)))
        assert group.step_counts.tolist() == [20] * COUNT


def test_a_life_that_somebody_else_began_is_not_stepped_after_a_cut(
    connected: Connect, proxy: StreamProxy, loop_thread: LoopThread, sequences: Array
) -> None:
    remote = connected(proxy.address, TWICE)
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session_group(COUNT) as group:
        group.step(sequences[:, 0])
        other = remote.open_session(group.ids[1])
        other.reset()
        loop_thread.call(proxy.cut_streams)
        with pytest.raises(GroupStepError) as caught:
            group.step(sequences[:, 1])
        assert list(caught.value.errors) == [1]
        assert other.refresh().step_count == 0
    assert other.refresh().step_count == 0, "closing the group leaves another life alone"
    other.close()


def test_a_lost_step_of_one_that_has_left_is_not_its_successors(
    connected: Connect, start_server: Callable[..., RunningApp], sequences: Array
) -> None:
    server = start_server(IN_THREAD)
    cell: Any = connected(server.address).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session_group(COUNT) as group, GatedNetwork.over(server, cell.info.resource_name) as gate:
        with pytest.raises(DeadlineExceededError):
            group.step(sequences[:, 0], timeout_s=SOON_S)
        gate.open()  # It had begun, so it is applied.
        group.remove([2])
        assert group.add(1).tolist() == [2]
        group.step(sequences[:, 1])
        assert group.step_counts.tolist() == [2, 2, 1, 2, 2, 2]


def test_who_gives_up_while_a_lost_step_is_settled_leaves_that_to_the_next(
    loop_thread: LoopThread, start_server: Callable[..., RunningApp], sequences: Array
) -> None:
    server = start_server(IN_THREAD)
    remote = aio.connect(server.address, timeout_s=WAIT_S)
    cell = loop_thread.run(remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH))
    group = loop_thread.run(cell.session_group(COUNT).open())
    assert cell.info is not None
    with GatedNetwork.over(server, cell.info.resource_name) as gate:
        first = loop_thread.begin(group.step(sequences[:, 0]))
        gate.wait_entered()
        for step in (first, loop_thread.begin(group.step(sequences[:, 0]))):
            step.cancel()
            for _ in range(10):
                loop_thread.call(lambda: None)  # The second one waits for what became of the first.
        gate.open()
        loop_thread.run(group.step(sequences[:, 1]))
        assert group.step_counts.tolist() == [2] * COUNT
    loop_thread.run(remote.close())
