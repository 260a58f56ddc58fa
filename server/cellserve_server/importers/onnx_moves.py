"""The operations of an ONNX graph that only move values, take pieces of them, or compute shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from cellserve_server.importers import onnx_axes
from cellserve_server.importers.onnx_file import Node
from cellserve_server.importers.onnx_values import (
    Const,
    Dims,
    FinalState,
    Flow,
    InitialState,
    Lengths,
    Unknown,
    Value,
    Zeros,
    length_of,
)

MAX_CONST_ELEMENTS = 1 << 27
Values: TypeAlias = Sequence[Value | None]
Move: TypeAlias = Callable[[Node, Values, int], list[Value]]
"""Computes a node's outputs from its inputs and the version of ONNX's operators."""

_ELEMENT_TYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64", 16: "bfloat16"}


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


def _identity(node: Node, values: Values, opset: int) -> list[Value]:
    return [_first(node, values)] + [Unknown("a mask of dropout")] * (len(node.outputs) - 1)


def _cast(node: Node, values: Values, opset: int) -> list[Value]:
    value = _first(node, values)
    number = int(node.attributes.get("to", 0))
    to = _ELEMENT_TYPES.get(number, f"element type {number}")
    if isinstance(value, Const):
        if number not in _ELEMENT_TYPES or to == "bfloat16":
            raise node.refuse(f"turns constants into {to}, which cannot be read")
        return [Const(value.array.astype(to), value.name)]
    if not isinstance(value, Flow) or to == value.type_name:
        return [value]
    if to in ("int32", "int64") and not value.stages:
        return [Flow(value.axes, value.stages, value.source, to)]
    raise node.refuse(f"turns {value.type_name} into {to} on the way; the model is served in one type")


def _transpose(node: Node, values: Values, opset: int) -> list[Value]:
    value, order = _first(node, values), node.attributes.get("perm")
    if isinstance(value, Const):
        return [Const(np.transpose(value.array, order), value.name)]
    return [onnx_axes.transposed(node, value, order)] if isinstance(value, Flow) else [_pass(node, value)]


def _squeeze(node: Node, values: Values, opset: int) -> list[Value]:
    value, axes = _first(node, values), ints(node, values, "axes", 1)
    if isinstance(value, Const):
        return [Const(np.squeeze(value.array, None if axes is None else tuple(axes)), value.name)]
    if isinstance(value, Dims):
        return [Dims(value.lengths, is_scalar=True)]
    return [onnx_axes.squeezed(node, value, axes)] if isinstance(value, Flow) else [_pass(node, value)]


def _unsqueeze(node: Node, values: Values, opset: int) -> list[Value]:
    value, axes = _first(node, values), ints(node, values, "axes", 1) or []
    if isinstance(value, Const):
        return [Const(np.expand_dims(value.array, tuple(axes)), value.name)]
    if isinstance(value, Dims):
        return [Dims(value.lengths)]
    return [onnx_axes.unsqueezed(node, value, axes)] if isinstance(value, Flow) else [_pass(node, value)]


def _reshape(node: Node, values: Values, opset: int) -> list[Value]:
    value = _first(node, values)
    target = _dims(values[1] if len(values) > 1 else None, node)
    zero_copies = not node.attributes.get("allowzero", 0)
    if isinstance(value, Const):
        shape = [length for length in target.lengths if isinstance(length, int)]
        if len(shape) != len(target.lengths):
            raise node.refuse("gives a constant a shape that the graph computes")
        shape = [value.array.shape[i] if length == 0 and zero_copies else length for i, length in enumerate(shape)]
        return [Const(value.array.reshape(shape), value.name)]
    return [onnx_axes.reshaped(node, value, target, zero_copies)] if isinstance(value, Flow) else [_pass(node, value)]


def _flatten(node: Node, values: Values, opset: int) -> list[Value]:
    value, axis = _first(node, values), int(node.attributes.get("axis", 1))
    if not isinstance(value, Flow):
        return [_pass(node, value)]
    axis = axis if axis == len(value.axes) else onnx_axes.at(node, axis, len(value.axes))
    ends = (value.axes[:axis], value.axes[axis:])
    return [value.moved([tuple(part for each in end for part in each) for end in ends])]


def _slice(node: Node, values: Values, opset: int) -> list[Value]:
    value = _first(node, values)
    if not isinstance(value, (Const, Flow, Dims)):
        return [_pass(node, value)]
    starts, stops = ints(node, values, "starts", 1), ints(node, values, "ends", 2)
    if starts is None or stops is None or len(starts) != len(stops):
        raise node.refuse("expected starts and ends, as many of each")
    axes = ints(node, values, "axes", 3) or list(range(len(starts)))
    steps = ints(node, values, "steps", 4) or [1] * len(starts)
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        if isinstance(value, Const):
            index: list[slice] = [slice(None)] * value.array.ndim
            index[onnx_axes.at(node, axis, value.array.ndim)] = _python_slice(start, stop, step)
            value = Const(value.array[tuple(index)], value.name)
        elif isinstance(value, Dims):
            value = Dims(value.lengths[_python_slice(start, stop, step)])
        else:
            value = onnx_axes.sliced(node, value, axis, start, stop, step)
    return [value]


def _python_slice(start: int, stop: int, step: int) -> slice:
    # ONNX writes "to the beginning", going backwards, as a number far below zero; Python has None for that.
    return slice(start, None if stop < -onnx_axes.FAR + 1 else stop, step)


def _split(node: Node, values: Values, opset: int) -> list[Value]:
    value, axis, count = _first(node, values), int(node.attributes.get("axis", 0)), len(node.outputs)
    if isinstance(value, Const):
        sizes = ints(node, values, "split", 1)
        length = value.array.shape[onnx_axes.at(node, axis, value.array.ndim)]
        if sizes is None:
            size = math.ceil(length / count)
            sizes = [min(size, length - size * index) for index in range(count)]
        if sum(sizes) != length or len(sizes) != count:
            raise node.refuse(f"expected {count} pieces of {length} together; got {sizes}")
        pieces = np.split(value.array, np.cumsum(sizes)[:-1], axis)
        return [Const(piece, value.name) for piece in pieces]
    if isinstance(value, Flow):
        sizes = ints(node, values, "split", 1) or []
        if len(set(sizes)) > 1:
            raise node.refuse(f"parts values into pieces of {sizes}; only two directions can be parted")
        return list(onnx_axes.split(node, value, axis, count))
    return [_pass(node, value)] * count


def _gather(node: Node, values: Values, opset: int) -> list[Value]:
    value, index = _first(node, values), values[1] if len(values) > 1 else None
    axis = int(node.attributes.get("axis", 0))
    if isinstance(value, Const) and isinstance(index, Const):
        return [Const(np.take(value.array, index.array.astype(np.int64), axis), value.name)]
    if not isinstance(value, (Flow, Dims)):
        return [_pass(node, value)]
    if not isinstance(index, Const) or index.array.size == 0:
        return [Unknown(f"{node.label} takes a piece that the graph computes")]
    if isinstance(value, Dims):
        chosen = [
            value.lengths[int(each)]
            for each in index.array.reshape(-1)
            if -len(value.lengths) <= each < len(value.lengths)
        ]
        return [Dims(tuple(chosen), is_scalar=index.array.ndim == 0)]
    if index.array.size != 1 or index.array.ndim > 1:
        raise node.refuse(
            f"takes elements {index.array.tolist()} of an axis; the last step, or one direction, can be served"
        )
    return [onnx_axes.picked(node, value, axis, int(index.array.reshape(())), keeps_axis=index.array.ndim == 1)]


def _concat(node: Node, values: Values, opset: int) -> list[Value]:
    axis = int(node.attributes.get("axis", 1))
    there = [value for value in values if value is not None]
    constants = [value for value in there if isinstance(value, Const)]
    if len(constants) == len(there):
        return [Const(np.concatenate([each.array for each in constants], axis), node.name)]
    if all(isinstance(value, (Const, Dims, Unknown)) for value in there):
        return [Dims(tuple(length for value in there for length in _dims(value, node).lengths))]
    if all(isinstance(value, (Zeros, Const)) and is_zero(value) for value in there):
        return [Zeros()]
    if all(isinstance(value, (InitialState, Zeros)) for value in there):
        return [next(value for value in there if isinstance(value, InitialState))]
    flows = [value for value in there if isinstance(value, Flow)]
    if all(isinstance(value, FinalState) or (isinstance(value, Flow) and value.is_state) for value in there):
        return [FinalState(node.label)]
    if len(flows) != len(there):
        raise node.refuse("joins values of the sequence with others, which cannot be served")
    return [onnx_axes.joined(node, flows, axis)]


def _shape(node: Node, values: Values, opset: int) -> list[Value]:
    value = _first(node, values)
    if isinstance(value, Const):
        lengths: tuple[int, ...] = value.array.shape
        return [Const(np.array(lengths, np.int64), node.name)]
    if not isinstance(value, Flow):
        return [Unknown("the shape of what was not followed")]
    known = [length_of(axis) for axis in value.axes]
    dims = [axis if length is None else length for axis, length in zip(value.axes, known, strict=True)]
    start, stop = node.attributes.get("start", 0), node.attributes.get("end")
    return [Dims(tuple(dims[start:stop]))]


def _constant(node: Node, values: Values, opset: int) -> list[Value]:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        given = node.attributes.get(name)
        if given is not None:
            dtype = None if name == "value" else np.float32 if "float" in name else np.int64
            return [Const(np.asarray(given, dtype), node.outputs[0] if node.outputs else node.name)]
    raise node.refuse("expected a tensor or numbers as its value")


def _filled(node: Node, values: Values, opset: int) -> list[Value]:
    """ConstantOfShape: mostly the zeros that a state begins with, of the batch's size."""
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32)))
    shape = values[0] if values else None
    if not value.any():
        return [Zeros()]
    if isinstance(shape, Const) and math.prod(int(each) for each in shape.array) <= MAX_CONST_ELEMENTS:
        return [Const(np.full(shape.array.astype(int), value.reshape(-1)[0]), node.name)]
    return [Unknown(f"{node.label} fills a tensor whose shape the graph computes")]


