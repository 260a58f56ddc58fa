"""What bad calls get: the error names the field, what was expected and what came, and nothing moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cellserve.errors import (
    DtypeMismatchError,
    FieldInvalidError,
    InvalidArgumentError,
    ModelNotFoundError,
    QuotaExceededError,
    SessionExistsError,
    SessionNotFoundError,
    ShapeMismatchError,
)
from cellserve.tensors import Array
from cellserve_client import Server, rnn
from tests.clocks import ManualClock
from tests.integration.client.helpers import (
    DEPTH,
    ROWS,
    UNITS,
    Connect,
    assert_close,
    reference,
)
from tests.servers import TEST_CONFIG, RunningApp


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (np.zeros((ROWS, DEPTH + 1), np.float32), ShapeMismatchError, r"expected shape \[2, 3\]; got \[2, 4\]"),
        (np.zeros((ROWS + 1, DEPTH), np.float32), ShapeMismatchError, r"expected shape \[2, 3\]; got \[3, 3\]"),
        (np.zeros(DEPTH, np.float32), ShapeMismatchError, r"expected shape \[2, 3\]; got \[3\]"),
        (np.zeros((ROWS, DEPTH)), DtypeMismatchError, r"float32; got float64; use \.astype\(np\.float32\)$"),
        (np.zeros((ROWS, DEPTH), np.int32), DtypeMismatchError, "inputs: expected float32; got int32"),
        (None, DtypeMismatchError, "inputs: expected float32; got object$"),
    ],
)
def test_a_bad_step_is_refused_and_moves_nothing(lstm: Any, inputs: Any, error: Any, message: str) -> None:
    with lstm.session(batch_size=ROWS) as session:
        with pytest.raises(error, match=message) as caught:
            session.step(inputs)
        assert isinstance(caught.value, ValueError)
        assert session.refresh().step_count == 0
        session.step(np.zeros((ROWS, DEPTH), np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": [1, -1]}, r"lengths\[1\]: expected 0 or more; got -1"),
        ({"lengths": [1, 2, 3]}, "lengths: expected 2 lengths"),
        ({"lengths": 3}, "must be a vector"),
        ({"outputs": "some"}, "outputs: expected one of all, last, none; got 'some'"),
    ],
)
def test_a_bad_run_is_refused(lstm: Any, frames: Array, arguments: Any, message: str) -> None:
    with lstm.session(batch_size=ROWS) as session:
        with pytest.raises(InvalidArgumentError, match=message):
            session.run(frames, **arguments)
        with pytest.raises(ShapeMismatchError, match=r"sequence: expected shape \[batch, time, 3\]; got \[2, 3\]"):
            session.run(frames[:, 0])
        assert session.refresh().step_count == 0


def test_a_bad_state_is_refused(lstm: Any) -> None:
    zero = lstm.zero_state(ROWS)
    with lstm.session(batch_size=ROWS) as session:
        for state, error, message in (
            (zero.c, ShapeMismatchError, r"state: expected a pair \(c, h\); got ndarray"),
            ((zero.c,), ShapeMismatchError, "got a tuple of 1"),
            ((zero.c, zero.h[:, :1]), ShapeMismatchError, r"state\.h: expected shape \[2, 4\]; got \[2, 1\]"),
            ((zero.c, zero.h[:1]), ShapeMismatchError, r"state\.h: expected shape \[2, 4\]; got \[1, 4\]"),
            ((zero.c, zero.h.astype(np.float64)), DtypeMismatchError, r"state\.h: expected float32; got float64"),
        ):
            with pytest.raises(error, match=message):
                session.set_state(state)
        session.step(np.zeros((ROWS, DEPTH), np.float32))
        assert session.step_count == 1


def test_nan_passes_and_stays_in_its_session(lstm: Any, frames: Array) -> None:
    with lstm.session() as poisoned, lstm.session() as clean:
        assert np.isnan(poisoned.step(np.full(DEPTH, np.nan, np.float32))).all()
        assert_close(clean.step(frames[0, 0]), reference(lstm, frames)[0][0, 0])


def test_unknown_names(remote: Server) -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        remote.model("no-such-model")
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        remote.session("no-such-model")
    with pytest.raises(SessionNotFoundError, match="no-such-session"):
        remote.open_session("no-such-session")
    with pytest.raises(SessionNotFoundError, match="no-such-session"):
        remote.delete_session("no-such-session")


def test_a_taken_id(lstm: Any) -> None:
    with lstm.session(session_id="taken") as session:
        with pytest.raises(SessionExistsError, match="taken"):
            lstm.session(session_id="taken")
        with pytest.raises(SessionExistsError, match="taken"):
            session.fork("taken")


@pytest.mark.parametrize("session_id", ["a b", "ä", "x" * 129, "", "a/b", 7])
def test_an_illegal_id(lstm: Any, session_id: Any) -> None:
    with pytest.raises(FieldInvalidError, match="session_id: expected 1 to 128"):
        lstm.session(session_id=session_id)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, or None; got 0"),
        ({"batch_size": 1.0}, "batch_size: expected an integer of at least 1"),
        ({"batch_size": 100_000}, "batch_size: expected .*100000"),
        ({"ttl_s": 0}, "ttl_s: expected seconds above 0; got 0"),
        ({"ttl_s": 1e9}, "ttl"),
        ({"timeout_s": -1}, "timeout_s: expected seconds above 0"),
    ],
)
def test_other_bad_arguments_of_a_session(lstm: Any, arguments: Any, message: str) -> None:
    with pytest.raises(FieldInvalidError, match=message):
        lstm.session(**arguments)


def test_descriptions_are_no_models(remote: Server) -> None:
    description: Any = rnn.BasicLSTMCell(3)
    with pytest.raises(FieldInvalidError, match="model: expected a name, a cell or a model of this server; got Basic"):
        remote.session(description)


def test_an_expired_session_says_so(connected: Connect, server: RunningApp, clock: ManualClock) -> None:
    cell: Any = connected(server.address).cell(rnn.BasicRNNCell(UNITS), input_size=DEPTH)
    session = cell.session(ttl_s=5)
    clock.advance(6)
    with pytest.raises(SessionNotFoundError, match="expired"):
        session.step(np.zeros(DEPTH, np.float32))
    session.close()


def test_a_quota(connected: Connect, start_server: Callable[..., RunningApp]) -> None:
    server = start_server(replace(TEST_CONFIG, max_sessions=1))
    cell: Any = connected(server.address).cell(rnn.BasicRNNCell(UNITS), input_size=DEPTH)
    with cell.session():
        began = time.monotonic()
        with pytest.raises(QuotaExceededError):
            cell.session()
        assert time.monotonic() - began < 1.0, "a quota is not waited for"


def test_a_batch_dimension_where_there_is_none_is_explained(lstm: Any, frames: Array) -> None:
    because = "; this session was made without batch_size: its inputs have no batch dimension$"
    with lstm.session() as session:
        with pytest.raises(ShapeMismatchError, match=rf"got \[1, 3\].*{because}"):
            session.step(frames[:1, 0])
        with pytest.raises(ShapeMismatchError, match=rf"sequence: expected shape \[time, 3\].*{because}"):
            session.run(frames[:1])
        with pytest.raises(ShapeMismatchError, match=r"got \[2\][^;]*$"):
            session.step(frames[0, 0, :2])
    with lstm.session(batch_size=1) as session, pytest.raises(ShapeMismatchError, match=r"got \[1, 1, 3\][^;]*$"):
        session.step(frames[:1, :1])


def test_a_closed_session_says_so_first(lstm: Any) -> None:
    session = lstm.session()
    session.close()
    uses: list[Callable[[], object]] = [
        lambda: session.step(np.zeros(DEPTH)),
        lambda: session.run(np.zeros((2, DEPTH)), outputs="some"),
        lambda: session.set_state(np.zeros(7)),
    ]
    for use in uses:
        with pytest.raises(SessionNotFoundError, match="it was closed by this client"):
            use()
