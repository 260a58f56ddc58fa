"""Descriptions of models <-> ``ModelSpec``: what stands around a cell, and the tensors that go in and come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from cellserve.cell_messages import cell_from_proto, cell_to_proto
from cellserve.cells import MAX_UNITS, CellDescription, Variable, place
from cellserve.cells.base import require_vectors
from cellserve.errors import FieldInvalidError, ShapeMismatchError
from cellserve.states import Structure
from cellserve.tensors import data_type_of, dtype_of
from cellserve.v1 import model_pb2, tensor_pb2

MAX_LAYERS = 64
MAX_NAME_CHARS = 128
MAX_LABEL_CHARS = 128
MAX_ROW_DIMENSIONS = 4
DENSE_ACTIVATIONS = ("none", "softmax", "sigmoid", "tanh", "relu")
MERGE_MODES = ("concat", "sum", "mul", "average")
IDS = np.dtype(np.int32)
_DENSE_NUMBERS = {
    "none": model_pb2.DENSE_ACTIVATION_NONE,
    "softmax": model_pb2.DENSE_ACTIVATION_SOFTMAX,
    "sigmoid": model_pb2.DENSE_ACTIVATION_SIGMOID,
    "tanh": model_pb2.DENSE_ACTIVATION_TANH,
    "relu": model_pb2.DENSE_ACTIVATION_RELU,
}
_DENSE_NAMES = {number: name for name, number in _DENSE_NUMBERS.items()}
_DENSE_NAMES[model_pb2.DENSE_ACTIVATION_UNSPECIFIED] = "none"
_MERGE_NUMBERS = {
    "concat": model_pb2.MERGE_MODE_CONCAT,
    "sum": model_pb2.MERGE_MODE_SUM,
    "mul": model_pb2.MERGE_MODE_MUL,
    "average": model_pb2.MERGE_MODE_AVERAGE,
}
_MERGE_NAMES = {number: name for name, number in _MERGE_NUMBERS.items()}
_MERGE_NAMES[model_pb2.MERGE_MODE_UNSPECIFIED] = "concat"


@dataclass(frozen=True)
class ArraySpec:
    """What one row of one step of an input or output looks like.

    Attributes:
        name: its name.
        dtype: its element type.
        shape: without the batch and the time dimension; ``()`` is one number a row.
        labels: what the elements of the last dimension are called; empty or as many as it is long.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standardise:
    """``(x - mean) / scale``, element by element. Variables: ``standardise/mean``, ``standardise/scale``."""


@dataclass(frozen=True)
class Embedding:
    """The row of a table that an int32 id names. Variable: ``embedding/embeddings``."""

    vocabulary_size: int
    depth: int


@dataclass(frozen=True)
class Bidirectional:
    """A cell from each end of the sequence; it cannot be stepped.

    Attributes:
        merge_mode: ``concat`` (the outputs side by side), ``sum``, ``mul`` or ``average``.
    """

    forward: CellDescription
    backward: CellDescription
    merge_mode: str = "concat"


@dataclass(frozen=True)
class Dense:
    """``activation(x kernel + bias)``, activation one of ``DENSE_ACTIVATIONS``."""

    units: int
    activation: str = "none"


Layer: TypeAlias = Standardise | Embedding | Bidirectional | Dense | CellDescription


