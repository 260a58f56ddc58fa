"""The inputs of an ONNX graph's nodes, as the operations want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from cellserve_server.importers.onnx_file import Node
from cellserve_server.importers.onnx_values import (
    Const,
    Dims,
    FinalState,
    InitialState,
    Lengths,
    Unknown,
    Value,
    Zeros,
)

Values: TypeAlias = Sequence[Value | None]


def ints(node: Node, values: Values, attribute: str, position: int) -> list[int] | None:
    """Whole numbers that are an attribute in old versions and an input in new ones; None: neither is given."""
    given = node.attributes.get(attribute)
    if given is not None:
        return [int(each) for each in (given if isinstance(given, (list, tuple)) else [given])]
    value = values[position] if len(values) > position else None
    if value is None:
        return None
    if isinstance(value, Const):
        return [int(each) for each in value.array.reshape(-1)]
    if isinstance(value, Dims) and all(isinstance(length, int) for length in value.lengths):
        return [length for length in value.lengths if isinstance(length, int)]
    raise node.refuse(f"expected {attribute} to be known; the graph computes it")


def first_of(node: Node, values: Values) -> Value:
    """A node's first input; refused where there is none."""
    if not values or values[0] is None:
        raise node.refuse("expected an input; it has none")
    return values[0]


def passed_on(node: Node, value: Value) -> Value:
    """What comes of a value of which the arrangement does not matter, however it is moved."""
    if isinstance(value, Zeros):
        return Zeros()
    if isinstance(value, FinalState):
        return FinalState(value.node)
    if isinstance(value, (InitialState, Lengths, Unknown)):
        return value
    raise node.refuse("cannot be followed here")


def dims_of(value: Value | None, node: Node) -> Dims:
    """A value as lengths; one that was not followed is one open length."""
    if isinstance(value, Dims):
        return value
    if isinstance(value, Const):
        return Dims(tuple(int(each) for each in value.array.reshape(-1)))
    return Dims((None,))


def is_zero(value: Value) -> bool:
    """Whether a value is known to be all zeros."""
    return isinstance(value, Zeros) or (
        isinstance(value, Const) and value.array.dtype.kind in "fiu" and not value.array.any()
    )
