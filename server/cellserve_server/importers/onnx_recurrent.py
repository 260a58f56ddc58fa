"""ONNX's LSTM, GRU and RNN nodes as cells.

Source: the ONNX operator specification. Gates stand in the order i, o, f, c (LSTM) and z, r, h (GRU), one below the
other in W ``[directions, gates * hidden, input]`` and R ``[directions, gates * hidden, hidden]``; B is W's biases and
then R's; P is the peepholes of i, o, f. ``h' = (1 - z) c + z h``, so z is TensorFlow's u.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cellserve.cells import BasicLSTMCell, BasicRNNCell, CellDescription, CudnnCompatibleGRUCell, GRUCell, LSTMCell
from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.importers.assembly import WeightedCell, require_finite
from cellserve_server.importers.onnx_activations import activations_of
from cellserve_server.importers.onnx_file import Node
from cellserve_server.importers.onnx_inputs import Values, is_zero
from cellserve_server.importers.onnx_values import Const, InitialState, Value, Zeros

GATES: Mapping[str, int] = MappingProxyType({"LSTM": 4, "GRU": 3, "RNN": 1})
DIRECTIONS: Mapping[str, int] = MappingProxyType({"forward": 1, "reverse": 1, "bidirectional": 2})
_FUNCTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
)
_ATTRIBUTES = frozenset(
    {
        "activation_alpha",
        "activation_beta",
        "activations",
        "clip",
        "direction",
        "hidden_size",
        "input_forget",
        "layout",
        "linear_before_reset",
        "output_sequence",
    }
)


@dataclass(frozen=True)
class RecurrentNode:
    """A recurrent node, read.

    Attributes:
        cells: one, or the forward and the backward one.
        direction: ``forward``, ``reverse`` or ``bidirectional``.
        hidden_size: the width of h.
        input_size: the width of the inputs.
        batch_major: ONNX's ``layout=1``.
        type_names: the names of the weights' dtypes by the weights' names.
    """

    cells: tuple[WeightedCell, ...]
    direction: str
    hidden_size: int
    input_size: int
    batch_major: bool
    type_names: Mapping[str, str]


def read_recurrent(node: Node, values: Values) -> RecurrentNode:
    """Reads a node with its weights.

    Raises:
        ImportRefusedError: it computes what no cell does, or its weights are not constants of its shapes.
    """
    _check_attributes(node)
    gates = GATES[node.op]
    direction = str(node.attributes.get("direction", "forward"))
    if direction not in DIRECTIONS:
        raise node.refuse(f"direction: expected one of {', '.join(DIRECTIONS)}; got {direction!r}")
    count = DIRECTIONS[direction]
    kernel, recurrent = _weight(node, values, 1, "W"), _weight(node, values, 2, "R")
    if kernel is None or recurrent is None:
        raise node.refuse("expected weights W and R; they are missing")
    if recurrent.array.ndim != 3 or recurrent.array.shape[2] < 1:
        raise node.refuse(f"R ({recurrent.name}): expected 3 dimensions; got shape {list(recurrent.array.shape)}")
    hidden = int(recurrent.array.shape[2])
    if int(node.attributes.get("hidden_size", hidden)) != hidden:
        raise node.refuse(f"hidden_size: expected {hidden}, R's; got {node.attributes['hidden_size']}")
    width = int(kernel.array.shape[2]) if kernel.array.ndim == 3 else 0
    _require_shape(node, "R", recurrent, (count, gates * hidden, hidden))
    _require_shape(node, "W", kernel, (count, gates * hidden, max(width, 1)))
    bias, peepholes = _weight(node, values, 3, "B"), None
    if bias is not None:
        _require_shape(node, "B", bias, (count, 2 * gates * hidden))
    if node.op == "LSTM" and len(values) > 7:
        peepholes = _weight(node, values, 7, "P")
    if peepholes is not None:
        _require_shape(node, "P", peepholes, (count, 3 * hidden))
    _check_initial_states(node, values, hidden)
    given = [each for each in (kernel, recurrent, bias, peepholes) if each is not None]
    functions = activations_of(node, _FUNCTIONS[node.op], count)
    cells = tuple(
        _cell(node, index, functions[index], kernel.array, recurrent.array, bias, peepholes) for index in range(count)
    )
    return RecurrentNode(
        cells=cells,
        direction=direction,
        hidden_size=hidden,
        input_size=width,
        batch_major=bool(node.attributes.get("layout", 0)),
        type_names={each.name: each.array.dtype.name for each in given},
    )


def _check_attributes(node: Node) -> None:
    unknown = sorted(node.attributes.keys() - _ATTRIBUTES)
    if unknown:
        raise node.refuse(f"it has the attribute {unknown[0]}, which is not known here")
    if node.attributes.get("input_forget", 0):
        raise node.refuse("input_forget: gates that are coupled cannot be served")
    if node.attributes.get("layout", 0) not in (0, 1):
        raise node.refuse(f"layout: expected 0 or 1; got {node.attributes['layout']}")
    clip = node.attributes.get("clip")
    if clip is not None and not (clip > 0 and math.isfinite(clip)):
        raise node.refuse(f"clip: expected a number above 0; got {clip}")


def _weight(node: Node, values: Values, position: int, label: str) -> Const | None:
    value: Value | None = values[position] if len(values) > position else None
    if value is None:
        return None
    if not isinstance(value, Const):
        raise node.refuse(f"{label}: expected a constant; the graph computes it")
    return Const(require_finite(value.array, value.name) if value.array.dtype.kind == "f" else value.array, value.name)


def _require_shape(node: Node, label: str, value: Const, shape: tuple[int, ...]) -> None:
    if value.array.shape != shape:
        raise node.refuse(f"{label} ({value.name}): expected shape {list(shape)}; got {list(value.array.shape)}")


def _check_initial_states(node: Node, values: Values, hidden: int) -> None:
    for position, label in ((5, "initial_h"), (6, "initial_c")):
        value = values[position] if len(values) > position else None
        width = value.width if isinstance(value, Zeros) else None
        if isinstance(value, Const) and value.array.ndim:
            width = value.array.shape[-1]
        if width not in (None, hidden):
            raise node.refuse(f"{label}: expected {hidden} columns, as many as R has; got {width}")
        if value is None or isinstance(value, (InitialState, Zeros)) or is_zero(value):
            continue
        if isinstance(value, Const):
            raise node.refuse(f"{label}: expected zeros or an input of the graph; {value.name} is a constant state")
        raise node.refuse(f"{label}: expected zeros or an input of the graph; the graph computes it")


def _cell(
    node: Node,
    index: int,
    functions: Sequence[str],
    kernel: Array,
    recurrent: Array,
    bias: Const | None,
    peepholes: Const | None,
) -> WeightedCell:
    """The cell of one direction."""
    hidden, gates = recurrent.shape[2], GATES[node.op]
    both = np.zeros((2, gates * hidden), kernel.dtype) if bias is None else bias.array[index].reshape(2, -1)
    parts = _Parts(
        inputs=np.split(kernel[index], gates),
        hidden=np.split(recurrent[index], gates),
        input_bias=np.split(both[0], gates),
        hidden_bias=np.split(both[1], gates),
    )
    clip = node.attributes.get("clip")
    try:
        if node.op == "RNN":
            cell: CellDescription = BasicRNNCell(hidden, _named(functions[0], "tanh"), preactivation_clip=clip)
            return WeightedCell(cell, {"kernel": parts.kernel(0), "bias": parts.bias(0)})
        if node.op == "GRU":
            return _gru(node, hidden, functions, clip, parts)
        return _lstm(hidden, functions, clip, parts, None if peepholes is None else peepholes.array[index])
    except CellServeError as error:
        raise node.refuse(error.message) from error


@dataclass(frozen=True)
class _Parts:
    """The rows of each gate: ``[hidden, input]``, ``[hidden, hidden]``, and two biases ``[hidden]``."""

    inputs: Sequence[Array]
    hidden: Sequence[Array]
    input_bias: Sequence[Array]
    hidden_bias: Sequence[Array]

    def kernel(self, *gates: int) -> Array:
        """TensorFlow's kernel ``[input + hidden, len(gates) * hidden]`` of these gates."""
        rows = [np.concatenate((self.inputs[gate], self.hidden[gate]), axis=1) for gate in gates]
        joined: Array = np.concatenate(rows).T
        return joined

    def bias(self, *gates: int) -> Array:
        """One bias of these gates; the two that there are add up."""
        return np.concatenate([self.input_bias[gate] + self.hidden_bias[gate] for gate in gates])