@dataclass(frozen=True)
class ModelDescription:
    """How a model computes.

    Attributes:
        inputs: what one step of one row takes.
        layers: from the inputs upward.
        outputs: what one step of one row gives; always set after ``model_from_proto`` or ``describe``.
        dtype: float32 or float64: of weights, states, and floating-point inputs and outputs.
    """

    inputs: tuple[ArraySpec, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[ArraySpec, ...]
    dtype: np.dtype[Any]

    @property
    def state_size(self) -> Structure:
        """The structure of the state: the cell's, or a tuple of them where several layers have one."""
        sizes = tuple(
            _state_size(layer) for layer in self.layers if isinstance(layer, (CellDescription, Bidirectional))
        )
        return sizes[0] if len(sizes) == 1 else sizes

    @property
    def steppable(self) -> bool:
        """Whether single steps are possible: no layer looks at the whole sequence."""
        return not any(isinstance(layer, Bidirectional) for layer in self.layers)


def describe(cell: CellDescription, input_size: int, dtype: np.dtype[Any]) -> ModelDescription:
    """The model that is one cell: an input ``inputs`` of this width (or of ids), an output ``output``."""
    inputs = (ArraySpec("inputs", IDS, ()) if cell.takes_ids() else ArraySpec("inputs", dtype, (input_size,)),)
    return ModelDescription(inputs, (cell,), (ArraySpec("output", dtype, (cell.output_size,)),), dtype)


def _state_size(layer: CellDescription | Bidirectional) -> Structure:
    if isinstance(layer, Bidirectional):
        return (layer.forward.state_size, layer.backward.state_size)
    return layer.state_size


@dataclass(frozen=True)
class PlacedLayer:
    """A layer with the shape of what comes in, the prefix of its variables, and the shape of what goes out."""

    layer: Layer
    prefix: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    variables: tuple[Variable, ...]


def place_layers(description: ModelDescription) -> list[PlacedLayer]:
    """Gives every layer its shapes and its variables.

    A second layer that would take the first one's variable names has its own under ``layer_1/``, a third ``layer_2/``.

    Raises:
        ShapeMismatchError: a layer does not fit what comes in.
        FieldInvalidError: inputs that the layers cannot take.
    """
    shape = description.inputs[0].shape
    taken: set[str] = set()
    placed = []
    for index, layer in enumerate(description.layers):
        field = f"layers[{index}]"
        if takes_ids(layer):
            if index > 0 or shape != () or description.inputs[0].dtype != IDS:
                raise FieldInvalidError(f"{field}: an embedding is the first layer, on int32 ids of shape []")
        elif len(shape) != 1 or shape[0] < 1:
            raise ShapeMismatchError(f"{field}: expected vectors as inputs; got shape {list(shape)}")
        output_shape, variables = _layer_shape(layer, shape)
        prefix = _free_prefix(variables, taken)
        variables = tuple(variable._replace(name=prefix + variable.name) for variable in variables)
        taken.update(variable.name for variable in variables)
        placed.append(PlacedLayer(layer, prefix, shape, output_shape, variables))
        shape = output_shape
    return placed


def takes_ids(layer: Layer) -> bool:
    """Whether a layer's inputs are ids."""
    return isinstance(layer, Embedding) or (isinstance(layer, CellDescription) and layer.takes_ids())


def _free_prefix(variables: Sequence[Variable], taken: set[str]) -> str:
    prefix, count = "", 0
    while any(prefix + variable.name in taken for variable in variables):
        count += 1
        prefix = f"layer_{count}/"
    return prefix


def _layer_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[Variable, ...]]:
    """The shape after a layer, and its variables."""
    match layer:
        case Standardise():
            return shape, (Variable("standardise/mean", shape, "zeros"), Variable("standardise/scale", shape, "ones"))
        case Embedding(vocabulary_size, depth):
            return (depth,), (Variable("embedding/embeddings", (vocabulary_size, depth), "glorot_uniform"),)
        case Dense(units, _):
            kernel = Variable("dense/kernel", (shape[0], units), "glorot_uniform")
            return (units,), (kernel, Variable("dense/bias", (units,), "zeros"))
        case Bidirectional(forward, backward, merge_mode):
            require_vectors(forward, "bidirectional.forward")
            require_vectors(backward, "bidirectional.backward")
            widths = (forward.output_size, backward.output_size)
            if merge_mode != "concat" and widths[0] != widths[1]:
                raise ShapeMismatchError(
                    f"bidirectional: to {merge_mode} outputs they must be equally wide; got {widths}"
                )
            both = (*place(forward, shape[0], "fw/").variables(), *place(backward, shape[0], "bw/").variables())
            return (sum(widths) if merge_mode == "concat" else widths[0],), both
        case _:
            return (layer.output_size,), tuple(layer.variables(shape[0] if shape else 0))


def model_to_proto(description: ModelDescription) -> model_pb2.ModelSpec:
    """Packs a model's description."""
    return model_pb2.ModelSpec(
        data_type=data_type_of(description.dtype, "data_type"),
        inputs=[array_spec_to_proto(spec) for spec in description.inputs],
        layers=[_layer_to_proto(layer) for layer in description.layers],
        outputs=[array_spec_to_proto(spec) for spec in description.outputs],
    )


