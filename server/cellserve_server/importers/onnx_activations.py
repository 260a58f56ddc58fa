"""The functions that an ONNX recurrent node names, as the cells' own, where they are exactly the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from cellserve_server.importers.onnx_file import Node


class _Function(NamedTuple):
    """Which parameters a function has by default, None: it has none; and our name for those of which we have it."""

    alpha: float | None
    beta: float | None
    names: tuple[tuple[float | None, float | None, str], ...]


# The defaults are those of the operators of these names; Affine's and ScaledTanh's, which have none, are onnxruntime's.
_FUNCTIONS: Mapping[str, _Function] = MappingProxyType(
    {
        "tanh": _Function(None, None, ((None, None, "tanh"),)),
        "sigmoid": _Function(None, None, ((None, None, "sigmoid"),)),
        "relu": _Function(None, None, ((None, None, "relu"),)),
        "softsign": _Function(None, None, ((None, None, "softsign"),)),
        "softplus": _Function(None, None, ((None, None, "softplus"),)),
        "elu": _Function(1.0, None, ((1.0, None, "elu"),)),
        "leakyrelu": _Function(0.01, None, ((0.2, None, "leaky_relu"), (0.0, None, "relu"), (1.0, None, "identity"))),
        "thresholdedrelu": _Function(1.0, None, ((0.0, None, "relu"),)),
        "hardsigmoid": _Function(0.2, 0.5, ((0.2, 0.5, "hard_sigmoid"), (1 / 6, 0.5, "hard_sigmoid_relu6"))),
        "scaledtanh": _Function(1.0, 1.0, ((1.0, 1.0, "tanh"),)),
        "affine": _Function(1.0, 0.0, ((1.0, 0.0, "identity"),)),
    }
)


def activations_of(node: Node, defaults: Sequence[str], directions: int) -> list[list[str]]:
    """The functions of each direction, under our names.

    Args:
        defaults: ONNX's names of those that hold where the node names none.
        directions: how many there are.

    Raises:
        ImportRefusedError: a function, or its parameters, are none that cells have.
    """
    given = [str(name) for name in node.attributes.get("activations") or [*defaults] * directions]
    if len(given) != len(defaults) * directions:
        raise node.refuse(f"activations: expected {len(defaults) * directions}; got {len(given)}")
    # Parameters are given in the order of the functions that have any.
    alphas = [float(each) for each in node.attributes.get("activation_alpha") or []]
    betas = [float(each) for each in node.attributes.get("activation_beta") or []]
    found = []
    for name in given:
        function = _FUNCTIONS.get(name.lower())
        if function is None:
            raise node.refuse(f"activations: {name} is none of those that cells have")
        alpha = None if function.alpha is None else (alphas.pop(0) if alphas else function.alpha)
        beta = None if function.beta is None else (betas.pop(0) if betas else function.beta)
        found.append(_ours(node, name, function, alpha, beta))
    if alphas or betas:
        raise node.refuse("activation_alpha, activation_beta: more than the functions have parameters")
    return [found[start : start + len(defaults)] for start in range(0, len(found), len(defaults))]


def _ours(node: Node, name: str, function: _Function, alpha: float | None, beta: float | None) -> str:
    for known_alpha, known_beta, ours in function.names:
        if _same(alpha, known_alpha) and _same(beta, known_beta):
            return ours
    parameters = f"alpha {alpha}" + ("" if beta is None else f", beta {beta}")
    raise node.refuse(f"activations: {name} with {parameters} is none of those that cells have")


def _same(one: float | None, other: float | None) -> bool:
    # Attributes are float32: 0.2 comes as 0.20000000298.
    return one is None or (other is not None and bool(np.float32(one) == np.float32(other)))
