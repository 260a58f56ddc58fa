"""The configuration of a Keras model, as the line of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cellserve_server.importers.base import ImportRefusedError

MAX_LAYERS = 1000
MAX_NESTING = 20
GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "InputLayer": "input_layer",
        "Normalization": "normalization",
        "Embedding": "embedding",
        "Masking": "masking",
        "SimpleRNN": "simple_rnn",
        "LSTM": "lstm",
        "GRU": "gru",
        "RNN": "rnn",
        "Bidirectional": "bidirectional",
        "TimeDistributed": "time_distributed",
        "Dense": "dense",
        "Activation": "activation",
        "Softmax": "softmax",
        "ReLU": "re_lu",
        "Dropout": "dropout",
        "SpatialDropout1D": "spatial_dropout1d",
        "GaussianDropout": "gaussian_dropout",
        "GaussianNoise": "gaussian_noise",
        "AlphaDropout": "alpha_dropout",
        "ActivityRegularization": "activity_regularization",
        "Identity": "identity",
    }
)
"""The layers that can be served, and the name of each one's group in the file of variables."""

CELLS: Mapping[str, str] = MappingProxyType(
    {
        "SimpleRNNCell": "simple_rnn_cell",
        "LSTMCell": "lstm_cell",
        "GRUCell": "gru_cell",
        "StackedRNNCells": "stacked_rnn_cells",
    }
)
"""The cells that an ``RNN`` layer may have, and their groups."""


@dataclass(frozen=True)
class KerasLayer:
    """A layer (or cell) of a model: its class, its name, its options, and the group of its variables."""

    class_name: str
    name: str
    config: Mapping[str, Any]
    group: str


@dataclass(frozen=True)
class KerasModel:
    """A model's layers in the order in which they run, input layers too; and the shape of its inputs.

    Attributes:
        input_shape: ``(batch, time, ...)``, None where any will do; None: the model does not say.
        extra_outputs: whether the model gives the states of its last layer too.
    """

    layers: tuple[KerasLayer, ...]
    input_shape: tuple[int | None, ...] | None
    extra_outputs: bool = False


def read_model_config(config: Mapping[str, Any]) -> KerasModel:
    """Reads ``config.json``.

    Raises:
        ImportRefusedError: the model is neither Sequential nor Functional, branches, or has a layer that is not known.
    """
    inner = config.get("config")
    entries = inner.get("layers") if isinstance(inner, dict) else None
    kind = config.get("class_name")
    if kind not in ("Sequential", "Functional", "Model") or not isinstance(entries, list):
        raise ImportRefusedError(
            f"the model: expected a Sequential or Functional one with layers; got a {_short(kind)}"
        )
    if not 1 <= len(entries) <= MAX_LAYERS:
        raise ImportRefusedError(f"the model: expected 1 to {MAX_LAYERS} layers; got {len(entries)}")
    layers = read_layers(entries, GROUPS, "")
    assert isinstance(inner, dict)
    extra_outputs = False
    if kind != "Sequential":
        layers, extra_outputs = _in_a_line(layers, entries, inner)
    return KerasModel(tuple(layers), _input_shape(layers), extra_outputs)


