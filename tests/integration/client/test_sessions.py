"""Sessions by both clients against a real server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from cellserve.errors import (
    FieldInvalidError,
    SessionNotFoundError,
    StepOutOfOrderError,
)
from cellserve.states import LSTMStateTuple
from cellserve.tensors import Array
from cellserve_client import Server, rnn
from tests.integration.client.helpers import (
    DEPTH,
    ROWS,
    STEPS,
    UNITS,
    assert_close,
    reference,
)


def test_steps_of_a_session_are_calls_in_a_row(lstm: Any, frames: Array) -> None:
    outputs, state = reference(lstm, frames)
    with lstm.session(batch_size=ROWS) as session:
        for step in range(STEPS):
            assert_close(session.step(frames[:, step]), outputs[:, step])
            assert session.step_count == step + 1
        assert_close(session.state(), state)
        assert isinstance(session.state(), LSTMStateTuple)


def test_a_session_without_a_batch_size_takes_vectors(lstm: Any, frames: Array) -> None:
    outputs, state = reference(lstm, frames[:1])
    with lstm.session() as session:
        assert session.batch_size is None
        first = session.step(frames[0, 0])
        assert first.shape == (UNITS,)
        rest = session.run(frames[0, 1:])
        assert rest.shape == (STEPS - 1, UNITS)
        assert_close(np.vstack([first, rest]), outputs[0])
        assert session.state().h.shape == (1, UNITS)
        assert_close(session.state(), state)


def test_what_comes_back_is_the_callers_own(lstm: Any, frames: Array) -> None:
    with lstm.session(batch_size=ROWS) as session:
        output = session.step(frames[:, 0])
        output[:] = 0
        state = session.state()
        state.c[:] = 0
        assert np.any(session.state().c)


def test_lists_of_numbers_will_do(lstm: Any) -> None:
    with lstm.session() as session:
        assert session.step([0.1, 0.2, 0.3]).dtype == np.float32
        assert session.run([[1, 2, 3], [4, 5, 6]]).shape == (2, UNITS)


def test_run_gives_all_last_or_no_outputs(lstm: Any, frames: Array) -> None:
    outputs, state = reference(lstm, frames)
    for mode, expected in (("all", outputs), ("last", outputs[:, -1])):
        with lstm.session(batch_size=ROWS) as session:
            assert_close(session.run(frames, outputs=mode), expected)
            assert session.step_count == STEPS
            assert_close(session.state(), state)
    with lstm.session(batch_size=ROWS) as session:
        assert session.run(frames, outputs="none") is None
        assert_close(session.state(), state)


def test_run_with_lengths(lstm: Any, frames: Array) -> None:
    outputs, _ = reference(lstm, frames)
    with lstm.session(batch_size=ROWS) as session:
        found = session.run(frames, lengths=[2, 4])
        assert session.step_count == 4
        assert_close(found[0, :2], outputs[0, :2])
        assert_close(found[1, :4], outputs[1, :4])
        assert not found[0, 2:].any()
        assert not found[1, 4:].any()
        session.reset()
        assert_close(session.run(frames, [0, 99], "last"), [np.zeros(UNITS), outputs[1, -1]])


def test_lengths_of_a_session_of_vectors(lstm: Any, frames: Array) -> None:
    outputs, _ = reference(lstm, frames)
    with lstm.session() as session:
        assert_close(session.run(frames[0], 2, "last"), outputs[0, 1])
        assert session.step_count == 2


def test_an_empty_run_changes_nothing(lstm: Any, frames: Array) -> None:
    with lstm.session(batch_size=ROWS) as session:
        session.step(frames[:, 0])
        before = session.state()
        assert session.run(frames[:, :0]).shape == (ROWS, 0, UNITS)
        assert session.run(frames, lengths=[0, 0]).shape == (ROWS, STEPS, UNITS)
        assert session.step_count == 1
        assert_close(session.state(), before)


def test_a_session_begins_with_the_state_that_it_is_given(lstm: Any, frames: Array) -> None:
    outputs, _ = reference(lstm, frames)
    with lstm.session(batch_size=ROWS) as session:
        session.run(frames[:, :2])
        half_way = session.state()
    with lstm.session(batch_size=ROWS, initial_state=half_way) as session:
        assert session.step_count == 0
        assert_close(session.run(frames[:, 2:]), outputs[:, 2:])


def test_a_state_is_set_and_begins_a_new_life(lstm: Any, frames: Array) -> None:
    with lstm.session(batch_size=ROWS) as session:
        first = session.step(frames[:, 0])
        uid = session.uid
        session.set_state(lstm.zero_state(ROWS), step_count=7)
        assert session.uid != uid
        assert session.step_count == 7
        assert_close(session.step(frames[:, 0]), first)
        assert session.step_count == 8


def test_reset(lstm: Any, frames: Array) -> None:
    with lstm.session(batch_size=ROWS) as session:
        first = session.step(frames[:, 0])
        uid = session.uid
        session.reset()
        assert session.uid != uid
        assert session.step_count == 0
        assert_close(session.step(frames[:, 0]), first)


def test_fork_copies_and_the_two_go_their_ways(lstm: Any, frames: Array) -> None:
    with lstm.session(batch_size=ROWS) as session:
        session.step(frames[:, 0])
        with session.fork() as copy, session.fork("fork-" + session.id) as named:
            assert named.id == "fork-" + session.id
            assert copy.step_count == 1
            assert copy.uid != session.uid
            assert_close(copy.state(), session.state())
            copy.step(frames[:, 1])
            assert session.step_count == 1
            assert session.refresh().step_count == 1


def test_with_deletes_and_close_does_too(remote: Server, lstm: Any, frames: Array) -> None:
    with lstm.session(batch_size=ROWS) as session:
        session.step(frames[:, 0])
    with pytest.raises(SessionNotFoundError, match="deleted"):
        remote.open_session(session.id)
    session.close()
    with pytest.raises(SessionNotFoundError, match="closed by this client"):
        session.step(frames[:, 0])


def test_a_session_that_is_gone_can_be_closed(remote: Server, lstm: Any) -> None:
    with lstm.session() as session:
        remote.delete_session(session.id)


def test_detach_leaves_it_and_open_session_attaches(remote: Server, lstm: Any, frames: Array) -> None:
    with lstm.session(batch_size=ROWS, ttl_s=60) as session:
        session.step(frames[:, 0])
        before = session.state()
        assert session.detach() == session.id
    with pytest.raises(SessionNotFoundError, match="detached by this client"):
        session.step(frames[:, 0])
    with remote.open_session(session.id) as again:
        assert again.step_count == 1
        assert again.batch_size == ROWS
        assert_close(again.state(), before)
        again.step(frames[:, 1])


def test_sessions_are_listed(remote: Server) -> None:
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=4, input_size=DEPTH)
    model = cell.info.resource_name
    with ExitStack() as stack:
        ids = sorted(stack.enter_context(cell.session(batch_size=ROWS, ttl_s=90)).id for _ in range(3))
        found = remote.sessions(model=model)
        assert [info.id for info in found] == ids
        assert {(info.batch_size, info.ttl_s, info.model) for info in found} == {(ROWS, 90.0, model)}
        assert [info.id for info in remote.sessions(model=model, limit=2)] == ids[:2]
        assert remote.session_info(ids[0]) == found[0]
        assert [info.id for info in remote.sessions(model=model, id_contains=ids[1])] == [ids[1]]
        stepped = remote.open_session(ids[2])
        stepped.step(np.zeros((ROWS, DEPTH), np.float32))
        most = remote.sessions(model=model, order_by="step_count desc", limit=2)
        assert [info.step_count for info in most] == [1, 0]
        assert most[0].id == ids[2]
        assert most[0].last_used_time > most[0].create_time
        assert abs(most[1].last_used_time - most[1].create_time) < timedelta(milliseconds=1)  # They are floats.
        with pytest.raises(FieldInvalidError, match="order_by"):
            remote.sessions(order_by="speed")
    assert remote.sessions(model=model) == []


def test_another_clients_step_is_told_and_refresh_catches_up(remote: Server, lstm: Any, frames: Array) -> None:
    with lstm.session(batch_size=ROWS) as session:
        remote.open_session(session.id).step(frames[:, 0])
        with pytest.raises(StepOutOfOrderError) as caught:
            session.step(frames[:, 1])
        assert caught.value.metadata["step_count"] == "1"
        assert session.step_count == 0
        assert session.refresh().step_count == 1
        session.step(frames[:, 1])
        assert session.step_count == 2


def test_another_clients_reset_is_told_and_refresh_catches_up(remote: Server, lstm: Any, frames: Array) -> None:
    with lstm.session(batch_size=ROWS) as session:
        remote.open_session(session.id).reset()
        for operation in (lambda: session.step(frames[:, 0]), lambda: session.state(), session.reset):
            with pytest.raises(SessionNotFoundError, match="reset"):
                operation()
        session.refresh()
        session.step(frames[:, 0])


def test_calls_on_one_session_from_many_threads_all_apply(lstm: Any, frames: Array) -> None:
    with lstm.session() as session, ThreadPoolExecutor(8) as pool:
        steps = [pool.submit(session.step, frames[0, 0]) for _ in range(40)]
        assert all(step.result().shape == (UNITS,) for step in steps)
        assert session.step_count == 40
        assert session.refresh().step_count == 40
