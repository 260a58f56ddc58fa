"""The options of BasicRNNCell and the GRUs, and the minimal cells, against their formulas written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.cells import (
    BasicRNNCell,
    CellDescription,
    CudnnCompatibleGRUCell,
    GRUCell,
    MinGRUCell,
    MinLSTMCell,
)
from cellserve.specs import describe
from cellserve.tensors import Array
from cellserve_server.cells import Network, build_network, draw_weights
from cellserve_server.cells.activations import activation_for
from cellserve_server.models.weights import prepare_weights
from tests.golden_cases import framework_cases
from tests.unit.model_samples import DEPTH, FLOAT32, FLOAT64

ROWS, UNITS = 5, 6
FRAMEWORK_CASES = {case.id: case for case in framework_cases()}


def apply(name: str, x: Array) -> Array:
    return activation_for(name)(x, np.empty_like(x))


def sigmoid(x: Array) -> Array:
    return apply("sigmoid", x)


def noisy_weights(cell: CellDescription) -> dict[str, Array]:
    """Weights of which none is 0 by default, in float64."""
    noise = np.random.default_rng(21)
    return {name: noise.normal(0, 1, a.shape) for name, a in draw_weights(describe(cell, DEPTH, FLOAT64), 0).items()}


def network(cell: CellDescription, weights: dict[str, Array], dtype: np.dtype[Any] = FLOAT64) -> Network:
    description = describe(cell, DEPTH, dtype)
    return build_network(description, prepare_weights(description, weights))


def step(cell: CellDescription, weights: dict[str, Array], x: Array, h: Array) -> Array:
    (output,), (new_h,) = network(cell, weights).step([x], [h])
    np.testing.assert_array_equal(output, new_h)
    return new_h


def inputs_and_state() -> tuple[Array, Array]:
    noise = np.random.default_rng(22)
    return noise.normal(0, 1.5, (ROWS, DEPTH)), noise.normal(0, 1.5, (ROWS, UNITS))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "relu": {"activation": "relu"},
    "hard_sigmoid": {"recurrent_activation": "hard_sigmoid"},
    "clip": {"preactivation_clip": 0.5},
    "all": {"activation": "silu", "recurrent_activation": "softsign", "preactivation_clip": 1.25},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_gru_resets_before_the_product(options: dict[str, Any]) -> None:
    cell = GRUCell(UNITS, **options)
    weights, (x, h) = noisy_weights(cell), inputs_and_state()
    gates_kernel, gates_bias, kernel, bias = weights.values()
    bound, gate, candidate = bound_and_functions(cell)
    r, u = np.split(apply(gate, np.clip(np.hstack([x, h]) @ gates_kernel + gates_bias, -bound, bound)), 2, axis=1)
    c = apply(candidate, np.clip(np.hstack([x, r * h]) @ kernel + bias, -bound, bound))
    np.testing.assert_allclose(step(cell, weights, x, h), u * h + (1 - u) * c, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_cudnn_gru_resets_after_the_product(options: dict[str, Any]) -> None:
    cell = CudnnCompatibleGRUCell(UNITS, **options)
    weights, (x, h) = noisy_weights(cell), inputs_and_state()
    gates_kernel, gates_bias, from_x, from_h, bias_x, bias_h = weights.values()
    bound, gate, candidate = bound_and_functions(cell)
    r, u = np.split(apply(gate, np.clip(np.hstack([x, h]) @ gates_kernel + gates_bias, -bound, bound)), 2, axis=1)
    c = apply(candidate, np.clip(x @ from_x + bias_x + r * (h @ from_h + bias_h), -bound, bound))
    np.testing.assert_allclose(step(cell, weights, x, h), u * h + (1 - u) * c, rtol=1e-12, atol=1e-12)


def bound_and_functions(cell: GRUCell | CudnnCompatibleGRUCell) -> tuple[float, str, str]:
    bound = np.inf if cell.preactivation_clip is None else cell.preactivation_clip
    return bound, cell.recurrent_activation or "sigmoid", cell.activation or "tanh"


def test_the_cudnn_gru_gives_what_pytorchs_gru_gave() -> None:
    case = FRAMEWORK_CASES["torch_gru"]
    # PyTorch's rows are r, z, n; of its two biases the gates' add up, and n's stand apart.
    kernel_x, kernel_h = case.arrays["weight_ih_l0"].T, case.arrays["weight_hh_l0"].T
    bias_x, bias_h = case.arrays["bias_ih_l0"], case.arrays["bias_hh_l0"]
    gates = 2 * len(bias_x) // 3
    scope = "cudnn_compatible_gru_cell"
    weights = {
        f"{scope}/gates/kernel": np.vstack([kernel_x[:, :gates], kernel_h[:, :gates]]),
        f"{scope}/gates/bias": bias_x[:gates] + bias_h[:gates],
        f"{scope}/candidate/input_projection/kernel": kernel_x[:, gates:],
        f"{scope}/candidate/input_projection/bias": bias_x[gates:],
        f"{scope}/candidate/hidden_projection/kernel": kernel_h[:, gates:],
        f"{scope}/candidate/hidden_projection/bias": bias_h[gates:],
    }
    description = describe(CudnnCompatibleGRUCell(gates // 2), case.entry["input_size"], FLOAT32)
    inputs = case.arrays["inputs"]
    lengths = np.full(len(inputs), inputs.shape[1])
    (outputs,), (h,) = build_network(description, prepare_weights(description, weights)).run(
        [inputs], lengths, [case.arrays["initial_state/h"][0]]
    )
    np.testing.assert_allclose(outputs, case.arrays["outputs"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(h, case.arrays["final_state/h"][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "identity"])
def test_the_basic_cell_clips_what_goes_into_its_activation(activation: str | None) -> None:
    cell = BasicRNNCell(UNITS, activation, preactivation_clip=0.75)
    weights, (x, h) = noisy_weights(cell), inputs_and_state()
    kernel, bias = weights.values()
    want = apply(activation or "tanh", np.clip(np.hstack([x, h]) @ kernel + bias, -0.75, 0.75))
    np.testing.assert_allclose(step(cell, weights, x, h), want, rtol=1e-12)


# --- "Were RNNs All We Needed?" ---------------------------------------------------------------------------------------


def g(x: Array) -> Array:
    """The paper's g."""
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def log_g(x: Array) -> Array:
    """The paper's log g."""
    return np.where(x >= 0, np.log(np.maximum(x, 0) + 0.5), -np.logaddexp(0, -x))


