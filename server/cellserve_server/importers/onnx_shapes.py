"""The operations of an ONNX graph that make constants, compute shapes, or fill tensors, mostly with zeros."""

from __future__ import annotations

import math

import numpy as np

from cellserve_server.importers.onnx_file import Node
from cellserve_server.importers.onnx_inputs import Values, dims_of, first_of, is_zero, passed_on
from cellserve_server.importers.onnx_values import Axis, Const, Dims, Flow, Unknown, Value, Zeros, length_of

MAX_CONST_ELEMENTS = 1 << 27


def shape_of(node: Node, values: Values, opset: int) -> list[Value]:
    value = first_of(node, values)
    if isinstance(value, Const):
        lengths: tuple[int, ...] = value.array.shape
        return [Const(np.array(lengths, np.int64), node.name)]
    if not isinstance(value, Flow):
        return [Unknown("the shape of what was not followed")]
    known = [length_of(axis) for axis in value.axes]
    dims = [axis if length is None else length for axis, length in zip(value.axes, known, strict=True)]
    start, stop = node.attributes.get("start", 0), node.attributes.get("end")
    return [Dims(tuple(dims[start:stop]))]


def reduce_prod(node: Node, values: Values, opset: int) -> list[Value]:
    """Of lengths: how many rows a matrix has in which axes are joined."""
    value = first_of(node, values)
    if isinstance(value, Flow):
        raise node.refuse("multiplies values of the sequence with one another, which cannot be served")
    if not isinstance(value, (Const, Dims)):
        return [passed_on(node, value)]
    lengths = dims_of(value, node).lengths
    known = [length for length in lengths if isinstance(length, int)]
    axes = [length for length in lengths if isinstance(length, tuple)]
    product: int | Axis | None = math.prod(known)
    if axes:
        whole = len(axes) + len(known) == len(lengths) and product == 1
        product = tuple(part for axis in axes for part in axis) if whole else None
    return [Dims((None if None in lengths else product,), is_scalar=not node.attributes.get("keepdims", 1))]


def constant(node: Node, values: Values, opset: int) -> list[Value]:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        given = node.attributes.get(name)
        if given is not None:
            dtype = None if name == "value" else np.float32 if "float" in name else np.int64
            return [Const(np.asarray(given, dtype), node.outputs[0] if node.outputs else node.name)]
    raise node.refuse("expected a tensor or numbers as its value")


def filled(node: Node, values: Values, opset: int) -> list[Value]:
    """ConstantOfShape: mostly the zeros that a state begins with, of the batch's size."""
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32)))
    shape = values[0] if values else None
    if not value.any():
        return [_zeros_of(shape)]
    if isinstance(shape, Const) and math.prod(int(each) for each in shape.array) <= MAX_CONST_ELEMENTS:
        return [Const(np.full(shape.array.astype(int), value.reshape(-1)[0]), node.name)]
    return [Unknown(f"{node.label} fills a tensor whose shape the graph computes")]


def expanded(node: Node, values: Values, opset: int) -> list[Value]:
    """Expand, Tile: of zeros they make zeros."""
    value = first_of(node, values)
    if isinstance(value, (Zeros, Const)) and is_zero(value):
        return [_zeros_of(values[1] if node.op == "Expand" and len(values) > 1 else None)]
    if isinstance(value, Const):
        return [Unknown(f"{node.label} repeats a constant")]
    if isinstance(value, Flow):
        raise node.refuse("repeats values of the sequence, which cannot be served")
    return [value]


def _zeros_of(shape: Value | None) -> Zeros:
    if isinstance(shape, Const) and shape.array.size:
        return Zeros(int(shape.array.reshape(-1)[-1]))
    last = shape.lengths[-1] if isinstance(shape, Dims) and shape.lengths else None
    return Zeros(last if isinstance(last, int) else None)
