"""The options of Keras's layers: those that change numbers are understood or refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from cellserve.specs import DENSE_ACTIVATIONS
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.keras_model import KerasLayer

# Of training, of Keras's own speed, or read elsewhere: none of them changes a served number.
_EVERYWHERE = frozenset(
    ("name", "trainable", "dtype", "batch_input_shape", "batch_shape", "seed", "implementation", "unroll", "stateful")
)
_TRAINING_SUFFIXES = ("_initializer", "_regularizer", "_constraint")

_SAME_EVERYWHERE: Mapping[str, str] = MappingProxyType(
    {
        "tanh": "tanh",
        "relu": "relu",
        "sigmoid": "sigmoid",
        "linear": "identity",
        "relu6": "relu6",
        "elu": "elu",
        "selu": "selu",
        "softplus": "softplus",
        "softsign": "softsign",
        "silu": "silu",
        "swish": "silu",
        "mish": "mish",
        "exponential": "exponential",
    }
)
ACTIVATIONS: Mapping[int, Mapping[str, str]] = MappingProxyType(
    {
        2: MappingProxyType({**_SAME_EVERYWHERE, "hard_sigmoid": "hard_sigmoid"}),
        3: MappingProxyType({**_SAME_EVERYWHERE, "hard_sigmoid": "hard_sigmoid_relu6", "leaky_relu": "leaky_relu"}),
    }
)
"""Our names for the activations of Keras 2 and Keras 3, where they have the same numbers."""


def require_known_options(layer: KerasLayer, known: Collection[str]) -> None:
    """Refuses an option that is not known, unless it is off.

    Raises:
        ImportRefusedError: there is one; it is named.
    """
    for key, value in layer.config.items():
        if key in known or key in _EVERYWHERE or key.endswith(_TRAINING_SUFFIXES) or value in (None, False):
            continue
        raise ImportRefusedError(f"{layer.name}: option {key}={repr(value)[:100]} is not known and may change numbers")


def integer(layer: KerasLayer, key: str) -> int:
    """An option that is a number of at least 1.

    Raises:
        ImportRefusedError: it is none.
    """
    value = layer.config.get(key)
    if type(value) is not int or value < 1:
        raise ImportRefusedError(f"{layer.name}: {key}: expected a number of at least 1; got {repr(value)[:100]}")
    return value


def flag(layer: KerasLayer, key: str, default: bool) -> bool:
    """An option that is on or off.

    Raises:
        ImportRefusedError: it is neither.
    """
    value = layer.config.get(key, default)
    if type(value) is not bool:
        raise ImportRefusedError(f"{layer.name}: {key}: expected true or false; got {repr(value)[:100]}")
    return value


def cell_activation(layer: KerasLayer, key: str, default: str, version: int) -> str:
    """Our name for an activation of a cell.

    Raises:
        ImportRefusedError: it is none that the server computes.
    """
    value = layer.config.get(key, default)
    names = ACTIVATIONS[version]
    name = "linear" if value is None else value
    if not isinstance(name, str) or name not in names:
        raise ImportRefusedError(
            f"{layer.name}: {key}: expected one of {', '.join(names)} (of Keras {version}); got {repr(value)[:100]}"
        )
    return names[name]


def dense_activation(layer: KerasLayer, value: Any) -> str:
    """Our name for an activation of a dense layer.

    Raises:
        ImportRefusedError: it is none that the server computes there.
    """
    name = "none" if value in (None, "linear") else value
    if not isinstance(name, str) or name not in DENSE_ACTIVATIONS:
        allowed = ", ".join("linear" if known == "none" else known for known in DENSE_ACTIVATIONS)
        raise ImportRefusedError(f"{layer.name}: activation: expected one of {allowed}; got {repr(value)[:100]}")
    return name


def policy(layer: KerasLayer) -> str:
    """The name of the dtype policy: ``float32``, ``mixed_float16``.

    Raises:
        ImportRefusedError: it is of a kind that is not known.
    """
    value = layer.config.get("dtype")
    if (
        isinstance(value, dict)
        and value.get("class_name") in ("DTypePolicy", "Policy")
        and isinstance(value.get("config"), dict)
    ):
        value = value["config"].get("name")
    if value is None:
        return "float32"
    if not isinstance(value, str):
        raise ImportRefusedError(f"{layer.name}: dtype: expected a plain policy; got {repr(value)[:100]}")
    return value
