"""Cells that clients describe, and models that the server has, by both clients against a real server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.errors import (
    DtypeMismatchError,
    FieldInvalidError,
    InvalidArgumentError,
    ModelNotFoundError,
    ModelNotSteppableError,
    ShapeMismatchError,
)
from cellserve.states import LSTMStateTuple
from cellserve.tensors import Array
from cellserve_client import Server, rnn
from tests.clocks import ManualClock
from tests.integration.client.helpers import (
    DEPTH,
    ROWS,
    TOLERANCE,
    UNITS,
    Connect,
    assert_close,
    reference,
)
from tests.integration.edges import bidirectional_spec, letters_spec
from tests.servers import RunningApp, define_spec


def test_weights_by_tensorflows_names(remote: Server, frames: Array) -> None:
    kernel = np.random.default_rng(1).standard_normal((DEPTH + UNITS, UNITS)).astype(np.float32)
    bias = np.full(UNITS, 0.5, np.float32)
    cell = remote.cell(
        rnn.BasicRNNCell(UNITS), weights={"rnn/basic_rnn_cell/kernel": kernel, "rnn/basic_rnn_cell/bias": bias}
    )
    assert cell.info is not None, "the weights tell the width: it is made at once"
    inputs, state = frames[:, 0], np.full((ROWS, UNITS), 0.25, np.float32)
    output, _ = cell.call(inputs, state)
    assert_close(output, np.tanh(np.einsum("bi,ij->bj", np.hstack([inputs, state]), kernel) + bias))


def test_seeds_give_the_same_weights_again(remote: Server, frames: Array) -> None:
    outputs = [
        remote.cell(rnn.BasicRNNCell(UNITS), seed=seed)(frames[:, 0], np.zeros((ROWS, UNITS), np.float32))[0]
        for seed in (4, 4, 5, None, 0)
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.any(outputs[0] != outputs[2])
    np.testing.assert_array_equal(outputs[3], outputs[4])


def test_a_cell_is_built_at_its_first_inputs_and_for_their_width(remote: Server, frames: Array) -> None:
    cell: Any = remote.cell(rnn.GRUCell(UNITS))
    assert cell.info is None
    assert cell.input_size is None
    with pytest.raises(FieldInvalidError, match="input_size: expected it to be known before a session begins"):
        cell.session()
    with pytest.raises(ShapeMismatchError, match=r"expected shape \[batch, input_size\]; got \[3\]"):
        cell.call(frames[0, 0], cell.zero_state(1))
    cell.call(frames[:, 0], cell.zero_state(ROWS))
    assert cell.input_size == DEPTH
    with pytest.raises(ValueError, match=r"expected shape \[batch, 3\]; got \[2, 2\]"):
        cell.call(frames[:, 0, :2], cell.zero_state(ROWS))
    with pytest.raises(ShapeMismatchError, match="expected width 3, for which it is built; got 2"):
        cell.build(2)
    with cell.session() as session:
        assert session.step(frames[0, 0]).shape == (UNITS,)


def test_build_takes_a_shape_as_tensorflow_does(remote: Server, frames: Array) -> None:
    cell: Any = remote.cell(rnn.BasicRNNCell(UNITS))
    info = cell.build(frames[:, 0].shape)
    assert info.inputs[0].shape == (DEPTH,)
    assert info.defined


def test_an_input_size_beside_weights_has_to_be_theirs(remote: Server) -> None:
    weights = {"basic_rnn_cell/kernel": np.zeros((5, 2), np.float32), "basic_rnn_cell/bias": np.zeros(2, np.float32)}
    with pytest.raises(FieldInvalidError, match="input_size: expected 3, for which the weights are made; got 4"):
        remote.cell(rnn.BasicRNNCell(2), weights=weights, input_size=4)


def test_missing_weights_are_named(remote: Server) -> None:
    with pytest.raises(InvalidArgumentError, match="basic_rnn_cell/bias"):
        remote.cell(rnn.BasicRNNCell(2), weights={"basic_rnn_cell/kernel": np.zeros((5, 2), np.float32)})


def test_float64(remote: Server, frames: Array) -> None:
    cell = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, dtype=np.float64)
    output, state = cell(frames[:, 0].astype(np.float64), cell.zero_state(ROWS))
    assert output.dtype == state.c.dtype == np.float64
    with pytest.raises(DtypeMismatchError, match="inputs: expected float64; got float32"):
        cell(frames[:, 0], cell.zero_state(ROWS))


def test_weights_larger_than_a_message(remote: Server) -> None:
    cell = rnn.BasicRNNCell(700)
    random = np.random.default_rng(0)
    weights = {name: 0.01 * random.standard_normal(shape, np.float32) for name, shape, _ in cell.variables(700)}
    made = remote.cell(cell, weights=weights)
    assert made.info is not None
    assert made.info.parameter_count == 1400 * 700 + 700


def test_models_by_name(remote: Server, lstm: Any, frames: Array) -> None:
    model: Any = remote.model(lstm.info.name)
    assert (model.name, model.version) == (lstm.info.name, lstm.info.version)
    assert model.info.digest == remote.model_info(lstm.info.name, version=model.version).digest
    assert model.state_size == LSTMStateTuple(c=UNITS, h=UNITS)
    assert repr(model.state_size) == "LSTMStateTuple(c=4, h=4)"
    assert model.output_size == UNITS
    assert model.labels == ()
    assert_close(model.call(frames[:, 0], model.zero_state(ROWS))[0], reference(lstm, frames)[0][:, 0])
    assert_close(rnn.dynamic_rnn(model, frames, dtype=np.float32)[0], reference(lstm, frames)[0])
    with remote.session(model, batch_size=ROWS) as session, remote.session(model.name) as by_name:
        assert session.model.resource_name == by_name.model.resource_name == model.info.resource_name
    assert lstm.info.name in {info.name for info in remote.models()}


def test_a_model_of_ids(connected: Connect, server: RunningApp) -> None:
    name = define_spec(server.stubs, letters_spec()).name
    remote = connected(server.address)
    model = remote.model(name)
    assert model.info.inputs[0].dtype == np.int32
    assert model.info.vocabulary_size == 5
    with remote.session(model) as session:
        one = session.step(1)
        assert session.run([0, 1, 2]).shape == (3, *one.shape)
        with pytest.raises(DtypeMismatchError, match="inputs: expected int32; got float64"):
            session.step(1.5)
        with pytest.raises(FieldInvalidError, match=r"\b5\b"):
            session.step(5)
        assert session.step_count == 4


def test_a_model_that_needs_whole_sequences(connected: Connect, server: RunningApp) -> None:
    name = define_spec(server.stubs, bidirectional_spec()).name
    model = connected(server.address).model(name)
    inputs = np.ones((2, 3, *model.info.inputs[0].shape), np.float32)
    outputs, state = rnn.dynamic_rnn(model, inputs, dtype=np.float32)
    assert outputs.shape == (2, 3, model.output_size)
    assert len(state) == 2
    with pytest.raises(ModelNotSteppableError):
        model.call(inputs[:, 0], model.zero_state(2))
    with pytest.raises(ModelNotSteppableError):
        model.session()


def test_a_model_that_expired_is_made_again(connected: Connect, server: RunningApp, clock: ManualClock) -> None:
    remote = connected(server.address)
    cell: Any = remote.cell(rnn.BasicRNNCell(UNITS), seed=9, input_size=DEPTH, ttl_s=10)
    inputs = np.ones((ROWS, DEPTH), np.float32)
    before, _ = cell(inputs, cell.zero_state(ROWS))
    for use in (
        lambda: cell(inputs, cell.zero_state(ROWS))[0],
        lambda: rnn.dynamic_rnn(cell, inputs[:, np.newaxis], dtype=np.float32)[0][:, 0],
        lambda: _step_once(cell, inputs),
    ):
        clock.advance(1000)
        server.loop.call(server.app.models.sweep)
        with pytest.raises(ModelNotFoundError):
            remote.model(cell.info.name)
        np.testing.assert_allclose(use(), before, atol=TOLERANCE)


def _step_once(cell: Any, inputs: Array) -> Array:
    with cell.session(batch_size=len(inputs)) as session:
        output: Array = session.step(inputs)
        return output
