"""Keras's recurrent layers as our cells, weights and all. Source of the formulas: Keras 3's ``layers/rnn``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from cellserve.cells import BasicLSTMCell, BasicRNNCell, CudnnCompatibleGRUCell, GRUCell, LSTMCell
from cellserve.tensors import Array
from cellserve_server.importers.assembly import WeightedCell, stack
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.keras_model import CELLS, KerasLayer, read_layer, read_layers
from cellserve_server.importers.keras_options import cell_activation, flag, integer, require_known_options
from cellserve_server.importers.keras_variables import Variables

RECURRENT = ("SimpleRNN", "LSTM", "GRU", "RNN")
_CELL_GATES = MappingProxyType({"SimpleRNN": 1, "GRU": 3, "LSTM": 4})
_LAYER_OPTIONS = frozenset(
    (
        "return_sequences",
        "return_state",
        "go_backwards",
        "zero_output_for_mask",
        "time_major",
        "activity_regularizer",
        "cell",
    )
)
_CELL_OPTIONS = frozenset(
    ("units", "activation", "recurrent_activation", "use_bias", "dropout", "recurrent_dropout", "reset_after")
) | {"unit_forget_bias"}

Read: TypeAlias = Callable[[str], Array]
"""Gives a variable by its path, finite and of the model's dtype."""


@dataclass(frozen=True)
class Source:
    """Where cells come from: the variables of a file, and the version of Keras that wrote it."""

    variables: Variables
    read: Read
    version: int


def recurrent_cell(layer: KerasLayer, width: int | None, source: Source, backward: bool = False) -> WeightedCell:
    """The cell of a recurrent layer; a stack where the layer has several.

    Args:
        layer: a ``SimpleRNN``, ``LSTM``, ``GRU`` or ``RNN``.
        width: of its inputs; None: what its weights say.
        source: where its weights are.
        backward: whether it has to go backwards.

    Raises:
        ImportRefusedError: an option of it cannot be served, or its weights do not fit.
    """
    plain = layer.class_name != "RNN"
    require_known_options(layer, _LAYER_OPTIONS | (_CELL_OPTIONS if plain else frozenset()))
    if flag(layer, "go_backwards", False) != backward:
        raise ImportRefusedError(
            f"{layer.name}: go_backwards: expected {str(backward).lower()}; a layer that reads its inputs from the end "
            "can be served as the backward layer of a Bidirectional one alone"
        )
    if flag(layer, "time_major", False):
        raise ImportRefusedError(f"{layer.name}: time_major: expected false; inputs are served batch first")
    if plain:
        return _cell(KerasLayer(layer.class_name, layer.name, layer.config, f"{layer.group}/cell"), width, source)
    inner = read_layer(layer.config.get("cell"), CELLS, "")
    if inner.class_name != "StackedRNNCells":
        return _cell(_as_layer(inner, f"{layer.group}/cell"), width, source)
    entries = inner.config.get("cells")
    if not isinstance(entries, list) or not entries:
        raise ImportRefusedError(f"{inner.name}: cells: expected a list of cells")
    cells = []
    for cell in read_layers(entries, CELLS, f"{layer.group}/cell/cells/"):
        if cell.class_name == "StackedRNNCells":
            raise ImportRefusedError(f"{cell.name}: a stack of cells within a stack cannot be served")
        cells.append(_cell(_as_layer(cell, cell.group), width, source))
        width = cells[-1].cell.output_size
    return stack(cells)


def _as_layer(cell: KerasLayer, group: str) -> KerasLayer:
    require_known_options(cell, _CELL_OPTIONS)
    return KerasLayer(cell.class_name.removesuffix("Cell"), cell.name, cell.config, group)


def _cell(layer: KerasLayer, width: int | None, source: Source) -> WeightedCell:
    units, use_bias = integer(layer, "units"), flag(layer, "use_bias", True)
    activation = cell_activation(layer, "activation", "tanh", source.version)
    reset_after = layer.class_name == "GRU" and flag(layer, "reset_after", True)
    columns = _CELL_GATES[layer.class_name] * units
    bias_shape = (2, columns) if reset_after else (columns,)
    kernel, recurrent, *biases = cell_arrays(layer, width, units, columns, bias_shape if use_bias else None, source)
    bias = biases[0] if biases else np.zeros(bias_shape, kernel.dtype)
    if layer.class_name == "SimpleRNN":
        weights = {"kernel": np.concatenate((kernel, recurrent)), "bias": bias}
        return WeightedCell(BasicRNNCell(units, activation), weights)
    gates = cell_activation(layer, "recurrent_activation", "sigmoid", source.version)
    if layer.class_name == "LSTM":
        return _lstm(units, activation, gates, np.concatenate((kernel, recurrent)), bias)
    return (_gru_reset_after if reset_after else _gru_reset_before)(units, activation, gates, kernel, recurrent, bias)


