"""The pieces of the arithmetic: layers, wrappers, activations, and the checks of ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, GRUCell, OutputProjectionWrapper
from cellserve.errors import FieldInvalidError
from cellserve.specs import Dense, Embedding, Standardise, describe
from cellserve_server.cells import build_network, draw_weights
from cellserve_server.cells.activations import activation_for, sigmoid, softmax
from cellserve_server.weights import prepare_weights
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


def test_an_output_projection_leaves_the_state_alone() -> None:
    inner, noise = GRUCell(4), np.random.default_rng(8)
    bare, wrapped = describe(inner, DEPTH, FLOAT64), describe(OutputProjectionWrapper(inner, 2, "relu"), DEPTH, FLOAT64)
    weights = {name: array + noise.normal(0, 0.1, array.shape) for name, array in draw_weights(bare, 0).items()}
    kernel, bias = noise.normal(size=(4, 2)), noise.normal(size=2)
    scoped = {f"output_projection_wrapper/{name}": array for name, array in weights.items()}
    scoped |= {"output_projection_wrapper/kernel": kernel, "output_projection_wrapper/bias": bias}
    x, h = noise.normal(size=(3, DEPTH)), noise.normal(size=(3, 4))
    (output,), (new_h,) = build_network(bare, prepare_weights(bare, weights)).step([x], [h])
    (projected,), (same_h,) = build_network(wrapped, prepare_weights(wrapped, scoped)).step([x], [h])
    np.testing.assert_allclose(projected, np.maximum(output @ kernel + bias, 0), rtol=1e-12)
    np.testing.assert_array_equal(same_h, new_h)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_is_right_at_both_ends_without_a_warning(dtype: type[np.floating[Any]]) -> None:
    x = np.array([-np.inf, -1e38, -1000, -20, 0, 20, 1000, 1e38, np.inf, np.nan], dtype)
    got = sigmoid(x, np.empty_like(x))
    np.testing.assert_array_equal(got[[0, 1, 2, 4, 6, 7, 8]], [0, 0, 0, 0.5, 1, 1, 1])
    np.testing.assert_allclose(got[[3, 5]], [2.0611536e-9, 1 - 2.0611536e-9], rtol=1e-6)
    assert np.isnan(got[9])


@pytest.mark.parametrize("name", ["tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_work_in_place_on_some_columns(name: str, dtype: type[np.floating[Any]]) -> None:
    # Gates are columns of one array; numpy's own SIMD loops were wrong for some strides (np.negative, numpy 2.4.6).
    noise, function = np.random.default_rng(9), activation_for(name)
    for width in range(1, 20):
        for columns in range(1, min(width, 3) + 1):
            whole = noise.normal(size=(5, width)).astype(dtype)
            want = whole.copy()
            want[:, -columns:] = function(whole[:, -columns:].copy(), np.empty((5, columns), dtype))
            part = whole[:, -columns:]
            function(part, part)
            np.testing.assert_allclose(whole, want, rtol=1e-6)


def test_softmax_of_large_sums_is_finite() -> None:
    x = np.array([[1e38, 1e38, -1e38], [1000, 999, 0]], np.float32)
    got = softmax(x, np.empty_like(x))
    np.testing.assert_allclose(got, [[0.5, 0.5, 0], [0.7310586, 0.26894143, 0]], rtol=1e-6)


@pytest.mark.parametrize(("name", "want"), [("relu", [0.0, 0.5]), ("identity", [-1.0, 0.5]), ("none", [-1.0, 0.5])])
def test_activations_write_where_they_are_told(name: str, want: list[float]) -> None:
    x, out = np.array([-1.0, 0.5]), np.empty(2)
    assert activation_for(name)(x, out) is out
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(x, [-1.0, 0.5])


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