def read_layers(entries: list[Any], groups: Mapping[str, str], prefix: str) -> list[KerasLayer]:
    """The layers of a list in a configuration; the groups are numbered by class, as Keras does when it saves.

    Args:
        entries: the list.
        groups: the classes that may be in it, with their groups' names.
        prefix: where the groups are.

    Raises:
        ImportRefusedError: there is a layer of another class, or two of one name.
    """
    counts: dict[str, int] = {}
    layers = []
    for entry in entries:
        layer = read_layer(entry, groups, prefix)
        count = counts.get(layer.class_name, 0)
        counts[layer.class_name] = count + 1
        group = layer.group if count == 0 else f"{layer.group}_{count}"
        layers.append(KerasLayer(layer.class_name, layer.name, layer.config, group))
    names = [layer.name for layer in layers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ImportRefusedError(f"{twice}: expected each layer once; a layer that is used twice cannot be served")
    return layers


def read_layer(entry: Any, groups: Mapping[str, str], prefix: str) -> KerasLayer:
    """One layer of a configuration, its group not numbered.

    Raises:
        ImportRefusedError: it is of another class, of somebody's own, or malformed.
    """
    config = entry.get("config") if isinstance(entry, dict) else None
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        raise ImportRefusedError("config.json: expected layers with a class, a name and options")
    name, kind = config["name"][:200], entry.get("class_name")
    module, registered = entry.get("module", "keras.layers"), entry.get("registered_name")
    if not isinstance(kind, str) or kind not in groups:
        raise ImportRefusedError(f"{name}: a layer of class {_short(kind)} cannot be served")
    if not (isinstance(module, str) and module.partition(".")[0] in ("keras", "tf_keras")) or registered not in (
        None,
        kind,
    ):
        raise ImportRefusedError(f"{name}: a layer of somebody's own class cannot be served; got {_short(registered)}")
    return KerasLayer(kind, name, config, prefix + groups[kind])


def _input_shape(layers: list[KerasLayer]) -> tuple[int | None, ...] | None:
    for layer in layers:
        shape = layer.config.get("batch_shape", layer.config.get("batch_input_shape"))
        if shape is None:
            continue
        if not isinstance(shape, (list, tuple)) or not all(size is None or type(size) is int for size in shape):
            raise ImportRefusedError(f"{layer.name}: expected the shape of the inputs; got {_short(shape)}")
        return tuple(shape)
    return None


def _in_a_line(
    layers: list[KerasLayer], entries: list[Any], config: Mapping[str, Any]
) -> tuple[list[KerasLayer], bool]:
    """The layers of a Functional model in order: each takes the one before it."""
    by_name = {layer.name: layer for layer in layers}
    sources: dict[str, str] = {}
    for layer, entry in zip(layers, entries, strict=True):
        nodes = entry.get("inbound_nodes")
        if not isinstance(nodes, list) or len(nodes) > 1:
            raise ImportRefusedError(f"{layer.name}: expected a layer that is used once")
        if nodes:
            sources[layer.name] = _source(layer.name, nodes[0])
    first = _ends(config, "input_layers")
    last = _ends(config, "output_layers")
    if len(first) != 1 or first[0][1] != 0:
        raise ImportRefusedError(f"the model: expected one input; got {len(first)}")
    if len({name for name, _ in last}) != 1 or last[0][1] != 0:
        raise ImportRefusedError("the model: expected one output, or one layer's output and states")
    line = [last[0][0]]
    while line[-1] in sources and len(line) <= len(layers):
        line.append(sources[line[-1]])
    line.reverse()
    unknown = [name for name in line if name not in by_name]
    besides = [name for name in by_name if name not in line]
    if line[0] != first[0][0] or unknown or besides or len(line) != len(layers):
        raise ImportRefusedError(
            f"the model: expected layers in one line from the input to the output; got besides "
            f"{', '.join(besides or unknown or line)[:300]}"
        )
    return [by_name[name] for name in line], len(last) > 1


def _source(name: str, node: Any) -> str:
    """The layer whose only (or first) output a layer takes."""
    if isinstance(node, dict):  # Keras 3
        options = node.get("kwargs")
        tensors = [*_keras_tensors(node.get("args")), *_keras_tensors(options)]
    else:  # Keras 2: [["name", node, tensor, options]]
        parts = node if isinstance(node, list) and node and isinstance(node[0], list) else [node]
        options = parts[0][3] if isinstance(parts[0], list) and len(parts[0]) > 3 else {}
        tensors = [part[:3] for part in parts if isinstance(part, list)]
    if not isinstance(options, dict) or any(value not in (None, False) for value in options.values()):
        raise ImportRefusedError(
            f"{name}: it is called with more than its inputs (a mask, a state), which cannot be served"
        )
    if len(tensors) != 1 or len(tensors[0]) != 3 or tensors[0][1:] != [0, 0] or not isinstance(tensors[0][0], str):
        raise ImportRefusedError(f"{name}: expected it to take the output of one layer")
    return tensors[0][0]


def _keras_tensors(value: Any, depth: int = 0) -> Iterator[list[Any]]:
    if depth > MAX_NESTING:
        raise ImportRefusedError("config.json: nested too deeply")
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__" and isinstance(value.get("config"), dict):
            history = value["config"].get("keras_history")
            yield history if isinstance(history, list) else []
            return
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _keras_tensors(item, depth + 1)


def _ends(config: Mapping[str, Any], key: str) -> list[tuple[str, int]]:
    """``input_layers`` or ``output_layers``: names of layers, and which of its outputs."""
    ends = config.get(key)
    if isinstance(ends, list) and ends and isinstance(ends[0], str):
        ends = [ends]
    if not isinstance(ends, list) or not all(
        isinstance(end, list) and len(end) == 3 and isinstance(end[0], str) and type(end[2]) is int for end in ends
    ):
        raise ImportRefusedError(f"config.json: {key}: expected a list of layers; got {_short(ends)}")
    return [(end[0], end[2]) for end in ends]


def _short(value: object) -> str:
    return repr(value)[:100]
