"""The options of the LSTM cells, against their formulas written out and against TensorFlow's published numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, CellDescription, LayerNormBasicLSTMCell, LSTMCell, MultiRNNCell
from cellserve.specs import describe
from cellserve.tensors import Array
from cellserve_server.cells import Network, build_network, draw_weights
from cellserve_server.cells.activations import activation_for
from cellserve_server.models.weights import prepare_weights
from tests.unit.model_samples import DEPTH, FLOAT32, FLOAT64

ROWS, UNITS = 5, 6


def apply(name: str, x: Array) -> Array:
    return activation_for(name)(x, np.empty_like(x))


def noisy_weights(cell: CellDescription, depth: int = DEPTH, size: float = 0.7) -> dict[str, Array]:
    """Weights of which none is 0 by default, in float64."""
    noise = np.random.default_rng(11)
    return {name: noise.normal(0, size, a.shape) for name, a in draw_weights(describe(cell, depth, FLOAT64), 0).items()}


def network(cell: CellDescription, weights: dict[str, Array], depth: int = DEPTH) -> Network:
    description = describe(cell, depth, FLOAT64)
    return build_network(description, prepare_weights(description, weights))


def inputs_and_state(cell: LSTMCell) -> tuple[Array, Array, Array]:
    noise = np.random.default_rng(12)
    shapes = [(ROWS, DEPTH), (ROWS, cell.num_units), (ROWS, cell.output_size)]
    x, c, h = (noise.normal(0, 1.5, shape) for shape in shapes)
    return x, c, h


def written_out(cell: LSTMCell, weights: dict[str, Array], x: Array, c: Array, h: Array) -> tuple[Array, Array]:
    """c' and h' by the lines of cell.proto, one after the other."""
    plain = {name.removeprefix("lstm_cell/"): array for name, array in weights.items()}
    bound = np.inf if cell.preactivation_clip is None else cell.preactivation_clip
    gate, candidate = cell.recurrent_activation or "sigmoid", cell.activation or "tanh"
    i, j, f, o = np.split(np.hstack([x, h]) @ plain["kernel"] + plain["bias"], 4, axis=1)
    f = f + cell.forget_bias
    if cell.use_peepholes:
        i, f = i + plain["w_i_diag"] * c, f + plain["w_f_diag"] * c
    i, j, f = (np.clip(part, -bound, bound) for part in (i, j, f))
    new_c = apply(gate, f) * c + apply(gate, i) * apply(candidate, j)
    if cell.cell_clip is not None:
        new_c = np.clip(new_c, -cell.cell_clip, cell.cell_clip)
    if cell.use_peepholes:
        o = o + plain["w_o_diag"] * new_c
    m = apply(gate, np.clip(o, -bound, bound)) * apply(cell.output_activation or candidate, new_c)
    if cell.num_proj is None:
        return new_c, m
    new_h = m @ plain["projection/kernel"]
    return new_c, new_h if cell.proj_clip is None else np.clip(new_h, -cell.proj_clip, cell.proj_clip)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "forget_bias": {"forget_bias": -0.75},
    "peepholes": {"use_peepholes": True},
    "cell_clip": {"cell_clip": 0.3},
    "cell_clip_0": {"cell_clip": 0.0},
    "peepholes_cell_clip": {"use_peepholes": True, "cell_clip": 0.3},
    "projection": {"num_proj": 4},
    "projection_wider": {"num_proj": 9},
    "projection_same_width": {"num_proj": UNITS},
    "proj_clip": {"num_proj": 4, "proj_clip": 0.2},
    "proj_clip_0": {"num_proj": 4, "proj_clip": 0.0},
    "proj_clip_alone": {"proj_clip": 0.01},
    "relu": {"activation": "relu"},
    "hard_sigmoid": {"recurrent_activation": "hard_sigmoid"},
    "three_functions": {"activation": "softsign", "recurrent_activation": "tanh", "output_activation": "identity"},
    "preactivation_clip": {"preactivation_clip": 0.4},
    "preactivation_clip_peepholes": {"preactivation_clip": 0.4, "use_peepholes": True, "output_activation": "identity"},
    "all": {
        "use_peepholes": True,
        "cell_clip": 0.8,
        "num_proj": 3,
        "proj_clip": 0.5,
        "forget_bias": 0.25,
        "activation": "elu",
        "recurrent_activation": "hard_sigmoid_relu6",
        "output_activation": "softplus",
        "preactivation_clip": 1.5,
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_option_does_what_it_says(options: dict[str, Any]) -> None:
    cell = LSTMCell(UNITS, **options)
    weights = noisy_weights(cell)
    x, c, h = inputs_and_state(cell)
    want_c, want_h = written_out(cell, weights, x, c, h)
    (output,), (new_c, new_h) = network(cell, weights).step([x], [c, h])
    np.testing.assert_allclose(new_c, want_c, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(new_h, want_h, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(output, new_h)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_state_in_one_array_is_c_beside_h(options: dict[str, Any]) -> None:
    pair, single = LSTMCell(UNITS, **options), LSTMCell(UNITS, **options, state_is_tuple=False)
    weights = noisy_weights(pair)
    x, c, h = inputs_and_state(pair)
    (want,), want_leaves = network(pair, weights).step([x], [c, h])
    (output,), (both,) = network(single, weights).step([x], [np.hstack([c, h])])
    np.testing.assert_array_equal(output, want)
    np.testing.assert_array_equal(both, np.hstack(want_leaves))


def test_proj_clip_without_a_projection_does_nothing() -> None:
    bounded, free = LSTMCell(UNITS, proj_clip=0.01), LSTMCell(UNITS)
    weights = noisy_weights(free)
    x, c, h = inputs_and_state(free)
    (output,), _ = network(bounded, weights).step([x], [c, h])
    np.testing.assert_array_equal(output, network(free, weights).step([x], [c, h])[0][0])
    assert np.abs(output).max() > 0.01


def test_a_cell_clip_of_0_is_a_bound() -> None:
    cell = LSTMCell(UNITS, cell_clip=0.0)
    x, c, h = inputs_and_state(cell)
    (output,), (new_c, new_h) = network(cell, noisy_weights(cell)).step([x], [c, h])
    assert not new_c.any()
    assert not new_h.any()
    assert not output.any()


def test_a_clip_beyond_the_dtype_bounds_nothing() -> None:
    free = describe(LSTMCell(UNITS), DEPTH, FLOAT32)
    bounded = describe(LSTMCell(UNITS, cell_clip=1e300, preactivation_clip=1e300), DEPTH, FLOAT32)
    weights = draw_weights(free, 3)
    x = np.ones((2, DEPTH), np.float32)
    leaves = [np.ones((2, UNITS), np.float32)] * 2
    want, got = (build_network(model, weights).step([x], leaves) for model in (free, bounded))
    np.testing.assert_array_equal(got[0][0], want[0][0])


def test_the_preactivation_clip_leaves_the_cell_value_alone() -> None:
    # onnxruntime bounds what goes into the gates, not c' on its way into h.
    cell = LSTMCell(2, preactivation_clip=0.5, output_activation="identity")
    weights = {name: 0 * array for name, array in noisy_weights(cell).items()}
    c = np.full((1, 2), 40.0)
    (output,), _ = network(cell, weights).step([np.zeros((1, DEPTH))], [c, 0 * c])
    np.testing.assert_allclose(output, 40 / (1 + np.exp(-0.5)) / 2, rtol=1e-12)


@pytest.mark.parametrize("state_is_tuple", [True, False])
def test_the_basic_cell_is_the_cell_without_options(state_is_tuple: bool) -> None:
    basic = BasicLSTMCell(UNITS, 0.5, state_is_tuple, "relu", name="cell")
    general = LSTMCell(UNITS, forget_bias=0.5, state_is_tuple=state_is_tuple, activation="relu", name="cell")
    weights = noisy_weights(general)
    first, second = network(basic, weights), network(general, weights)
    noise = np.random.default_rng(13)
    x, leaves = noise.normal(size=(3, DEPTH)), [noise.normal(size=(3, size)) for size in first.leaf_sizes]
    want, got = first.step([x], leaves), second.step([x], leaves)
    for left, right in zip([*want[0], *want[1]], [*got[0], *got[1]], strict=True):
        np.testing.assert_array_equal(left, right)


# --- Layer normalisation ----------------------------------------------------------------------------------------------

TENTHS = [np.array([[low / 10, (low + 1) / 10]], np.float32) for low in (0, 2, 4, 6)]
SAME = [[-0.38079708, 0.38079708]]


def halves(cell: CellDescription, depth: int) -> tuple[Network, list[str]]:
    """Float32 weights as ``tf.constant_initializer(0.5)`` gives them: gamma and beta have initializers of their own."""
    description = describe(cell, depth, FLOAT32)
    drawn = draw_weights(description, 0)
    own = ("/gamma", "/beta")
    weights = {name: a if name.endswith(own) else np.full(a.shape, 0.5, np.float32) for name, a in drawn.items()}
    return build_network(description, weights), list(weights)


@pytest.mark.parametrize(
    ("layer_norm", "want"),
    [
        # The output and the state (c0, h0, c1, h1) that TensorFlow 1's own test of the cell states: testBasicLSTMCell
        # and testBasicLSTMCellWithoutNorm in contrib/rnn/python/kernel_tests/rnn_cell_test.py.
        (True, [SAME, [[-1.0, 1.0]], SAME, [[-1.0, 1.0]], SAME]),
        (
            False,
            [
                [[0.70230919, 0.72581059]],
                [[0.8020075, 0.89599884]],
                [[0.56668288, 0.60858738]],
                [[1.17500675, 1.26892781]],
                [[0.70230919, 0.72581059]],
            ],
        ),
    ],
)
def test_layer_norm_gives_tensorflows_published_numbers(layer_norm: bool, want: list[list[list[float]]]) -> None:
    stack = MultiRNNCell([LayerNormBasicLSTMCell(2, layer_norm=layer_norm) for _ in range(2)])
    cells, _ = halves(stack, 2)
    outputs, leaves = cells.step([np.ones((1, 2), np.float32)], TENTHS)
    for got, expected in zip([*outputs, *leaves], want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer_norm", "want_h", "want_c"),
    [(True, SAME, [[-1.0, 1.0]]), (False, [[0.64121795, 0.68166804]], [[0.88477188, 0.98103917]])],
)
def test_layer_norm_of_other_widths_too(layer_norm: bool, want_h: list[list[float]], want_c: list[list[float]]) -> None:
    cells, _ = halves(LayerNormBasicLSTMCell(2, layer_norm=layer_norm), 3)
    (output,), (c, h) = cells.step([np.ones((1, 3), np.float32)], TENTHS[:2])
    np.testing.assert_allclose(output, want_h, rtol=1e-5)
    np.testing.assert_allclose(c, want_c, rtol=1e-5)
    np.testing.assert_array_equal(h, output)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_layer_norm_is_its_formula(activation: str | None) -> None:
    cell = LayerNormBasicLSTMCell(UNITS, 0.5, activation=activation)
    weights = noisy_weights(cell)
    plain = {name.removeprefix("layer_norm_basic_lstm_cell/"): array for name, array in weights.items()}
    noise = np.random.default_rng(14)
    x, c, h = (noise.normal(size=(ROWS, size)) for size in (DEPTH, UNITS, UNITS))

    def norm(values: Array, part: str) -> Array:
        mean, variance = values.mean(1, keepdims=True), values.var(1, keepdims=True)
        normalised: Array = (values - mean) / np.sqrt(variance + 1e-12) * plain[f"{part}/gamma"] + plain[f"{part}/beta"]
        return normalised

    i, j, f, o = np.split(np.hstack([x, h]) @ plain["kernel"], 4, axis=1)
    i, j, f, o = norm(i, "input"), norm(j, "transform"), norm(f, "forget"), norm(o, "output")
    function = activation or "tanh"
    want_c = norm(c * apply("sigmoid", f + 0.5) + apply("sigmoid", i) * apply(function, j), "state")
    want_h = apply(function, want_c) * apply("sigmoid", o)
    (output,), (new_c, new_h) = network(cell, weights).step([x], [c, h])
    np.testing.assert_allclose(new_c, want_c, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(new_h, want_h, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(output, new_h)


def test_layer_norm_keeps_its_weights_and_has_tensorflows_names() -> None:
    cell = LayerNormBasicLSTMCell(3, forget_bias=2.0, norm_gain=0.75, norm_shift=-0.25)
    description = describe(cell, DEPTH, FLOAT32)
    weights = draw_weights(description, 0)
    parts = ("input", "transform", "forget", "output", "state")
    scope = "layer_norm_basic_lstm_cell"
    assert list(weights) == [f"{scope}/kernel", *(f"{scope}/{part}/{w}" for part in parts for w in ("gamma", "beta"))]
    build_network(description, weights)
    for part in parts:
        np.testing.assert_array_equal(weights[f"{scope}/{part}/gamma"], np.full(3, 0.75, np.float32))
        np.testing.assert_array_equal(weights[f"{scope}/{part}/beta"], np.full(3, -0.25, np.float32))
