"""ONNX graphs as models: recurrent nodes with a table below and dense layers above, in the patterns of exporters.

The package onnx reads the file; nothing is run. Each value of the graph is followed with what its axes mean, and what
cannot be followed exactly to the output is refused by the name of its node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellserve_server.importers.assembly import (
    WeightedCell,
    WeightedLayer,
    assemble,
    cell_layer,
    model_dtype,
    stack,
)
from cellserve_server.importers.base import Assumption, ImportedModel, ImportRefusedError, Settings
from cellserve_server.importers.onnx_axes import axis_text
from cellserve_server.importers.onnx_file import Graph, GraphInput, Node, looks_like_onnx, read_graph
from cellserve_server.importers.onnx_layers import Layers
from cellserve_server.importers.onnx_moves import MOVES
from cellserve_server.importers.onnx_recurrent import GATES
from cellserve_server.importers.onnx_reference import OnnxReference
from cellserve_server.importers.onnx_shapes import MAX_CONST_ELEMENTS
from cellserve_server.importers.onnx_values import (
    DIRECTIONS,
    FEATURES,
    BothStage,
    CellStage,
    Const,
    FinalState,
    Flow,
    InitialState,
    LayerStage,
    Lengths,
    Part,
    Unknown,
    Value,
    layer_of,
    names,
)

FRAMEWORK = "onnx"
_SHOWN = 8
_STATE_PORTS = (5, 6)
_LENGTHS_PORT = 4
_NUMPY_OPS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}


def recognises(source: Path) -> bool:
    """Whether the source is an ONNX file."""
    return looks_like_onnx(source)


def read(source: Path, settings: Settings) -> ImportedModel:
    """Reads an ONNX file.

    Raises:
        ImportRefusedError: it cannot be served exactly, is damaged, or the package onnx is missing.
    """
    graph = read_graph(source)
    chosen = settings.get("output")
    if chosen is not None and chosen not in graph.outputs:
        raise ImportRefusedError(f"output: expected one of {', '.join(graph.outputs)}; got {chosen!r}")
    outputs = graph.outputs if chosen is None else (chosen,)
    nodes = _needed(graph, outputs)
    layers = Layers(graph.opset)
    values = _evaluate(graph, nodes, layers)
    name, flow = _main_output(outputs, values, chosen is not None)
    joined = _served(name, flow, layers)
    dtype, dtype_notes = model_dtype(layers.type_names, settings)
    weighted = _layers(joined)
    ignored = [f"{node.label}: the output does not depend on it" for node in graph.nodes if node not in nodes]
    if joined.axes != flow.axes:
        ignored.append(f"{name} has an axis of directions; served, both directions' features stand side by side")
    if flow.only_last:
        ignored.append(f"{name} holds the last step alone; served, the output of each step is given (take the last)")
    notes = [Assumption("output", name, "of the graph's outputs the one that is served", given=True)] if chosen else []
    reference = OnnxReference(source, graph, name, flow, layers.time, layers.batch)
    model = assemble(
        FRAMEWORK, weighted, _input_width(flow, weighted), dtype, [*notes, *dtype_notes], ignored, reference
    )
    return replace(model, reference_shape=reference.shape)


def _needed(graph: Graph, outputs: Iterable[str]) -> list[Node]:
    """The nodes that the outputs depend on, each after those that it depends on itself."""
    makers: dict[str, Node] = {}
    for node in graph.nodes:
        for output in filter(None, node.outputs):
            if output in makers:
                raise node.refuse(f"it gives {output}, which {makers[output].label} gives, too")
            makers[output] = node
    ordered: list[Node] = []
    state: dict[int, bool] = {}
    waiting = [makers[name] for name in outputs if name in makers]
    while waiting:
        node = waiting[-1]
        if id(node) in state:
            waiting.pop()
            if not state[id(node)]:
                state[id(node)] = True
                ordered.append(node)
            continue
        state[id(node)] = False
        for name in filter(None, node.inputs):
            maker = makers.get(name)
            if maker is not None and not state.get(id(maker), False):
                if id(maker) in state:
                    raise node.refuse(f"it depends on itself through {name}")
                waiting.append(maker)
    return ordered


def _evaluate(graph: Graph, nodes: Sequence[Node], layers: Layers) -> dict[str, Value]:
    values: dict[str, Value] = _inputs(graph, nodes)
    for node in nodes:
        given = [_value(name, values, graph, node) for name in node.inputs]
        if node.domain:
            raise node.refuse(f"an operation of {node.domain}, which is not known here")
        try:
            results = _compute(node, given, graph.opset, layers)
        except (ValueError, IndexError, TypeError, OverflowError) as error:
            raise node.refuse(f"its inputs or attributes do not fit it: {error}") from error
        for name, value in zip(node.outputs, results, strict=False):
            if isinstance(value, Const) and value.array.size > MAX_CONST_ELEMENTS:
                raise node.refuse(f"expected constants of at most {MAX_CONST_ELEMENTS} elements")
            values[name] = value
    return values


def _compute(node: Node, given: Sequence[Value | None], opset: int, layers: Layers) -> Sequence[Value]:
    flows = [value for value in given if isinstance(value, Flow)]
    is_lookup = node.op == "Gather" and bool(given) and not isinstance(given[0], Flow) and bool(flows)
    if node.op in MOVES and not is_lookup:
        return MOVES[node.op](node, given, opset)
    if flows or node.op in GATES:
        return layers.compute(node, given)
    constants = [value for value in given if isinstance(value, Const)]
    if node.op in _NUMPY_OPS and len(constants) == len(given) == 2:
        array = _NUMPY_OPS[node.op](constants[0].array, constants[1].array)
        return [Const(array, node.name)]
    # Shapes and the like: a layer that needs one of these will refuse it, with the first reason.
    final = next((value for value in given if isinstance(value, FinalState)), None)
    why = f"{node.label} computes it" + (f" from a final state of {final.node}" if final else "")
    why = next((value.why for value in given if isinstance(value, Unknown) and value.why), why)
    return [Unknown(why) for _ in node.outputs]


def _value(name: str, values: Mapping[str, Value], graph: Graph, node: Node) -> Value | None:
    if not name:
        return None
    if name in values:
        return values[name]
    if name in graph.constants:
        return Const(graph.constants[name].read(), name)
    raise node.refuse(f"its input {name!r} is given by no node and no constant")


def _inputs(graph: Graph, nodes: Sequence[Node]) -> dict[str, Value]:
    """The graph's inputs: states, lengths or the sequence, by the ports of recurrent nodes that they reach."""
    makers = {output: node for node in nodes for output in node.outputs}
    recurrent = [node for node in nodes if node.op in GATES]
    states = _sources(recurrent, _STATE_PORTS, makers)
    lengths = _sources(recurrent, (_LENGTHS_PORT,), makers)
    values: dict[str, Value] = {}
    for given in graph.inputs:
        if given.name in states:
            values[given.name] = InitialState(given.name)
        elif given.name in lengths:
            values[given.name] = Lengths(given.name)
        else:
            values[given.name] = _sequence(given)
    return values


