"""The functions that cells apply. All write into ``out``, which may be ``x`` itself; NaN stays NaN, in its place.

None overflows on the way to a finite result, and none warns. At the infinities each gives its limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from cellserve.tensors import Array

Activation: TypeAlias = Callable[[Array, Array], Array]

# Klambauer and others 2017, "Self-Normalizing Neural Networks": the scale, and alpha times the scale.
_SELU_SCALE = 1.0507009873554805
_SELU_SCALE_ALPHA = 1.7580993408473766
_LEAKY_SLOPE = 0.2
HALF_FOR_SIGMOID = 0.5
"""What ``sigmoid_of_tanh`` wants the sums to have been multiplied by, before ``tanh``.

In a kernel that costs nothing, and in binary floating point it changes no digit.
"""


def constant(value: float) -> Mapping[np.dtype[Any], Array]:
    """A number as an array of no dimensions for each dtype; they are read-only.

    numpy makes an array of a Python number at each call, which for one row takes as long as the arithmetic.
    """
    arrays = {np.dtype(dtype): np.array(value, dtype) for dtype in (np.float32, np.float64)}
    for array in arrays.values():
        array.flags.writeable = False
    return MappingProxyType(arrays)


_HALF = constant(0.5)


def tanh(x: Array, out: Array) -> Array:
    """The hyperbolic tangent."""
    return np.tanh(x, out=out)


def relu(x: Array, out: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0, out=out)


def sigmoid(x: Array, out: Array) -> Array:
    """The logistic function 1 / (1 + exp(-x)), exact at both ends.

    Far below zero exp(-x) is infinite, and 1 / inf is the right answer, 0. Hence the form without a case for each
    sign: it is accurate relative to the result everywhere and the flag of that overflow means nothing.
    """
    _one_plus_exp_minus(x, out)
    return np.divide(1, out, out=out)


def sigmoid_of_tanh(tanh_of_half: Array) -> None:
    """``sigmoid(x)``, in place, where ``tanh(x / 2)`` stands: it is ``tanh(x / 2) / 2 + 1 / 2``.

    One pass of tanh can serve a cell's sigmoids and tangents together. Next to 1 it is as exact as ``sigmoid``; next to
    0 its error is that of next to 1 (6e-8 in float32), while ``sigmoid`` has all digits there.
    """
    half = _HALF[tanh_of_half.dtype]
    np.multiply(tanh_of_half, half, tanh_of_half)
    np.add(tanh_of_half, half, tanh_of_half)


def _one_plus_exp_minus(x: Array, out: Array) -> Array:
    """1 + exp(-x); infinite where exp(-x) is more than the dtype can hold."""
    with np.errstate(over="ignore"):
        # Not np.negative: numpy 2.4's AVX code for it goes wrong in place on a column of every fourth float.
        np.multiply(x, -1, out=out)
        np.exp(out, out=out)
    return np.add(out, 1, out=out)


def identity(x: Array, out: Array) -> Array:
    """x itself; TensorFlow calls it linear."""
    if out is not x:
        out[...] = x
    return out


def hard_sigmoid(x: Array, out: Array) -> Array:
    """min(max(0.2 x + 0.5, 0), 1): Keras 1 and 2, TensorFlow, ONNX."""
    np.multiply(x, 0.2, out=out)
    np.add(out, 0.5, out=out)
    return np.clip(out, 0, 1, out=out)


def hard_sigmoid_relu6(x: Array, out: Array) -> Array:
    """min(max(x + 3, 0), 6) / 6: PyTorch, and what Keras 3 calls hard_sigmoid."""
    np.add(x, 3, out=out)
    np.clip(out, 0, 6, out=out)
    return np.divide(out, 6, out=out)


def leaky_relu(x: Array, out: Array) -> Array:
    """x, and 0.2 x below 0."""
    return np.maximum(x, x * _LEAKY_SLOPE, out=out)


def relu6(x: Array, out: Array) -> Array:
    """min(max(x, 0), 6)."""
    return np.clip(x, 0, 6, out=out)


def elu(x: Array, out: Array) -> Array:
    """x, and exp(x) - 1 below 0."""
    below = np.expm1(np.minimum(x, 0))
    np.maximum(x, 0, out=out)
    return np.add(out, below, out=out)


def selu(x: Array, out: Array) -> Array:
    """1.0507009873554805 times x, and 1.7580993408473766 (exp(x) - 1) below 0."""
    below = np.expm1(np.minimum(x, 0))
    below *= _SELU_SCALE_ALPHA
    np.maximum(x, 0, out=out)
    with np.errstate(over="ignore"):  # The largest floats times the scale are infinite, rightly.
        np.multiply(out, _SELU_SCALE, out=out)
    return np.add(out, below, out=out)


def softplus(x: Array, out: Array) -> Array:
    """log(1 + exp(x)), as max(x, 0) + log(1 + exp(-|x|)): nothing overflows, and small results keep their digits."""
    rest = np.abs(x)
    rest *= -1
    np.exp(rest, out=rest)
    np.log1p(rest, out=rest)
    np.maximum(x, 0, out=out)
    return np.add(out, rest, out=out)


def softsign(x: Array, out: Array) -> Array:
    """x / (1 + |x|)."""
    bounded = _finite(x)
    below = np.abs(bounded)
    below += 1
    return np.divide(bounded, below, out=out)


def silu(x: Array, out: Array) -> Array:
    """x sigmoid(x), as x / (1 + exp(-x)); also called swish."""
    bounded = _finite_below(x)
    return np.divide(bounded, _one_plus_exp_minus(x, np.empty_like(x)), out=out)


def mish(x: Array, out: Array) -> Array:
    """x tanh(log(1 + exp(x)))."""
    factor = softplus(x, np.empty_like(x))
    np.tanh(factor, out=factor)
    return np.multiply(_finite_below(x), factor, out=out)


def exponential(x: Array, out: Array) -> Array:
    """exp(x)."""
    with np.errstate(over="ignore"):
        return np.exp(x, out=out)


def softmax(x: Array, out: Array) -> Array:
    """exp(x_i) / sum_k exp(x_k) over the last axis, shifted by each row's largest element so that exp stays finite."""
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=-1, keepdims=True)
    return out


