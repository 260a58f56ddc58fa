"""The operations of an ONNX graph that only move values, or take pieces of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from cellserve_server.importers import onnx_axes, onnx_shapes
from cellserve_server.importers.onnx_file import Node
from cellserve_server.importers.onnx_inputs import Values, dims_of, first_of, ints, is_zero, passed_on
from cellserve_server.importers.onnx_values import (
    Const,
    Dims,
    FinalState,
    Flow,
    InitialState,
    Unknown,
    Value,
    Zeros,
)

Move: TypeAlias = Callable[[Node, Values, int], list[Value]]
"""Computes a node's outputs from its inputs and the version of ONNX's operators."""

_ELEMENT_TYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64", 16: "bfloat16"}


def _identity(node: Node, values: Values, opset: int) -> list[Value]:
    return [first_of(node, values)] + [Unknown("a mask of dropout")] * (len(node.outputs) - 1)


def _cast(node: Node, values: Values, opset: int) -> list[Value]:
    value = first_of(node, values)
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
    value, order = first_of(node, values), node.attributes.get("perm")
    if isinstance(value, Const):
        return [Const(np.transpose(value.array, order), value.name)]
    return [onnx_axes.transposed(node, value, order)] if isinstance(value, Flow) else [passed_on(node, value)]


def _squeeze(node: Node, values: Values, opset: int) -> list[Value]:
    value, axes = first_of(node, values), ints(node, values, "axes", 1)
    if isinstance(value, Const):
        return [Const(np.squeeze(value.array, None if axes is None else tuple(axes)), value.name)]
    if isinstance(value, Dims):
        return [Dims(value.lengths, is_scalar=True)]
    return [onnx_axes.squeezed(node, value, axes)] if isinstance(value, Flow) else [passed_on(node, value)]


def _unsqueeze(node: Node, values: Values, opset: int) -> list[Value]:
    value, axes = first_of(node, values), ints(node, values, "axes", 1) or []
    if isinstance(value, Const):
        return [Const(np.expand_dims(value.array, tuple(axes)), value.name)]
    if isinstance(value, Dims):
        return [Dims(value.lengths)]
    return [onnx_axes.unsqueezed(node, value, axes)] if isinstance(value, Flow) else [passed_on(node, value)]


def _reshape(node: Node, values: Values, opset: int) -> list[Value]:
    value = first_of(node, values)
    target = dims_of(values[1] if len(values) > 1 else None, node)
    zero_copies = not node.attributes.get("allowzero", 0)
    if isinstance(value, Const):
        shape = [length for length in target.lengths if isinstance(length, int)]
        if len(shape) != len(target.lengths):
            raise node.refuse("gives a constant a shape that the graph computes")
        shape = [value.array.shape[i] if length == 0 and zero_copies else length for i, length in enumerate(shape)]
        return [Const(value.array.reshape(shape), value.name)]
    return (
        [onnx_axes.reshaped(node, value, target, zero_copies)] if isinstance(value, Flow) else [passed_on(node, value)]
    )


def _flatten(node: Node, values: Values, opset: int) -> list[Value]:
    value, axis = first_of(node, values), int(node.attributes.get("axis", 1))
    if not isinstance(value, Flow):
        return [passed_on(node, value)]
    axis = axis if axis == len(value.axes) else onnx_axes.at(node, axis, len(value.axes))
    ends = (value.axes[:axis], value.axes[axis:])
    return [value.moved([tuple(part for each in end for part in each) for end in ends])]


def _slice(node: Node, values: Values, opset: int) -> list[Value]:
    value = first_of(node, values)
    if not isinstance(value, (Const, Flow, Dims, FinalState)):
        return [passed_on(node, value)]
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
        elif isinstance(value, FinalState):
            left = range(len(value.layers))[_python_slice(start, stop, step)]
            one = axis == 0 and len(left) == 1
            value = onnx_axes.picked_state(node, value, 0, left[0], keeps_axis=True) if one else FinalState(value.node)
        else:
            value = onnx_axes.sliced(node, value, axis, start, stop, step)
    return [value]


def _python_slice(start: int, stop: int, step: int) -> slice:
    # ONNX writes "to the beginning", going backwards, as a number far below zero; Python has None for that.
    return slice(start, None if stop < -onnx_axes.FAR + 1 else stop, step)


def _split(node: Node, values: Values, opset: int) -> list[Value]:
    value, axis, count = first_of(node, values), int(node.attributes.get("axis", 0)), len(node.outputs)
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
    return [passed_on(node, value)] * count


def _gather(node: Node, values: Values, opset: int) -> list[Value]:
    value, index = first_of(node, values), values[1] if len(values) > 1 else None
    axis = int(node.attributes.get("axis", 0))
    if isinstance(value, Const) and isinstance(index, Const):
        return [Const(np.take(value.array, index.array.astype(np.int64), axis), value.name)]
    if isinstance(value, FinalState) and isinstance(index, Const) and index.array.size == 1:
        place = int(index.array.reshape(()))
        return [onnx_axes.picked_state(node, value, axis, place, keeps_axis=index.array.ndim > 0)]
    if not isinstance(value, (Flow, Dims)):
        return [passed_on(node, value)]
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
        return [Dims(tuple(length for value in there for length in dims_of(value, node).lengths))]
    if all(isinstance(value, (Zeros, Const)) and is_zero(value) for value in there):
        return [Zeros()]
    if all(isinstance(value, (InitialState, Zeros)) for value in there):
        return [next(value for value in there if isinstance(value, InitialState))]
    flows = [value for value in there if isinstance(value, Flow)]
    if all(isinstance(value, FinalState) or (isinstance(value, Flow) and value.is_state) for value in there):
        each_first = axis == 0 and len(flows) == len(there) and all(flow.axes[:1] == ((),) for flow in flows)
        return [FinalState(node.label, tuple(flows) if each_first else ())]
    if len(flows) != len(there):
        raise node.refuse("joins values of the sequence with others, which cannot be served")
    return [onnx_axes.joined(node, flows, axis)]


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
        "Shape": onnx_shapes.shape_of,
        "Constant": onnx_shapes.constant,
        "ConstantOfShape": onnx_shapes.filled,
        "ReduceProd": onnx_shapes.reduce_prod,
        "Expand": onnx_shapes.expanded,
        "Tile": onnx_shapes.expanded,
    }
)
