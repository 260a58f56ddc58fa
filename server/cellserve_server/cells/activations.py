"""The functions that cells apply. All write into ``out``, which may be ``x`` itself; NaN stays NaN, in its place."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from cellserve.tensors import Array

Activation: TypeAlias = Callable[[Array, Array], Array]


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
    with np.errstate(over="ignore"):
        # Not np.negative: numpy 2.4's AVX code for it goes wrong in place on a column of every fourth float.
        np.multiply(x, -1, out=out)
        np.exp(out, out=out)
    np.add(out, 1, out=out)
    return np.divide(1, out, out=out)


def softmax(x: Array, out: Array) -> Array:
    """exp(x_i) / sum_k exp(x_k) over the last axis, shifted by each row's largest element so that exp stays finite."""
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=-1, keepdims=True)
    return out


def identity(x: Array, out: Array) -> Array:
    """x itself; TensorFlow calls it linear."""
    if out is not x:
        out[...] = x
    return out


_ACTIVATIONS = MappingProxyType(
    {"tanh": tanh, "relu": relu, "sigmoid": sigmoid, "softmax": softmax, "identity": identity, "none": identity}
)


def activation_for(name: str) -> Activation:
    """The function of a name that a description may have."""
    return _ACTIVATIONS[name]