def scan_in_log_space(log_coefficients: Array, log_values: Array) -> Array:
    """The paper's parallel scan of ``h_t = a_t h_{t-1} + b_t``: log a ``[T, rows, units]``; log of h_0 and the b's."""
    passed = np.concatenate([np.zeros_like(log_coefficients[:1]), np.cumsum(log_coefficients, axis=0)])
    log_h = passed + np.logaddexp.accumulate(log_values - passed, axis=0)
    h: Array = np.exp(log_h[1:])
    return h


def minimal_case(cell: CellDescription) -> tuple[list[Array], Array, Array, Array]:
    """The parts of ``x kernel + bias``, each ``[T, rows, units]``; h_0 > 0; the outputs; and the last state."""
    noise, steps = np.random.default_rng(23), 7
    weights, x, h = noisy_weights(cell), noise.normal(size=(ROWS, steps, DEPTH)), noise.uniform(0.1, 2, (ROWS, UNITS))
    kernel, bias = weights.values()
    parts = np.split((x @ kernel + bias).swapaxes(0, 1), kernel.shape[1] // UNITS, axis=2)
    (outputs,), (last,) = network(cell, weights).run([x], np.full(ROWS, steps), [h])
    return parts, h, outputs.swapaxes(0, 1), last


@pytest.mark.parametrize("linear", [False, True])
def test_the_min_gru_is_the_papers_recurrence(linear: bool) -> None:
    (k, candidate), h, outputs, last = minimal_case(MinGRUCell(UNITS, linear_candidate=linear))
    for step_k, step_candidate, output in zip(k, candidate, outputs, strict=True):
        z = sigmoid(step_k)
        h = (1 - z) * h + z * (step_candidate if linear else g(step_candidate))
        np.testing.assert_allclose(output, h, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(last, outputs[-1])


def test_the_min_gru_is_the_papers_parallel_scan() -> None:
    (k, candidate), h, outputs, _ = minimal_case(MinGRUCell(UNITS))
    log_z, log_coefficients = -np.logaddexp(0, -k), -np.logaddexp(0, k)
    values = np.concatenate([np.log(h)[np.newaxis], log_z + log_g(candidate)])
    np.testing.assert_allclose(outputs, scan_in_log_space(log_coefficients, values), rtol=1e-11)


@pytest.mark.parametrize("linear", [False, True])
def test_the_min_lstm_is_the_papers_recurrence(linear: bool) -> None:
    (f, i, candidate), h, outputs, last = minimal_case(MinLSTMCell(UNITS, linear_candidate=linear))
    for step_f, step_i, step_candidate, output in zip(f, i, candidate, outputs, strict=True):
        forget, write = sigmoid(step_f), sigmoid(step_i)
        value = step_candidate if linear else g(step_candidate)
        h = forget / (forget + write) * h + write / (forget + write) * value
        np.testing.assert_allclose(output, h, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(last, outputs[-1])


def test_the_min_lstm_is_the_papers_parallel_scan() -> None:
    (f, i, candidate), h, outputs, _ = minimal_case(MinLSTMCell(UNITS))
    difference = np.logaddexp(0, -f) - np.logaddexp(0, -i)
    log_forget, log_write = -np.logaddexp(0, difference), -np.logaddexp(0, -difference)
    values = np.concatenate([np.log(h)[np.newaxis], log_write + log_g(candidate)])
    np.testing.assert_allclose(outputs, scan_in_log_space(log_forget, values), rtol=1e-11)


@pytest.mark.parametrize(
    ("f", "i", "share"),
    [
        (-200, -200, 0.5),
        (-1000, -1000, 0.5),
        (-3e38, -3e38, 0.5),
        (-200, -201, 1 / (1 + np.exp(-1.0))),
        (-150, -300, 1),
        (-300, -150, 0),
        (200, 200, 0.5),
        (1000, -1000, 1),
        (-1000, 1000, 0),
    ],
)
def test_the_min_lstm_divides_its_gates_however_small(f: float, i: float, share: float) -> None:
    cell = MinLSTMCell(1, linear_candidate=True)
    bias = np.array([f, i, 3], np.float32)
    weights = {"min_lstm_cell/kernel": np.zeros((DEPTH, 3), np.float32), "min_lstm_cell/bias": bias}
    x, h = np.zeros((1, DEPTH), np.float32), np.full((1, 1), 2, np.float32)
    (output,), _ = network(cell, weights, FLOAT32).step([x], [h])
    np.testing.assert_allclose(output, [[2 * share + 3 * (1 - share)]], rtol=1e-6)
