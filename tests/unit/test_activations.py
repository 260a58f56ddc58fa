"""The functions that cells apply: their values, their ends, and that they write only where they are told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cellserve.cells import ACTIVATIONS
from cellserve.specs import DENSE_ACTIVATIONS
from cellserve_server.cells.activations import (
    HALF_FOR_SIGMOID,
    activation_for,
    clip_symmetric,
    constant,
    sigmoid_of_tanh,
    softmax,
)

Float = type[np.floating[Any]]
DTYPES: list[Float] = [np.float32, np.float64]
INF = math.inf

# As cell.proto has them, one number at a time, in Python's own arithmetic.
FORMULAS: dict[str, Callable[[float], float]] = {
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "identity": lambda x: x,
    "hard_sigmoid": lambda x: min(max(0.2 * x + 0.5, 0.0), 1.0),
    "leaky_relu": lambda x: x if x >= 0 else 0.2 * x,
    "hard_sigmoid_relu6": lambda x: min(max(x + 3, 0.0), 6.0) / 6,
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "elu": lambda x: x if x >= 0 else math.expm1(x),
    "selu": lambda x: 1.0507009873554805 * x if x >= 0 else 1.7580993408473766 * math.expm1(x),
    "softplus": lambda x: math.log1p(math.exp(x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "exponential": math.exp,
}
LIMITS: dict[str, tuple[float, float]] = {  # At minus and plus infinity.
    "tanh": (-1, 1),
    "relu": (0, INF),
    "sigmoid": (0, 1),
    "identity": (-INF, INF),
    "hard_sigmoid": (0, 1),
    "leaky_relu": (-INF, INF),
    "hard_sigmoid_relu6": (0, 1),
    "relu6": (0, 6),
    "elu": (-1, INF),
    "selu": (-1.7580993408473766, INF),
    "softplus": (0, INF),
    "softsign": (-1, 1),
    "silu": (0, INF),
    "mish": (0, INF),
    "exponential": (0, INF),
}


def test_every_name_has_its_function() -> None:
    assert set(FORMULAS) == set(LIMITS) == set(ACTIVATIONS)
    for name in {*ACTIVATIONS, *DENSE_ACTIVATIONS}:
        assert callable(activation_for(name))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_those_of_the_formula(name: str, dtype: Float) -> None:
    x = np.concatenate([np.linspace(-30, 30, 1201), [0, 1e-6, -1e-6, 3, -3, 6, 2.5, -2.5]]).astype(dtype)
    got = activation_for(name)(x, np.empty_like(x))
    want = np.array([FORMULAS[name](float(value)) for value in x])
    assert got.dtype == dtype
    # Relative: small results have their digits too. Only what a sum rounded away (0.2 x + 0.5 near -2.5) is absolute.
    epsilon = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(got, want, rtol=8 * epsilon, atol=2 * epsilon if "hard" in name else 0)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_ends_are_limits_without_a_warning(name: str, dtype: Float) -> None:
    huge = float(np.finfo(dtype).max)
    x = np.array([-INF, -huge, -huge / 8, huge / 8, huge, INF, np.nan], dtype)
    got = activation_for(name)(x, np.empty_like(x))
    low, high = LIMITS[name]
    np.testing.assert_allclose(got[[0, 5]], np.array([low, high], dtype), rtol=1e-6)
    if math.isfinite(low):
        np.testing.assert_allclose(got[1:3], [low, low], rtol=1e-6)
    if math.isfinite(high):
        np.testing.assert_allclose(got[3:5], [high, high], rtol=1e-6)
    assert not np.isnan(got[:6]).any()
    assert np.isnan(got[6])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_work_in_place_on_some_columns(name: str, dtype: Float) -> None:
    # Gates are columns of one array; numpy's own SIMD loops were wrong for some strides (np.negative, numpy 2.4.6).
    noise, function = np.random.default_rng(9), activation_for(name)
    for width in range(1, 20):
        for columns in range(1, min(width, 3) + 1):
            whole = noise.normal(size=(5, width)).astype(dtype)
            want = whole.copy()
            want[:, -columns:] = function(whole[:, -columns:].copy(), np.empty((5, columns), dtype))
            part = whole[:, -columns:]
            assert function(part, part) is part
            np.testing.assert_allclose(whole, want, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sigmoid_of_tanh_is_the_sigmoid(dtype: Float) -> None:
    x = np.linspace(-30, 30, 1201).astype(dtype)
    got = np.tanh(x * dtype(HALF_FOR_SIGMOID))
    sigmoid_of_tanh(got)
    want = np.array([FORMULAS["sigmoid"](float(value)) for value in x])
    # Absolute: that is what it says of itself.
    np.testing.assert_allclose(got, want, rtol=0, atol=float(np.finfo(dtype).eps))
    ends = np.tanh(np.array([-INF, INF, np.nan, 0], dtype))
    sigmoid_of_tanh(ends)
    np.testing.assert_array_equal(ends, [0, 1, np.nan, 0.5])
    whole = np.random.default_rng(10).uniform(-1, 1, (3, 4, 7)).astype(dtype)
    parts = whole.copy()
    sigmoid_of_tanh(parts[:2])
    np.testing.assert_array_equal(parts, np.concatenate([whole[:2] * dtype(0.5) + dtype(0.5), whole[2:]]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_are_of_the_dtype_and_stay(dtype: Float) -> None:
    half = constant(0.5)[np.dtype(dtype)]
    assert half.dtype == dtype
    assert half == 0.5
    with pytest.raises(ValueError, match="read-only"):
        half[...] = 1


@pytest.mark.parametrize("name", [*ACTIVATIONS, "softmax", "none"])
def test_activations_write_where_they_are_told(name: str) -> None:
    x, out = np.array([[-1.0, 0.5], [7.0, 0.0]]), np.empty((2, 2))
    assert activation_for(name)(x, out) is out
    np.testing.assert_array_equal(x, [[-1.0, 0.5], [7.0, 0.0]])
    in_place = x.copy()
    activation_for(name)(in_place, in_place)
    np.testing.assert_array_equal(out, in_place)


def test_softmax_of_large_sums_is_finite() -> None:
    x = np.array([[1e38, 1e38, -1e38], [1000, 999, 0]], np.float32)
    got = softmax(x, np.empty_like(x))
    np.testing.assert_allclose(got, [[0.5, 0.5, 0], [0.7310586, 0.26894143, 0]], rtol=1e-6)


def test_clipping_is_in_place_and_keeps_nan() -> None:
    x = np.array([-3.0, -0.5, np.nan, 0.5, INF])
    clip_symmetric(x, 1.0)
    np.testing.assert_array_equal(x, [-1.0, -0.5, np.nan, 0.5, 1.0])
    clip_symmetric(x, 0.0)
    np.testing.assert_array_equal(x, [0, 0, np.nan, 0, 0])