def _sources(recurrent: Sequence[Node], ports: Sequence[int], makers: Mapping[str, Node]) -> set[str]:
    """What some ports of the recurrent nodes come from, as far as values are only moved on the way."""
    waiting = [node.inputs[port] for node in recurrent for port in ports if len(node.inputs) > port]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        maker = makers.get(name)
        if name in found:
            continue
        found.add(name)
        if maker is not None and maker.op in MOVES and maker.op != "Shape":
            # Where it is moved to, and how often, are other inputs of the same node.
            waiting += maker.inputs if maker.op == "Concat" else maker.inputs[:1]
    return found


def _sequence(given: GraphInput) -> Value:
    if given.shape is None:
        return Unknown(f"the graph does not say how many axes its input {given.name} has")
    parts = [((Part(f"{given.name}[{axis}]", length)),) for axis, length in enumerate(given.shape)]
    return Flow(tuple(parts), (), given.name, given.type_name)


def _main_output(outputs: Sequence[str], values: Mapping[str, Value], chosen: bool) -> tuple[str, Flow]:
    """The output to serve: the only one of the sequence; else the only one of its last step; never a mere state."""
    found = {name: values[name] for name in outputs if name in values}
    flows = {name: value for name, value in found.items() if isinstance(value, Flow) and value.stages}
    for candidates in (
        {name: flow for name, flow in flows.items() if not flow.is_state},
        flows,
    ):
        if len(candidates) == 1:
            return next(iter(candidates.items()))
        if candidates:
            several = ", ".join(list(candidates)[:_SHOWN])
            raise ImportRefusedError(
                f"the graph has several outputs: {several}", option=f"output={next(iter(candidates))}"
            )
    for name, value in found.items():
        if isinstance(value, FinalState):
            why = "it is a final state, which is no step's output"
            raise ImportRefusedError(f"{name}: expected an output of each step, or of the last; {why}")
        if isinstance(value, Unknown) and value.why:
            raise ImportRefusedError(f"{name}: it cannot be followed: {value.why}")
    raise ImportRefusedError(
        f"expected an output that depends on the graph's inputs; got {', '.join(outputs[:_SHOWN])}"
    )