def cell_arrays(
    layer: KerasLayer, width: int | None, units: int, columns: int, bias_shape: tuple[int, ...] | None, source: Source
) -> list[Array]:
    """Kernel, recurrent kernel and perhaps bias of a cell, their shapes checked."""
    paths = source.variables.of(layer.group)
    names = ("kernel", "recurrent_kernel", "bias")[: 2 if bias_shape is None else 3]
    if len(paths) != len(names):
        raise ImportRefusedError(
            f"{layer.name}: expected {', '.join(names)} as {layer.group}/vars/0, 1, ...; got {len(paths)} variables"
        )
    if width is None:
        width = (
            source.variables.by_path[paths[0]].values.shape[0] if source.variables.by_path[paths[0]].values.ndim else 0
        )
    shapes: Sequence[tuple[int, ...]] = ((width, columns), (units, columns), bias_shape or ())
    arrays = []
    for path, name, shape in zip(paths, names, shapes, strict=False):
        array = source.read(path)
        if array.shape != shape:
            raise ImportRefusedError(
                f"{layer.name}: {name} ({path}): expected shape {list(shape)}; got {list(array.shape)}"
            )
        arrays.append(array)
    return arrays


def _lstm(units: int, activation: str, gates: str, kernel: Array, bias: Array) -> WeightedCell:
    """Blocks i, f, c, o there; i, j, f, o here, and c is j. ``unit_forget_bias`` is in the bias that is stored."""
    i, f, c, o = np.split(kernel, 4, axis=1)
    weights = {"kernel": np.concatenate((i, c, f, o), axis=1)}
    i, f, c, o = np.split(bias, 4)
    weights["bias"] = np.concatenate((i, c, f, o))
    if gates == "sigmoid":
        return WeightedCell(BasicLSTMCell(units, forget_bias=0.0, activation=activation), weights)
    cell = LSTMCell(units, forget_bias=0.0, activation=activation, recurrent_activation=gates)
    return WeightedCell(cell, weights)


def _reset_first(array: Array, units: int) -> Array:
    """The columns of r and u from Keras's z, r, h: its ``h' = z h + (1 - z) hh`` has z where we have u."""
    return np.concatenate((array[..., units : 2 * units], array[..., :units]), axis=-1)


def _gru_reset_before(
    units: int, activation: str, gates: str, kernel: Array, recurrent: Array, bias: Array
) -> WeightedCell:
    """``reset_after=False``: ``hh = activation(x W + b + (r h) R)``, TensorFlow 1's GRU."""
    joined = np.concatenate((kernel, recurrent))
    weights = {
        "gates/kernel": _reset_first(joined, units),
        "gates/bias": _reset_first(bias, units),
        "candidate/kernel": joined[:, 2 * units :],
        "candidate/bias": bias[2 * units :],
    }
    return WeightedCell(GRUCell(units, activation, recurrent_activation=gates), weights)


def _gru_reset_after(
    units: int, activation: str, gates: str, kernel: Array, recurrent: Array, bias: Array
) -> WeightedCell:
    """``reset_after=True``: ``hh = activation(x W + b0 + r (h R + b1))``, b0 and b1 the rows of the bias."""
    weights = {
        "gates/kernel": _reset_first(np.concatenate((kernel, recurrent)), units),
        "gates/bias": _reset_first(bias[0] + bias[1], units),
        "candidate/input_projection/kernel": kernel[:, 2 * units :],
        "candidate/input_projection/bias": bias[0, 2 * units :],
        "candidate/hidden_projection/kernel": recurrent[:, 2 * units :],
        "candidate/hidden_projection/bias": bias[1, 2 * units :],
    }
    return WeightedCell(CudnnCompatibleGRUCell(units, activation, recurrent_activation=gates), weights)
