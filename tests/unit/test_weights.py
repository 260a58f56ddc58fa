"""Weights: given under TensorFlow's names, or drawn from a seed; and their digest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cellserve.cells import (
    BasicLSTMCell,
    BasicRNNCell,
    CellDescription,
    CudnnCompatibleGRUCell,
    DropoutWrapper,
    GRUCell,
    InputProjectionWrapper,
    LayerNormBasicLSTMCell,
    LSTMCell,
    MinGRUCell,
    MinLSTMCell,
    MultiRNNCell,
    OutputProjectionWrapper,
    ResidualWrapper,
)
from cellserve.errors import DtypeMismatchError, FieldInvalidError, InvalidArgumentError, ShapeMismatchError
from cellserve.specs import ArraySpec, Dense, Embedding, ModelDescription, Standardise, describe
from cellserve.tensors import Array
from cellserve_server.cells import build_network, draw_weights
from cellserve_server.models.weights import (
    MAX_SCOPE_CHARS,
    model_variables,
    parameter_count,
    prepare_weights,
    weight_bytes,
    weights_digest,
)

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
STACK = MultiRNNCell([BasicLSTMCell(4), GRUCell(3)])
RNN = describe(BasicRNNCell(4), 3, FLOAT32)
KERNEL_OF_SEED_7 = [
    [0.8151720970162406, -0.4483319863654576],
    [-0.17505721551445316, -0.2072752043960426],
    [-0.9139458813733938, 0.43080108335988515],
]


def rnn_weights(scope: str = "") -> dict[str, Array]:
    return {
        f"{scope}basic_rnn_cell/kernel": np.arange(28, dtype=np.float32).reshape(7, 4),
        f"{scope}basic_rnn_cell/bias": np.arange(4, dtype=np.float32),
    }


def classifier() -> ModelDescription:
    inputs, output = ArraySpec("features", FLOAT32, (3,)), ArraySpec("probabilities", FLOAT32, (2,))
    return ModelDescription((inputs,), (Standardise(), GRUCell(4), Dense(2, "softmax")), (output,), FLOAT32)


# --- drawn ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_seeded_weights_follow_the_recipe(seed: int, dtype: np.dtype[Any]) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))

    def glorot(rows: int, columns: int) -> Array:
        limit = math.sqrt(6 / (rows + columns))
        return ((2 * generator.random((rows, columns)) - 1) * limit).astype(dtype)

    want = {
        "multi_rnn_cell/cell_0/basic_lstm_cell/kernel": glorot(5 + 4, 16),
        "multi_rnn_cell/cell_0/basic_lstm_cell/bias": np.zeros(16, dtype),
        "multi_rnn_cell/cell_1/gru_cell/gates/kernel": glorot(4 + 3, 6),
        "multi_rnn_cell/cell_1/gru_cell/gates/bias": np.ones(6, dtype),
        "multi_rnn_cell/cell_1/gru_cell/candidate/kernel": glorot(4 + 3, 3),
        "multi_rnn_cell/cell_1/gru_cell/candidate/bias": np.zeros(3, dtype),
    }
    got = draw_weights(describe(STACK, 5, dtype), seed)
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype == dtype
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_seeded_weights_are_these_for_ever() -> None:
    kernel = draw_weights(describe(BasicRNNCell(2), 1, FLOAT64), 7)["basic_rnn_cell/kernel"]
    np.testing.assert_array_equal(kernel, KERNEL_OF_SEED_7)


def test_a_large_kernel_is_drawn_in_one_stream_within_its_bounds() -> None:
    # Larger than the blocks in which it is drawn.
    kernel = draw_weights(describe(BasicLSTMCell(128), 100, FLOAT32), 3)["basic_lstm_cell/kernel"]
    limit = math.sqrt(6 / (228 + 512))
    uniform = np.random.Generator(np.random.Philox(key=3)).random((228, 512))
    np.testing.assert_array_equal(kernel, ((2 * uniform - 1) * limit).astype(np.float32))
    assert np.abs(kernel).max() <= np.float32(limit)
    assert np.abs(kernel).max() > 0.999 * limit
    assert abs(float(kernel.mean())) < 0.01 * limit
    assert float(kernel.std()) == pytest.approx(limit / math.sqrt(3), rel=0.01)


def test_layers_around_the_cell_are_drawn_too() -> None:
    inputs = ArraySpec("ids", np.dtype(np.int32), ())
    output = ArraySpec("output", FLOAT32, (2,))
    description = ModelDescription((inputs,), (Embedding(6, 3), Standardise(), Dense(2)), (output,), FLOAT32)
    got = draw_weights(description, 5)
    assert list(got) == [
        *("embedding/embeddings", "standardise/mean", "standardise/scale", "dense/kernel", "dense/bias"),
    ]
    assert (got["standardise/mean"] == 0).all()
    assert (got["standardise/scale"] == 1).all()
    assert np.abs(got["embedding/embeddings"]).max() <= math.sqrt(6 / 9)
    prepare_weights(description, got)


def test_cells_that_share_are_drawn_once() -> None:
    cell = BasicRNNCell(4)
    shared = draw_weights(describe(MultiRNNCell([cell, cell]), 4, FLOAT32), 0)
    assert list(shared) == ["multi_rnn_cell/cell_0/basic_rnn_cell/kernel", "multi_rnn_cell/cell_0/basic_rnn_cell/bias"]


def test_a_vector_is_drawn_with_its_length_as_both_fans() -> None:
    # As TensorFlow's Glorot initializer counts the fans of a vector.
    weights = draw_weights(describe(LSTMCell(50, use_peepholes=True, num_proj=20), 5, FLOAT32), 9)
    generator = np.random.Generator(np.random.Philox(key=9))
    for name, limit in [
        ("kernel", math.sqrt(6 / (25 + 200))),
        ("w_f_diag", math.sqrt(6 / 100)),
        ("w_i_diag", math.sqrt(6 / 100)),
        ("w_o_diag", math.sqrt(6 / 100)),
        ("projection/kernel", math.sqrt(6 / (50 + 20))),
    ]:
        got = weights[f"lstm_cell/{name}"]
        want = ((2 * generator.random(got.shape) - 1) * limit).astype(np.float32)
        np.testing.assert_array_equal(got, want, err_msg=name)


def test_a_number_fills_its_variable_and_draws_nothing() -> None:
    cell = MultiRNNCell([LayerNormBasicLSTMCell(3, norm_gain=2, norm_shift=-0.5), BasicRNNCell(2)])
    weights = draw_weights(describe(cell, 4, FLOAT32), 1)
    scope = "multi_rnn_cell/cell_0/layer_norm_basic_lstm_cell"
    np.testing.assert_array_equal(weights[f"{scope}/state/gamma"], np.full(3, 2, np.float32))
    np.testing.assert_array_equal(weights[f"{scope}/input/beta"], np.full(3, -0.5, np.float32))
    assert {array.dtype for array in weights.values()} == {FLOAT32}
    without = MultiRNNCell([LayerNormBasicLSTMCell(3), BasicRNNCell(2)])
    kernel = "multi_rnn_cell/cell_1/basic_rnn_cell/kernel"
    np.testing.assert_array_equal(weights[kernel], draw_weights(describe(without, 4, FLOAT32), 1)[kernel])


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(FieldInvalidError, match="seed: expected 0 to 18446744073709551615; got"):
        draw_weights(RNN, seed)


# --- given ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["", "rnn/", "my/scope/rnn/", "basic_rnn_cell/"])
@pytest.mark.parametrize("suffix", ["", ":0"])
def test_a_common_scope_and_tensorflows_suffix_are_dropped(scope: str, suffix: str) -> None:
    given = {name + suffix: array for name, array in rnn_weights(scope).items()}
    prepared = prepare_weights(RNN, given)
    assert list(prepared) == ["basic_rnn_cell/kernel", "basic_rnn_cell/bias"]
    for name, array in rnn_weights().items():
        np.testing.assert_array_equal(prepared[name], array)


def test_prepared_weights_are_copies_in_the_right_layout() -> None:
    given = rnn_weights()
    given["basic_rnn_cell/kernel"] = np.asfortranarray(given["basic_rnn_cell/kernel"])
    given["basic_rnn_cell/bias"] = given["basic_rnn_cell/bias"].astype(">f4")
    prepared = prepare_weights(RNN, dict(reversed(given.items())))
    assert list(prepared) == ["basic_rnn_cell/kernel", "basic_rnn_cell/bias"]
    for name, array in prepared.items():
        assert array.flags.c_contiguous
        assert not array.flags.writeable
        assert array.dtype == FLOAT32
        assert not np.shares_memory(array, given[name])
        np.testing.assert_array_equal(array, given[name])


def changed(change: dict[str, Any], scope: str = "") -> dict[str, Array]:
    weights = {**rnn_weights(scope), **change}
    return {name: array for name, array in weights.items() if array is not None}


KERNEL, BIAS = "basic_rnn_cell/kernel", "basic_rnn_cell/bias"
NAN_BIAS = np.array([0, 1, np.nan, 3], np.float32)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (
            {},
            FieldInvalidError,
            "weights: expected the 2 variables of the model; got 0: missing basic_rnn_cell/kernel, ",
        ),
        (changed({BIAS: None}), FieldInvalidError, f"got 1: missing {BIAS}"),
        (changed({"rnn/" + BIAS: None}, "rnn/"), FieldInvalidError, f"got 1: missing {BIAS}"),
        (changed({"other": NAN_BIAS}), FieldInvalidError, "got 3: surplus other"),
        (changed({"rnn/" + BIAS: NAN_BIAS}), FieldInvalidError, f"got 3: surplus rnn/{BIAS}"),
        (changed({BIAS: None, "rnn/" + BIAS: NAN_BIAS}), FieldInvalidError, "surplus"),
        (changed({BIAS + ":0": NAN_BIAS}), FieldInvalidError, f"once; got both '{BIAS}' and '{BIAS}:0'"),
        (
            changed({KERNEL: np.zeros((8, 4), np.float32)}),
            ShapeMismatchError,
            r"kernel\]: expected shape \[7, 4\]; got",
        ),
        (changed({KERNEL: np.zeros((4, 7), np.float32)}), ShapeMismatchError, r"\[7, 4\]; got \[4, 7\]"),
        (
            changed({BIAS: np.zeros((1, 4), np.float32)}),
            ShapeMismatchError,
            rf"weights\[{BIAS}\]: expected shape \[4\]",
        ),
        (changed({BIAS: np.zeros(4)}), DtypeMismatchError, rf"weights\[{BIAS}\]: expected float32; got float64"),
        (changed({BIAS: np.zeros(4, np.int32)}), DtypeMismatchError, "expected float32; got int32"),
        (changed({BIAS: np.zeros(4, np.float16)}), DtypeMismatchError, "expected float32; got float16"),
        (changed({BIAS: NAN_BIAS}), FieldInvalidError, r"bias\]: expected finite numbers; got nan at \[2\]"),
        (changed({KERNEL: np.full((7, 4), -np.inf, np.float32)}), FieldInvalidError, r"got -inf at \[0, 0\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    weights: dict[str, Array], error: type[InvalidArgumentError], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare_weights(RNN, weights)


def test_float32_weights_are_refused_for_a_float64_model() -> None:
    with pytest.raises(DtypeMismatchError, match="expected float64; got float32"):
        prepare_weights(describe(BasicRNNCell(4), 3, FLOAT64), rnn_weights())


def test_a_scale_of_zero_is_refused() -> None:
    weights = {**draw_weights(classifier(), 0), "standardise/scale": np.array([1, 0, 2], np.float32)}
    with pytest.raises(FieldInvalidError, match=r"weights\[standardise/scale\]: expected no 0, .* got 0 at 1"):
        prepare_weights(classifier(), weights)


def test_many_wrong_names_make_a_short_message() -> None:
    weights = {f"{index}" + "x" * 500: NAN_BIAS for index in range(8)}
    with pytest.raises(FieldInvalidError, match="and 3 more") as caught:
        prepare_weights(RNN, weights)
    assert len(str(caught.value)) < 1800


def test_names_that_are_too_long_or_too_many_are_refused_before_they_are_compared() -> None:
    longest = len(KERNEL) + MAX_SCOPE_CHARS
    with pytest.raises(FieldInvalidError, match=f"at most {longest} characters, for this model; got {longest + 1}"):
        prepare_weights(RNN, changed({"/" * (longest + 1): NAN_BIAS}))
    with pytest.raises(FieldInvalidError, match=r"expected the 2 variables of the model; got 9$"):
        prepare_weights(RNN, {f"{index}": NAN_BIAS for index in range(9)})


def test_a_scope_may_be_made_of_many() -> None:
    assert prepare_weights(RNN, rnn_weights("a/" * (MAX_SCOPE_CHARS // 2))).keys() == {KERNEL, BIAS}


def test_a_scope_is_told_from_a_layer_of_the_model() -> None:
    inputs, output = ArraySpec("inputs", FLOAT32, (3,)), ArraySpec("output", FLOAT32, (4,))
    description = ModelDescription((inputs,), (BasicRNNCell(4), BasicRNNCell(4)), (output,), FLOAT32)
    names = [variable.name for variable in model_variables(description)]
    assert names == [KERNEL, BIAS, f"layer_1/{KERNEL}", f"layer_1/{BIAS}"]
    weights = draw_weights(description, 0)
    for scope in ("", "rnn/"):
        prepared = prepare_weights(description, {scope + name: array for name, array in weights.items()})
        np.testing.assert_array_equal(prepared[f"layer_1/{KERNEL}"], weights[f"layer_1/{KERNEL}"])


@pytest.mark.parametrize(
    "cells",
    [
        [BasicLSTMCell(2), OutputProjectionWrapper(GRUCell(2), 2), BasicRNNCell(2)],
        [LSTMCell(4, use_peepholes=True, num_proj=2), CudnnCompatibleGRUCell(2)],
        [LayerNormBasicLSTMCell(4), LayerNormBasicLSTMCell(2, layer_norm=False)],
        [InputProjectionWrapper(MinGRUCell(3), 2), MinLSTMCell(2), ResidualWrapper(DropoutWrapper(GRUCell(2)))],
    ],
)
def test_every_variable_reaches_the_arithmetic(cells: list[CellDescription]) -> None:
    """Each variable, moved alone, moves the outputs: none is mixed up with another or left out."""
    cell = MultiRNNCell(cells)
    inputs, output = ArraySpec("inputs", FLOAT64, (3,)), ArraySpec("output", FLOAT64, (2,))
    description = ModelDescription((inputs,), (Standardise(), cell, Dense(2)), (output,), FLOAT64)
    weights = draw_weights(description, 0)
    noise = np.random.default_rng(0)
    x, lengths = noise.normal(size=(2, 3, 3)), np.array([3, 3])

    def outputs(values: dict[str, Array]) -> Array:
        network = build_network(description, prepare_weights(description, values))
        return network.run([x], lengths, [np.zeros((2, size)) for size in network.leaf_sizes])[0][0]

    before = outputs(weights)
    for name, array in weights.items():
        moved = array + noise.normal(0.5, 0.1, array.shape)
        assert not np.allclose(outputs({**weights, name: moved}), before, atol=1e-6), name


# --- counted and digested ---------------------------------------------------------------------------------------------


def test_sizes_are_known_without_weights() -> None:
    description = describe(STACK, 5, FLOAT64)
    weights = draw_weights(description, 0)
    assert parameter_count(description) == sum(array.size for array in weights.values())
    assert weight_bytes(description) == sum(array.nbytes for array in weights.values())
    assert weight_bytes(describe(BasicLSTMCell(1 << 20), 1, FLOAT32)) > 2**43


def test_the_digest_is_of_the_content_alone() -> None:
    weights = draw_weights(classifier(), 0)
    digest = weights_digest(classifier(), weights)
    assert len(digest) == 64
    assert weights_digest(classifier(), dict(reversed(weights.items()))) == digest
    assert weights_digest(classifier(), prepare_weights(classifier(), weights)) == digest
    for name, array in weights.items():
        moved = array.copy()
        moved.reshape(-1)[-1] += 1
        assert weights_digest(classifier(), {**weights, name: moved}) != digest, name


def test_the_digest_tells_descriptions_apart() -> None:
    one, other = describe(BasicLSTMCell(4), 3, FLOAT32), describe(BasicLSTMCell(4, forget_bias=0.0), 3, FLOAT32)
    weights = draw_weights(one, 0)
    assert weights_digest(one, weights) != weights_digest(other, weights)