def model_from_proto(spec: model_pb2.ModelSpec) -> ModelDescription:
    """Unpacks and checks a model's description: everything that can be said without the weights.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    data_type = spec.data_type or tensor_pb2.DATA_TYPE_FLOAT32
    dtype = dtype_of(data_type, "data_type")
    if dtype.kind != "f":
        raise FieldInvalidError(f"data_type: expected float32 or float64; got {dtype.name}")
    if len(spec.inputs) != 1:
        raise FieldInvalidError(f"inputs: expected 1 entry; got {len(spec.inputs)}")
    if not 1 <= len(spec.layers) <= MAX_LAYERS:
        raise FieldInvalidError(f"layers: expected 1 to {MAX_LAYERS}; got {len(spec.layers)}")
    inputs = tuple(array_spec_from_proto(item, f"inputs[{i}]") for i, item in enumerate(spec.inputs))
    layers = tuple(_layer_from_proto(item, f"layers[{i}]") for i, item in enumerate(spec.layers))
    if inputs[0].dtype.kind == "f" and inputs[0].dtype != dtype:
        raise FieldInvalidError(f"inputs[0].data_type: expected {dtype.name}, the model's; got {inputs[0].dtype.name}")
    if inputs[0].dtype.kind != "f" and not takes_ids(layers[0]):
        raise FieldInvalidError(f"inputs[0].data_type: {inputs[0].dtype.name} needs an embedding as the first layer")
    bare = ModelDescription(inputs, layers, (), dtype)
    shape = place_layers(bare)[-1].output_shape
    return replace(bare, outputs=_outputs(spec, shape, dtype))


def _outputs(spec: model_pb2.ModelSpec, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[ArraySpec, ...]:
    if not spec.outputs:
        return (ArraySpec("output", dtype, shape),)
    if len(spec.outputs) != 1:
        raise FieldInvalidError(f"outputs: expected 1 entry; got {len(spec.outputs)}")
    output = array_spec_from_proto(spec.outputs[0], "outputs[0]")
    if output.shape != shape or output.dtype != dtype:
        raise ShapeMismatchError(
            f"outputs[0]: the last layer gives {dtype.name}{list(shape)}; got {output.dtype.name}{list(output.shape)}"
        )
    return (output,)


def array_spec_to_proto(spec: ArraySpec) -> tensor_pb2.TensorSpec:
    """Packs an ``ArraySpec``."""
    return tensor_pb2.TensorSpec(
        name=spec.name, data_type=data_type_of(spec.dtype, spec.name), shape=spec.shape, labels=spec.labels
    )


def array_spec_from_proto(spec: tensor_pb2.TensorSpec, field: str) -> ArraySpec:
    """Unpacks and checks a ``TensorSpec``.

    Raises:
        InvalidArgumentError: no name, an unknown type, a dimension below 1, a wrong number of labels, or one too long.
    """
    if not 1 <= len(spec.name) <= MAX_NAME_CHARS:
        raise FieldInvalidError(f"{field}.name: expected 1 to {MAX_NAME_CHARS} characters; got {len(spec.name)}")
    # As many as are shown: a long one is refused, and may have millions.
    shape = tuple(spec.shape[: MAX_ROW_DIMENSIONS + 1])
    if len(shape) > MAX_ROW_DIMENSIONS or not all(1 <= length <= MAX_UNITS for length in shape):
        raise FieldInvalidError(
            f"{field}.shape: expected at most {MAX_ROW_DIMENSIONS} dimensions, each from 1 to {MAX_UNITS}; "
            f"got {len(spec.shape)}: {list(shape)}"
        )
    if spec.labels and (not shape or len(spec.labels) != shape[-1]):
        raise FieldInvalidError(f"{field}.labels: expected none or {shape[-1] if shape else 0}; got {len(spec.labels)}")
    for index, label in enumerate(spec.labels):
        if len(label) > MAX_LABEL_CHARS:
            raise FieldInvalidError(
                f"{field}.labels[{index}]: expected at most {MAX_LABEL_CHARS} characters; got {len(label)}"
            )
    return ArraySpec(spec.name, dtype_of(spec.data_type, f"{field}.data_type"), shape, tuple(spec.labels))


def _layer_to_proto(layer: Layer) -> model_pb2.Layer:
    match layer:
        case Standardise():
            return model_pb2.Layer(standardise=model_pb2.Standardise())
        case Embedding(vocabulary_size, depth):
            return model_pb2.Layer(embedding=model_pb2.Embedding(vocabulary_size=vocabulary_size, depth=depth))
        case Dense(units, activation):
            return model_pb2.Layer(dense=model_pb2.Dense(units=units, activation=_DENSE_NUMBERS[activation]))
        case Bidirectional(forward, backward, merge_mode):
            both = model_pb2.Bidirectional(
                forward=cell_to_proto(forward),
                backward=cell_to_proto(backward),
                merge_mode=_MERGE_NUMBERS[merge_mode],
            )
            return model_pb2.Layer(bidirectional=both)
        case _:
            return model_pb2.Layer(cell=cell_to_proto(layer))


def _layer_from_proto(message: model_pb2.Layer, field: str) -> Layer:
    match message.WhichOneof("kind"):
        case "standardise":
            return Standardise()
        case "embedding":
            size, depth = message.embedding.vocabulary_size, message.embedding.depth
            _require_width(size, f"{field}.embedding.vocabulary_size")
            _require_width(depth, f"{field}.embedding.depth")
            return Embedding(size, depth)
        case "dense":
            _require_width(message.dense.units, f"{field}.dense.units")
            if message.dense.activation not in _DENSE_NAMES:
                raise FieldInvalidError(f"{field}.dense.activation: expected one of {', '.join(DENSE_ACTIVATIONS)}")
            return Dense(message.dense.units, _DENSE_NAMES[message.dense.activation])
        case "bidirectional":
            both = message.bidirectional
            if both.merge_mode not in _MERGE_NAMES:
                raise FieldInvalidError(f"{field}.bidirectional.merge_mode: expected one of {', '.join(MERGE_MODES)}")
            return Bidirectional(
                cell_from_proto(both.forward, f"{field}.bidirectional.forward"),
                cell_from_proto(both.backward, f"{field}.bidirectional.backward"),
                _MERGE_NAMES[both.merge_mode],
            )
        case "cell":
            return cell_from_proto(message.cell, f"{field}.cell")
        case _:
            raise FieldInvalidError(f"{field}: expected one kind of layer; got an empty message")


def _require_width(value: int, field: str) -> None:
    if not 1 <= value <= MAX_UNITS:
        raise FieldInvalidError(f"{field}: expected 1 to {MAX_UNITS}; got {value}")