def _served(name: str, flow: Flow, layers: Layers) -> Flow:
    """The output as it is served: the features as the last axis, both directions' side by side.

    Raises:
        ImportRefusedError: it is not an output of each step and row, or of the last step.
    """
    if not layers.bound:
        raise ImportRefusedError(f"expected a graph with an LSTM, a GRU or an RNN node; {name} depends on none")
    last = flow.stages[-1]
    if flow.half or (isinstance(last, CellStage) and last.backward):
        raise ImportRefusedError(
            f"{last.node}: a layer that runs backwards alone cannot be served, only one that runs in both directions"
        )
    parted = (Part(DIRECTIONS, 2),)
    if isinstance(last, BothStage) and parted in flow.axes and names(flow.axes[-1]) == [FEATURES]:
        # The node's output as it is; where the directions stand beside each other an exporter has moved them there.
        rest = [axis for axis in flow.axes[:-1] if axis != parted]
        flow = flow.moved((*rest, parted + flow.axes[-1]))
    if flow.features is None:
        axes = ", ".join(axis_text(axis) for axis in flow.axes)
        raise ImportRefusedError(f"{name}: expected an output whose last axis is the features; got {axes}")
    left = [part for axis in flow.axes[:-1] for part in axis]
    for part in (layers.time, layers.batch):
        gone = part is not None and part not in left and part.length != 1
        if gone and not (flow.only_last and part == layers.time):
            assert part is not None
            raise ImportRefusedError(f"{name}: expected an output for each step and row; {part.meaning} is gone")
    return flow


def _layers(flow: Flow) -> list[WeightedLayer]:
    """The stages as layers, cells that follow one another as one stack."""
    layers: list[WeightedLayer] = []
    cells: list[WeightedCell] = []
    for stage in flow.stages:
        if isinstance(stage, CellStage):
            if stage.backward:
                raise ImportRefusedError(f"{stage.node}: a layer that runs backwards alone cannot be served")
            cells.append(stage.cell)
            continue
        if cells:
            layers.append(cell_layer(stack(cells)))
            cells = []
        found = layer_of(stage)
        layers.append(found if isinstance(found, WeightedLayer) else cell_layer(found))
    return [*layers, cell_layer(stack(cells))] if cells else layers


def _input_width(flow: Flow, layers: Sequence[WeightedLayer]) -> int | None:
    """The width of the first layer's inputs, by its weights; None: ids."""
    first = flow.stages[0]
    if isinstance(first, LayerStage):
        kernel = first.layer.weights.get("dense/kernel")
        return None if kernel is None else int(kernel.shape[0])
    cell = first.forward if isinstance(first, BothStage) else first.cell
    matrix = next(array for name, array in cell.weights.items() if name in ("kernel", "gates/kernel"))
    return int(matrix.shape[0]) - cell.cell.output_size