def _finite(x: Array) -> Array:
    """x with the largest and the smallest float in place of the infinities: inf / inf would be NaN, not a limit."""
    largest = np.finfo(x.dtype).max
    bounded: Array = np.clip(x, -largest, largest)
    return bounded


def _finite_below(x: Array) -> Array:
    """x with the smallest float in place of minus infinity: times 0 that would be NaN, not a limit."""
    bounded: Array = np.maximum(x, np.finfo(x.dtype).min)
    return bounded


_ACTIVATIONS = MappingProxyType(
    {
        "tanh": tanh,
        "relu": relu,
        "sigmoid": sigmoid,
        "identity": identity,
        "hard_sigmoid": hard_sigmoid,
        "leaky_relu": leaky_relu,
        "hard_sigmoid_relu6": hard_sigmoid_relu6,
        "relu6": relu6,
        "elu": elu,
        "selu": selu,
        "softplus": softplus,
        "softsign": softsign,
        "silu": silu,
        "mish": mish,
        "exponential": exponential,
        "softmax": softmax,
        "none": identity,
    }
)


def activation_for(name: str) -> Activation:
    """The function of a name that a description may have."""
    return _ACTIVATIONS[name]


def clip_symmetric(x: Array, bound: float) -> None:
    """Bounds x to plus and minus ``bound``, in place.

    The upper bound first, as ``tf.clip_by_value`` does: it decides what a negative bound means.
    """
    np.minimum(x, bound, out=x)
    np.maximum(x, -bound, out=x)
