"""A line of Keras's layers as ours, from the inputs upward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from cellserve.cells import MultiRNNCell
from cellserve.specs import Dense, Embedding, Standardise
from cellserve.tensors import Array
from cellserve_server.importers.assembly import (
    WeightedCell,
    WeightedLayer,
    bidirectional_layer,
    cell_layer,
    chosen,
    require_finite,
)
from cellserve_server.importers.base import Assumption, ImportRefusedError, Settings
from cellserve_server.importers.keras_cells import RECURRENT, Source, recurrent_cell
from cellserve_server.importers.keras_model import GROUPS, KerasLayer, KerasModel, read_layer
from cellserve_server.importers.keras_options import dense_activation, flag, integer, require_known_options

# What Keras's Normalization divides by at least; keras.config.epsilon() unless somebody set it.
EPSILON = 1e-7
MERGE_MODES = MappingProxyType({"concat": "concat", "sum": "sum", "mul": "mul", "ave": "average"})
_RECURRENT_GROUPS = MappingProxyType({kind: GROUPS[kind] for kind in RECURRENT})
TRAINING_ONLY = (
    "Dropout",
    "SpatialDropout1D",
    "GaussianDropout",
    "GaussianNoise",
    "AlphaDropout",
    "ActivityRegularization",
)


@dataclass(frozen=True)
class ServedLayers:
    """The layers of a model; the width of its inputs (None: ids); what was assumed, and what is left out."""

    layers: tuple[WeightedLayer, ...]
    input_width: int | None
    assumptions: tuple[Assumption, ...]
    ignored: tuple[str, ...]


def serve_layers(model: KerasModel, source: Source, settings: Settings) -> ServedLayers:
    """Turns the layers of a model into ours.

    Raises:
        ImportRefusedError: a layer or an option of one cannot be served, or weights do not fit.
    """
    builder = _Builder(source, settings, _declared_width(model))
    for layer in model.layers:
        builder.add(layer)
    if model.extra_outputs:
        builder.ignored.append("the states among the outputs: a session keeps them, and gives them when asked")
    if not builder.has_cell:
        raise ImportRefusedError("the model: expected a recurrent layer; it has none")
    return ServedLayers(tuple(builder.layers), builder.input_width, tuple(builder.assumptions), tuple(builder.ignored))


def _declared_width(model: KerasModel) -> int | None:
    """The width of the inputs, where the model says it; of ids there is none."""
    shape = model.input_shape
    if shape is None or len(shape) == 2:
        return None
    if len(shape) != 3 or shape[2] is None or shape[2] < 1:
        raise ImportRefusedError(f"the inputs: expected shape [batch, time, width] or [batch, time]; got {list(shape)}")
    return shape[2]


class _Builder:
    """Adds one layer of Keras's after the other."""

    def __init__(self, source: Source, settings: Settings, width: int | None) -> None:
        self._source = source
        self._settings = settings
        self._width = width
        self.input_width: int | None = width
        self.layers: list[WeightedLayer] = []
        self.assumptions: list[Assumption] = []
        self.ignored: list[str] = []
        self.has_cell = False

    def add(self, layer: KerasLayer) -> None:
        """Adds a layer."""
        kind = layer.class_name
        if kind in RECURRENT:
            self._add_recurrent(layer)
        elif kind == "Bidirectional":
            self._add_bidirectional(layer)
        elif kind == "TimeDistributed":
            self._add_time_distributed(layer)
        elif kind == "Dense":
            self._add_dense(layer)
        elif kind in ("Activation", "Softmax", "ReLU"):
            self._add_activation(layer)
        elif kind == "Embedding":
            self._add_embedding(layer)
        elif kind == "Normalization":
            self._add_normalization(layer)
        elif kind == "Masking":
            self._take_masking(layer, f"steps whose inputs are all {layer.config.get('mask_value')!r}")
        elif kind in TRAINING_ONLY:
            self.ignored.append(f"{layer.name}: {kind}, for training alone")
        elif kind == "InputLayer":
            require_known_options(layer, ("dtype",))

    def _put(self, layer: WeightedLayer, input_width: int | None, output_width: int) -> None:
        if not self.layers:
            self.input_width = input_width
        self.layers.append(layer)
        self._width = output_width

    def _add_recurrent(self, layer: KerasLayer) -> None:
        cell = recurrent_cell(layer, self._width, self._source)
        self._note_training(layer)
        if not flag(layer, "return_sequences", False):
            because = f"{layer.name} gives its last step alone; served, every step gives one, and the last is Keras's"
            self.assumptions.append(Assumption("return_sequences", "true", because))
        self._put(cell_layer(cell), input_width(cell), cell.cell.output_size)
        self.has_cell = True

    def _add_bidirectional(self, layer: KerasLayer) -> None:
        require_known_options(layer, ("layer", "backward_layer", "merge_mode"))
        entry, backward_entry = layer.config.get("layer"), layer.config.get("backward_layer")
        forward = read_layer(entry, _RECURRENT_GROUPS, "")
        forward = replace(forward, group=f"{layer.group}/forward_layer")
        if not flag(forward, "return_sequences", False):
            raise ImportRefusedError(
                f"{layer.name}: return_sequences=False sets the forward layer's output of the last step beside the "
                "backward layer's of the first one. Served, both are given at every step, so these two never stand "
                "together; expected return_sequences=True"
            )
        if backward_entry is None:  # Keras 2 leaves it out where it is the forward one turned round
            backward = replace(forward, config={**forward.config, "go_backwards": True})
        else:
            backward = read_layer(backward_entry, _RECURRENT_GROUPS, "")
        backward = replace(backward, group=f"{layer.group}/backward_layer")
        merge_mode = layer.config.get("merge_mode", "concat")
        if not isinstance(merge_mode, str) or merge_mode not in MERGE_MODES:
            raise ImportRefusedError(
                f"{layer.name}: merge_mode: expected one of {', '.join(MERGE_MODES)}; got {repr(merge_mode)[:100]}"
            )
        there = recurrent_cell(forward, self._width, self._source)
        back = recurrent_cell(backward, input_width(there), self._source, backward=True)
        self._note_training(forward)
        weighted = bidirectional_layer(there, back, MERGE_MODES[merge_mode])
        widths = there.cell.output_size, back.cell.output_size
        self._put(weighted, input_width(there), sum(widths) if merge_mode == "concat" else widths[0])
        self.has_cell = True

    def _note_training(self, layer: KerasLayer) -> None:
        for key in ("dropout", "recurrent_dropout"):
            if layer.config.get(key):
                self.ignored.append(f"{layer.name}: {key}={repr(layer.config[key])[:20]}, for training alone")
        if layer.config.get("stateful"):
            self.ignored.append(f"{layer.name}: stateful; a session keeps the state")

    def _add_time_distributed(self, layer: KerasLayer) -> None:
        require_known_options(layer, ("layer",))
        inner = read_layer(layer.config.get("layer"), GROUPS, "")
        if inner.class_name not in ("Dense", "Activation", "Softmax", "ReLU", *TRAINING_ONLY):
            raise ImportRefusedError(f"{layer.name}: a {inner.class_name} at each step cannot be served")
        self.add(replace(inner, group=f"{layer.group}/layer"))

    def _add_dense(self, layer: KerasLayer) -> None:
        require_known_options(layer, ("units", "activation", "use_bias"))
        units, use_bias = integer(layer, "units"), flag(layer, "use_bias", True)
        arrays = self._arrays(layer, 2 if use_bias else 1)
        kernel = arrays[0]
        width = kernel.shape[0] if self._width is None and kernel.ndim else self._width
        bias = arrays[1] if use_bias else np.zeros(units, kernel.dtype)
        _require_shape(layer, "kernel", kernel, (width or 0, units))
        _require_shape(layer, "bias", bias, (units,))
        dense = Dense(units, dense_activation(layer, layer.config.get("activation")))
        self._put(WeightedLayer(dense, {"dense/kernel": kernel, "dense/bias": bias}), width, units)

    def _add_activation(self, layer: KerasLayer) -> None:
        """An activation of its own becomes that of the dense layer before it."""
        if layer.class_name == "Softmax":
            require_known_options(layer, ("axis",))
            if layer.config.get("axis", -1) not in (-1, 2):
                raise ImportRefusedError(f"{layer.name}: axis: expected -1; got {repr(layer.config['axis'])[:100]}")
            value: Any = "softmax"
        elif layer.class_name == "ReLU":
            require_known_options(layer, ())
            value = "relu"
        else:
            require_known_options(layer, ("activation",))
            value = layer.config.get("activation")
        name = dense_activation(layer, value)
        if name == "none":
            return
        last = self.layers[-1] if self.layers else None
        if last is None or not isinstance(last.layer, Dense) or last.layer.activation != "none":
            raise ImportRefusedError(f"{layer.name}: {name} can be served right after a linear Dense layer alone")
        self.layers[-1] = WeightedLayer(replace(last.layer, activation=name), last.weights)

    def _add_embedding(self, layer: KerasLayer) -> None:
        require_known_options(layer, ("input_dim", "output_dim", "mask_zero", "input_length"))
        if self.layers or self._width is not None:
            raise ImportRefusedError(f"{layer.name}: expected an embedding as the first layer, on ids [batch, time]")
        rows, depth = integer(layer, "input_dim"), integer(layer, "output_dim")
        (table,) = self._arrays(layer, 1)
        _require_shape(layer, "embeddings", table, (rows, depth))
        if flag(layer, "mask_zero", False):
            self._take_masking(layer, "id 0")
        self._put(WeightedLayer(Embedding(rows, depth), {"embedding/embeddings": table}), None, depth)

    def _take_masking(self, layer: KerasLayer, what: str) -> None:
        """Keras leaves masked steps out wherever they are; here lengths say where a row ends."""
        given = self._settings.get("masking")
        if given is None:
            raise ImportRefusedError(
                f"{layer.name}: it masks {what}, so that Keras leaves such steps out; served, a sequence's length says "
                "where its padding begins, and a step within it is always taken",
                option="masking=lengths",
            )
        because = f"{layer.name} masks {what}: such steps are padding at the end of rows, which lengths leave out"
        self.assumptions.append(chosen(self._settings, "masking", "lengths", ("lengths",), because))

    def _add_normalization(self, layer: KerasLayer) -> None:
        """``(x - mean) / max(sqrt(variance), epsilon)``, mean and variance for each position of the last axis."""
        require_known_options(layer, ("axis", "mean", "variance"))
        axis = layer.config.get("axis", -1)
        if axis not in (-1, 2, [-1], [2], None, []):
            raise ImportRefusedError(f"{layer.name}: axis: expected the last one, -1; got {repr(axis)[:100]}")
        if layer.config.get("mean") is not None:
            pair = [_numbers(layer, key) for key in ("mean", "variance")]
        else:
            pair = self._arrays(layer, 3)[:2]
        width = self._width if self._width is not None else (pair[0].shape or (0,))[0]
        if any(array.shape not in ((), (width,), (1,)) for array in pair) or width < 1:
            raise ImportRefusedError(
                f"{layer.name}: mean and variance: expected shape [{width}]; "
                f"got {' and '.join(str(list(array.shape)) for array in pair)}"
            )
        if any((array < 0).any() for array in pair[1:]):
            raise ImportRefusedError(f"{layer.name}: variance: expected no numbers below 0")
        mean = np.broadcast_to(pair[0], (width,))
        scale = np.broadcast_to(np.maximum(np.sqrt(pair[1]), EPSILON), (width,))
        weights = {"standardise/mean": mean, "standardise/scale": scale}
        self._put(WeightedLayer(Standardise(), weights), width, width)

    def _arrays(self, layer: KerasLayer, count: int) -> list[Array]:
        paths = self._source.variables.of(layer.group)
        if len(paths) != count:
            raise ImportRefusedError(
                f"{layer.name}: expected {count} variables as {layer.group}/vars/0, 1, ...; got {len(paths)}"
            )
        return [self._source.read(path) for path in paths]


def input_width(cell: WeightedCell) -> int:
    """The width of a cell's inputs: the rows of its first kernel that are not for h."""
    lowest = cell.cell.cells[0] if isinstance(cell.cell, MultiRNNCell) else cell.cell
    kernel = next(array for name, array in cell.weights.items() if name.endswith("kernel"))
    return int(kernel.shape[0]) - lowest.output_size


def _require_shape(layer: KerasLayer, name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ImportRefusedError(f"{layer.name}: {name}: expected shape {list(shape)}; got {list(array.shape)}")


def _numbers(layer: KerasLayer, key: str) -> Array:
    try:
        array = np.array(layer.config.get(key), np.float64)
    except (ValueError, TypeError) as error:
        raise ImportRefusedError(f"{layer.name}: {key}: expected numbers") from error
    squeezed = array.reshape(array.shape[-1:]) if array.size == (array.shape or (1,))[-1] else array
    return require_finite(squeezed, f"{layer.name}: {key}")
