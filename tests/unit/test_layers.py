"""The layers around cells, and the checks of ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, GRUCell
from cellserve.errors import FieldInvalidError
from cellserve.specs import (
    DENSE_ACTIVATIONS,
    MERGE_MODES,
    Bidirectional,
    Dense,
    Embedding,
    Standardise,
    describe,
)
from cellserve_server.cells import build_network, draw_weights
from cellserve_server.models.weights import prepare_weights
from tests.unit.model_samples import DEPTH, FLOAT32, FLOAT64, model, network_of


def test_layers_compute_what_they_say() -> None:
    description = model([Standardise(), Dense(4, "softmax")], FLOAT64)
    noise = np.random.default_rng(7)
    weights = {
        "standardise/mean": noise.normal(size=DEPTH),
        "standardise/scale": np.array([0.5, -2.0, 3.0]),
        "dense/kernel": noise.normal(size=(DEPTH, 4)),
        "dense/bias": noise.normal(size=4),
    }
    x = noise.normal(size=(6, DEPTH))
    sums = (x - weights["standardise/mean"]) / weights["standardise/scale"] @ weights["dense/kernel"]
    exps = np.exp(sums + weights["dense/bias"])
    (output,), _ = build_network(description, prepare_weights(description, weights)).step([x], [])
    np.testing.assert_allclose(output, exps / exps.sum(1, keepdims=True), rtol=1e-12)


def test_an_embedding_gives_the_rows_of_its_table() -> None:
    description = model([Embedding(5, 2)])
    table = np.arange(10, dtype=np.float32).reshape(5, 2)
    network = build_network(description, prepare_weights(description, {"embedding/embeddings": table}))
    (output,), _ = network.step([np.array([4, 0, 4], np.int32)], [])
    np.testing.assert_array_equal(output, [[8, 9], [0, 1], [8, 9]])


def test_forget_bias_is_added_to_a_copy() -> None:
    description = describe(BasicLSTMCell(2, forget_bias=3.0), DEPTH, FLOAT32)
    weights = prepare_weights(description, draw_weights(description, 0))
    build_network(description, weights)
    assert not weights["basic_lstm_cell/bias"].any()


@pytest.mark.parametrize("forget_bias", [1e300, -1e300])
def test_a_forget_bias_beyond_the_dtype_saturates(forget_bias: float) -> None:
    description = describe(BasicLSTMCell(2, forget_bias=forget_bias), DEPTH, FLOAT32)
    network = build_network(description, draw_weights(description, 0))
    c = np.full((1, 2), 0.25, np.float32)
    _, (new_c, _) = network.step([np.zeros((1, DEPTH), np.float32)], [c, np.zeros_like(c)])
    np.testing.assert_array_equal(new_c, c if forget_bias > 0 else 0 * c)


@pytest.mark.parametrize("activation", DENSE_ACTIVATIONS)
def test_a_dense_layer_applies_its_activation(activation: str) -> None:
    noise = np.random.default_rng(15)
    weights = {"dense/kernel": noise.normal(size=(DEPTH, 4)), "dense/bias": noise.normal(size=4)}
    description = model([Dense(4, activation)], FLOAT64)
    x = noise.normal(size=(6, DEPTH))
    sums = x @ weights["dense/kernel"] + weights["dense/bias"]
    want = {
        "none": sums,
        "softmax": np.exp(sums) / np.exp(sums).sum(1, keepdims=True),
        "sigmoid": 1 / (1 + np.exp(-sums)),
        "tanh": np.tanh(sums),
        "relu": np.maximum(sums, 0),
    }
    (output,), _ = build_network(description, prepare_weights(description, weights)).step([x], [])
    np.testing.assert_allclose(output, want[activation], rtol=1e-12)


def test_two_directions_merge_as_they_are_told() -> None:
    noise, lengths = np.random.default_rng(16), np.array([5, 0, 2])
    x, forward, backward = noise.normal(size=(3, 5, DEPTH)), GRUCell(4), BasicLSTMCell(4)
    outputs = {}
    for mode in MERGE_MODES:
        description = model([Bidirectional(forward, backward, mode)], FLOAT64)
        network = network_of(description)
        leaves = [np.full((3, size), 0.25) for size in network.leaf_sizes]
        (outputs[mode],), _ = network.run([x], lengths, leaves)
        assert outputs[mode].shape == (3, 5, *description.outputs[0].shape)
    left, right = np.split(outputs["concat"], 2, axis=2)
    assert not np.array_equal(left, right)
    np.testing.assert_allclose(outputs["sum"], left + right, rtol=1e-12)
    np.testing.assert_allclose(outputs["mul"], left * right, rtol=1e-12)
    np.testing.assert_allclose(outputs["average"], (left + right) / 2, rtol=1e-12)


# --- Ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([0, 5], None, r"inputs\[0\]\[1\]: expected an id from 0 to 4; got 5"),
        ([-1], None, r"inputs\[0\]\[0\]: expected an id from 0 to 4; got -1"),
        ([[0, 1], [2, 9]], None, r"inputs\[0\]\[1\]\[1\]: expected an id from 0 to 4; got 9"),
        ([[0, 9], [2, 9]], [1, 2], r"inputs\[0\]\[1\]\[1\]: expected an id from 0 to 4; got 9"),
    ],
)
def test_an_id_out_of_range_is_named(ids: Any, lengths: list[int] | None, message: str) -> None:
    network = network_of(model([Embedding(5, 2), GRUCell(2)]))
    with pytest.raises(FieldInvalidError, match=message):
        network.check_inputs([np.array(ids, np.int32)], "inputs", None if lengths is None else np.array(lengths))


def test_ids_in_the_padding_and_floats_may_be_anything() -> None:
    ids = network_of(model([Embedding(5, 2), GRUCell(2)]))
    ids.check_inputs([np.array([[0, -7], [99, 1]], np.int32)], "inputs", np.array([1, 0]))
    ids.check_inputs([np.zeros((0, 3), np.int32)], "inputs")
    network_of(model([GRUCell(2)])).check_inputs([np.full((2, DEPTH), np.nan, np.float32)], "inputs")