def _lstm(
    hidden: int, functions: Sequence[str], clip: float | None, parts: _Parts, peepholes: Array | None
) -> WeightedCell:
    i, o, f, c = range(4)
    weights = {"kernel": parts.kernel(i, c, f, o), "bias": parts.bias(i, c, f, o)}
    gate, candidate, output = functions
    if peepholes is None and clip is None and gate == "sigmoid" and candidate == output:
        return WeightedCell(BasicLSTMCell(hidden, 0.0, activation=_named(candidate, "tanh")), weights)
    if peepholes is not None:
        of_i, of_o, of_f = np.split(peepholes, 3)
        weights |= {"w_i_diag": of_i, "w_o_diag": of_o, "w_f_diag": of_f}
    cell = LSTMCell(
        hidden,
        use_peepholes=peepholes is not None,
        forget_bias=0.0,
        activation=_named(candidate, "tanh"),
        recurrent_activation=_named(gate, "sigmoid"),
        output_activation=None if output == candidate else output,
        preactivation_clip=clip,
    )
    return WeightedCell(cell, weights)


def _gru(node: Node, hidden: int, functions: Sequence[str], clip: float | None, parts: _Parts) -> WeightedCell:
    z, r, h = range(3)
    weights = {"gates/kernel": parts.kernel(r, z), "gates/bias": parts.bias(r, z)}
    gate, candidate = _named(functions[0], "sigmoid"), _named(functions[1], "tanh")
    if not node.attributes.get("linear_before_reset", 0):
        weights |= {"candidate/kernel": parts.kernel(h), "candidate/bias": parts.bias(h)}
        cell: CellDescription = GRUCell(hidden, candidate, recurrent_activation=gate, preactivation_clip=clip)
        return WeightedCell(cell, weights)
    for name, rows, bias in (
        ("input", parts.inputs[h], parts.input_bias[h]),
        ("hidden", parts.hidden[h], parts.hidden_bias[h]),
    ):
        weights |= {f"candidate/{name}_projection/kernel": rows.T, f"candidate/{name}_projection/bias": bias}
    cell = CudnnCompatibleGRUCell(hidden, candidate, recurrent_activation=gate, preactivation_clip=clip)
    return WeightedCell(cell, weights)


def _named(name: str, default: str) -> str | None:
    return None if name == default else name
