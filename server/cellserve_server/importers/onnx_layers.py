"""The operations of an ONNX graph that compute: recurrent nodes, tables, dense layers and their functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from cellserve.specs import Dense, Embedding
from cellserve.tensors import Array
from cellserve_server.importers import onnx_axes
from cellserve_server.importers.assembly import WeightedLayer, require_finite
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.onnx_axes import axis_text
from cellserve_server.importers.onnx_file import Node
from cellserve_server.importers.onnx_inputs import Values
from cellserve_server.importers.onnx_recurrent import GATES, RecurrentNode, read_recurrent
from cellserve_server.importers.onnx_values import (
    DIRECTIONS,
    FEATURES,
    Axis,
    BothStage,
    CellStage,
    Const,
    Dims,
    FinalState,
    Flow,
    LayerStage,
    Lengths,
    Part,
    Unknown,
    Value,
    length_of,
)

FUNCTIONS: Mapping[str, str] = MappingProxyType(
    {"Softmax": "softmax", "Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu"}
)
_SOFTMAX_OF_ONE_AXIS = 13
"""The version since which Softmax is taken over one axis; before, over all from that axis on."""


class Layers:
    """Computes the nodes that are layers, and keeps what holds for the whole graph.

    Attributes:
        time, batch: which part of an axis is the time, and which the batch, once a recurrent node said so; None: that
            axis was not there or had no meaning (a graph of one step, of one row).
        bound: whether a recurrent node said so.
        type_names: the names of the dtypes of the weights that were used, by their names.
    """

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self.time: Part | None = None
        self.batch: Part | None = None
        self.bound = False
        self.type_names: dict[str, str] = {}

    def compute(self, node: Node, values: Values) -> list[Value]:
        """The outputs of a node.

        Raises:
            ImportRefusedError: the node computes what no layer does.
        """
        if node.op in GATES:
            return self._recurrent(node, values)
        if node.op == "MatMul":
            return [self._product(node, values)]
        if node.op == "Gemm":
            return [self._gemm(node, values)]
        if node.op in ("Add", "Sum", "Mul", "Div"):
            return [self._arithmetic(node, values)]
        if node.op == "Gather":
            return [self._embedding(node, values)]
        if node.op == "OneHot":
            return [self._one_hot(node, values)]
        if node.op in FUNCTIONS:
            return [self._function(node, values)]
        raise node.refuse("this operation is none that can be served")

    def _recurrent(self, node: Node, values: Values) -> list[Value]:
        flow = _flow(node, values[0] if values else None)
        lengths = values[4] if len(values) > 4 else None
        read = read_recurrent(node, values)
        self.type_names |= read.type_names
        flow = self._bind(node, flow, read)
        has_lengths = self._has_lengths(node, lengths, flow)
        cells = read.cells
        stage = (
            BothStage(cells[0], cells[1], node.label)
            if len(cells) == 2
            else CellStage(cells[0], node.label, backward=read.direction == "reverse")
        )
        directions: Axis = (Part(DIRECTIONS, 2),) if len(cells) == 2 else ()
        features = (Part(FEATURES, read.hidden_size),)
        lead = flow.axes[:2]
        outputs = replace(
            flow,
            axes=(*lead, directions, features) if read.batch_major else (lead[0], directions, lead[1], features),
            stages=(*flow.stages, stage),
            has_lengths=flow.has_lengths or has_lengths,
            type_name=cells[0].weights[min(cells[0].weights)].dtype.name,
        )
        final: Value = FinalState(node.label)
        if read.direction == "forward":
            axes: tuple[Axis, ...] = (lead[0], (), features) if read.batch_major else ((), lead[1], features)
            final = replace(outputs, axes=axes, only_last=True, is_state=True)
        return [outputs, final, FinalState(node.label)][: len(node.outputs)]

    def _has_lengths(self, node: Node, lengths: Value | None, flow: Flow) -> bool:
        if lengths is None:
            return False
        if isinstance(lengths, Lengths):
            return True
        axis = flow.axes[1 if node.attributes.get("layout", 0) else 0]
        if isinstance(lengths, Const) and bool(np.all(lengths.array == length_of(axis))):
            return False
        if isinstance(lengths, Dims) and all(length in (axis, length_of(axis)) for length in lengths.lengths):
            return False
        raise node.refuse("sequence_lens: expected an input of the graph, or all steps; got lengths that are neither")

    def _bind(self, node: Node, flow: Flow, read: RecurrentNode) -> Flow:
        """Settles what the first two axes mean; they mean the same to every recurrent node."""
        flow = with_features(flow, read.input_size)
        if len(flow.axes) != 3 or flow.features != read.input_size:
            shape = ", ".join(axis_text(axis) for axis in flow.axes)
            raise node.refuse(f"X: expected time, batch and {read.input_size} features as its axes; got {shape}")
        if flow.only_last:
            raise node.refuse("runs on the last step alone of the layers below, which cannot be served")
        if flow.half or (flow.stages and isinstance(flow.stages[-1], CellStage) and flow.stages[-1].backward):
            raise node.refuse("runs on one direction alone of the layers below, which cannot be served")
        first, second = (1, 0) if read.batch_major else (0, 1)
        time, batch = (self._single(node, flow.axes[index]) for index in (first, second))
        if self.bound and (time, batch) != (self.time, self.batch):
            raise node.refuse("runs along another axis than the recurrent nodes before it")
        self.time, self.batch, self.bound = time, batch, True
        return flow

    def _single(self, node: Node, axis: Axis) -> Part | None:
        if len(axis) > 1 or (axis and axis[0].meaning in (FEATURES, DIRECTIONS)):
            raise node.refuse(f"X: expected time and batch as axes of their own; got {axis_text(axis)}")
        return axis[0] if axis else None

    def _product(self, node: Node, values: Values) -> Flow:
        left, right = (values[0], values[1]) if len(values) == 2 else (None, None)
        if isinstance(left, Flow) and isinstance(right, Const):
            return self._dense(node, left, right, right.array, None)
        if isinstance(left, Flow) and isinstance(right, Flow):
            raise node.refuse("multiplies values of the sequence by each other, as attention does; this is not served")
        raise node.refuse("expected the sequence times a constant matrix")

    def _gemm(self, node: Node, values: Values) -> Flow:
        flow, matrix = _flow(node, values[0] if values else None), values[1] if len(values) > 1 else None
        bias = values[2] if len(values) > 2 else None
        if not isinstance(matrix, Const) or not (bias is None or isinstance(bias, Const)):
            raise node.refuse("expected a constant matrix and a constant bias")
        if node.attributes.get("transA", 0):
            raise node.refuse("transA: the sequence is turned round, which cannot be served")
        kernel = matrix.array.T if node.attributes.get("transB", 0) else matrix.array
        kernel = kernel * kernel.dtype.type(node.attributes.get("alpha", 1.0))
        added = None
        if bias is not None:
            scaled = bias.array * bias.array.dtype.type(node.attributes.get("beta", 1.0))
            added = Const(scaled, bias.name)
        return self._dense(node, flow, matrix, kernel, added)

    def _dense(self, node: Node, flow: Flow, matrix: Const, kernel: Array, bias: Const | None) -> Flow:
        flow = with_features(flow, kernel.shape[0] if kernel.ndim == 2 else 0)
        _require_whole(node, flow)
        if kernel.ndim != 2 or flow.features != kernel.shape[0] or 0 in kernel.shape:
            raise node.refuse(
                f"{matrix.name}: expected a matrix with {flow.features} rows; got shape {list(kernel.shape)}"
            )
        self._note_weight(matrix)
        units = int(kernel.shape[1])
        weights = {"dense/kernel": kernel, "dense/bias": np.zeros(units, kernel.dtype)}
        stage = LayerStage(WeightedLayer(Dense(units), weights), node.label, open=True)
        axes = (*flow.axes[:-1], (Part(FEATURES, units),))
        moved = replace(flow, axes=axes, stages=(*flow.stages, stage), is_state=False, type_name=kernel.dtype.name)
        return moved if bias is None else self._biased(node, moved, bias)

    def _biased(self, node: Node, flow: Flow, bias: Const) -> Flow:
        stage = flow.stages[-1] if flow.stages else None
        if not isinstance(stage, LayerStage) or not isinstance(stage.layer.layer, Dense) or not stage.open:
            raise node.refuse(f"adds a constant ({bias.name}) to what is no dense layer's product; this is not served")
        units = stage.layer.layer.units
        if bias.array.size not in (1, units) or bias.array.shape[-1:] not in ((), (1,), (units,)):
            raise node.refuse(f"{bias.name}: expected a bias of {units}; got shape {list(bias.array.shape)}")
        self._note_weight(bias)
        whole = np.broadcast_to(bias.array.reshape(-1), (units,))
        layer = WeightedLayer(stage.layer.layer, {**stage.layer.weights, "dense/bias": whole})
        return replace(flow, stages=(*flow.stages[:-1], LayerStage(layer, stage.node)))

    def _arithmetic(self, node: Node, values: Values) -> Flow:
        flows = [value for value in values if isinstance(value, Flow)]
        constants = [value for value in values if isinstance(value, Const)]
        if len(flows) == 1 and len(constants) == 1 and node.op == "Add":
            return self._biased(node, flows[0], constants[0])
        if len(flows) == 2 and len(values) == 2 and node.op in ("Add", "Sum", "Mul"):
            both = onnx_axes.both_directions(node, flows)
            if both is None or flows[0].axes != flows[1].axes:
                raise node.refuse("combines values that are not the two directions of one layer; this is not served")
            merged = replace(both, merge_mode="mul" if node.op == "Mul" else "sum")
            return replace(flows[0], half="", stages=(*flows[0].stages[:-1], merged))
        if len(flows) == 1 and len(constants) == 1 and node.op in ("Mul", "Div") and constants[0].array.size == 1:
            stage = flows[0].stages[-1] if flows[0].stages else None
            factor = float(constants[0].array.reshape(()))
            halves = factor == 0.5 if node.op == "Mul" else factor == 2.0 and values[0] is flows[0]
            if isinstance(stage, BothStage) and stage.merge_mode == "sum" and halves:
                return replace(flows[0], stages=(*flows[0].stages[:-1], replace(stage, merge_mode="average")))
        raise node.refuse("this arithmetic is none that can be served")

    def _embedding(self, node: Node, values: Values) -> Flow:
        table, ids = values[0], _flow(node, values[1] if len(values) > 1 else None)
        if not isinstance(table, Const) or table.array.ndim != 2 or int(node.attributes.get("axis", 0)) != 0:
            raise node.refuse("expected rows of a constant matrix")
        self._note_weight(table)
        array = require_finite(table.array, table.name) if table.array.dtype.kind == "f" else table.array
        return self._table(node, ids, array)

    def _table(self, node: Node, ids: Flow, array: Array) -> Flow:
        if ids.stages or not ids.type_name.startswith("int"):
            raise node.refuse(f"expected ids, as the graph's input has them; got {ids.type_name}")
        size, depth = array.shape
        layer = WeightedLayer(Embedding(size, depth), {"embedding/embeddings": array})
        stage = LayerStage(layer, node.label)
        return replace(ids, axes=(*ids.axes, (Part(FEATURES, depth),)), stages=(stage,), type_name=array.dtype.name)

    def _one_hot(self, node: Node, values: Values) -> Flow:
        """Ids as vectors with a single 1: the rows of a unit matrix."""
        ids, depth, levels = (values[index] if len(values) > index else None for index in range(3))
        if not isinstance(ids, Flow) or not isinstance(depth, Const) or not isinstance(levels, Const):
            raise node.refuse("expected ids of the sequence, and a constant depth and values")
        if int(node.attributes.get("axis", -1)) not in (-1, len(ids.axes)) or levels.array.shape != (2,):
            raise node.refuse("expected the new axis last, and two values")
        size, (off, on) = int(depth.array.reshape(())), levels.array
        if not 1 <= size <= 1 << 14:
            raise node.refuse(f"expected a depth from 1 to {1 << 14}; got {size}")
        array = np.where(np.eye(size, dtype=bool), on, off).astype(levels.array.dtype)
        self.type_names[levels.name] = array.dtype.name
        return self._table(node, ids, array)

    def _function(self, node: Node, values: Values) -> Flow:
        flow, name = _flow(node, values[0] if values else None), FUNCTIONS[node.op]
        if name == "softmax":
            self._check_softmax(node, flow)
        stage = flow.stages[-1] if flow.stages else None
        if (
            isinstance(stage, LayerStage)
            and isinstance(stage.layer.layer, Dense)
            and stage.layer.layer.activation == "none"
        ):
            layer = WeightedLayer(Dense(stage.layer.layer.units, name), stage.layer.weights)
            return replace(flow, stages=(*flow.stages[:-1], LayerStage(layer, node.label)))
        # There is no layer of a function alone; a dense layer of a unit matrix computes the same.
        units = flow.features
        if units is None or stage is None:
            raise node.refuse("expected the features of a layer below")
        _require_whole(node, flow)
        dtype = np.dtype(flow.type_name)
        weights = {"dense/kernel": np.eye(units, dtype=dtype), "dense/bias": np.zeros(units, dtype)}
        layer = WeightedLayer(Dense(units, name), weights)
        return replace(flow, stages=(*flow.stages, LayerStage(layer, node.label)), is_state=False)

    def _check_softmax(self, node: Node, flow: Flow) -> None:
        new = self._opset >= _SOFTMAX_OF_ONE_AXIS
        axis = onnx_axes.at(node, int(node.attributes.get("axis", -1 if new else 1)), len(flow.axes))
        rest = [each for each in flow.axes[axis + 1 :] if length_of(each) != 1]
        if flow.features is None or axis != len(flow.axes) - 1:
            over = " and ".join(axis_text(each) for each in [flow.axes[axis], *rest])
            raise node.refuse(f"expected a softmax over the features; it is over {over}")

    def _note_weight(self, value: Const) -> None:
        if value.array.dtype.kind == "f":
            require_finite(value.array, value.name)
        self.type_names[value.name] = value.array.dtype.name


def with_features(flow: Flow, width: int) -> Flow:
    """The flow; of the graph's input the last axis is the features, of this number where the graph does not say one."""
    last = flow.axes[-1] if flow.axes else ()
    if flow.stages or len(last) != 1 or last[0].meaning == FEATURES:
        return flow
    return flow.moved((*flow.axes[:-1], (Part(FEATURES, last[0].length or width),)))


def _flow(node: Node, value: Value | None) -> Flow:
    if isinstance(value, Flow):
        return value
    if isinstance(value, FinalState):
        raise node.refuse(f"computes with a final state of {value.node}, which is no step's output")
    if isinstance(value, Unknown) and value.why:
        raise node.refuse(f"expected values of the sequence; {value.why}")
    raise ImportRefusedError(f"{node.label}: expected values of the sequence as its input")


def _require_whole(node: Node, flow: Flow) -> None:
    stage = flow.stages[-1] if flow.stages else None
    if flow.half or (isinstance(stage, CellStage) and stage.backward):
        raise node.refuse("takes one direction alone of the layer below, which cannot be served")
    if flow.features is None:
        raise node.refuse(
            f"expected the features as the last axis; got {axis_text(flow.axes[-1] if flow.axes else ())}"
        )