def _expand(node: Node, values: Values, opset: int) -> list[Value]:
    """Expand, Tile: of zeros they make zeros."""
    value = _first(node, values)
    if isinstance(value, (Zeros, Const)) and is_zero(value):
        return [Zeros()]
    if isinstance(value, Const):
        return [Unknown(f"{node.label} repeats a constant")]
    if isinstance(value, Flow):
        raise node.refuse("repeats values of the sequence, which cannot be served")
    return [value]


def is_zero(value: Value) -> bool:
    """Whether a value is known to be all zeros."""
    return isinstance(value, Zeros) or (
        isinstance(value, Const) and value.array.dtype.kind in "fiu" and not value.array.any()
    )


def _first(node: Node, values: Values) -> Value:
    if not values or values[0] is None:
        raise node.refuse("expected an input; it has none")
    return values[0]


def _pass(node: Node, value: Value) -> Value:
    if isinstance(value, (Zeros, InitialState, FinalState, Lengths, Unknown)):
        return value
    raise node.refuse("cannot be followed here")


def _dims(value: Value | None, node: Node) -> Dims:
    if isinstance(value, Dims):
        return value
    if isinstance(value, Const):
        return Dims(tuple(int(each) for each in value.array.reshape(-1)))
    return Dims((None,))


MOVES: Mapping[str, Move] = MappingProxyType(
    {
        "Identity": _identity,
        "Dropout": _identity,
        "Cast": _cast,
        "Transpose": _transpose,
        "Squeeze": _squeeze,
        "Unsqueeze": _unsqueeze,
        "Reshape": _reshape,
        "Flatten": _flatten,
        "Slice": _slice,
        "Split": _split,
        "Gather": _gather,
        "Concat": _concat,
        "Shape": _shape,
        "Constant": _constant,
        "ConstantOfShape": _filled,
        "Expand": _expand,
        "Tile": _expand,
    }
)
