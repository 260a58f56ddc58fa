"""Files as Keras writes them, made without Keras."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py

from cellserve.tensors import Array
from tests.unit.importers.comparing import noise

GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


def hdf5(variables: Mapping[str, Array], groups: Sequence[str] = ()) -> bytes:
    """A file of variables: ``lstm/cell/vars/0``, all below ``layers``; and groups without any."""
    stream = BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_group("layers")
        for group in groups:
            file["layers"].create_group(f"{group}/vars")
        for path, array in variables.items():
            file[f"layers/{path}"] = array
    return stream.getvalue()


def save_weights(path: Path, variables: Mapping[str, Array], groups: Sequence[str] = ()) -> Path:
    """A ``.weights.h5`` file."""
    path.write_bytes(hdf5(variables, groups))
    return path


def layer(class_name: str, /, name: str, **config: Any) -> dict[str, Any]:
    """A layer's entry in a configuration."""
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": {"name": name, "trainable": True, "dtype": "float32", **config},
        "registered_name": None,
    }


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a Sequential model."""
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


def functional(*layers: dict[str, Any], sources: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The configuration of a Functional model: each layer takes the one before it, unless ``sources`` says another."""
    names = [entry["config"]["name"] for entry in layers]
    before = dict(zip(names[1:], names, strict=False)) | dict(sources or {})
    entries = []
    for entry in layers:
        name = entry["config"]["name"]
        history = {"shape": [None], "dtype": "float32", "keras_history": [before.get(name), 0, 0]}
        tensor = {"class_name": "__keras_tensor__", "config": history}
        nodes = [{"args": [tensor], "kwargs": {"mask": None}}] if name in before else []
        entries.append({**entry, "name": name, "inbound_nodes": nodes})
    config = {
        "name": "model",
        "layers": entries,
        "input_layers": [names[0], 0, 0],
        "output_layers": [[names[-1], 0, 0]],
    }
    return {"module": "keras", "class_name": "Functional", "config": config, "registered_name": "Functional"}


def save_keras(path: Path, config: object, weights: bytes | Mapping[str, Array], version: str = "3.15.1") -> Path:
    """A ``.keras`` file."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights if isinstance(weights, bytes) else hdf5(weights))
    return path


def inputs(*shape: int | None, dtype: str = "float32") -> dict[str, Any]:
    """An input layer."""
    return layer("InputLayer", name="inputs", batch_shape=list(shape), dtype=dtype, sparse=False, ragged=False)


def recurrent(
    kind: str, depth: int, units: int, group: str, bias: bool = True, reset_after: bool = True
) -> dict[str, Array]:
    """The variables of a recurrent layer's cell; a ``group`` of a cell itself ends in ``cell`` and so on."""
    columns = GATES[kind] * units
    shapes: list[tuple[int, ...]] = [(depth, columns), (units, columns)]
    if bias:
        shapes.append((2, columns) if kind == "GRU" and reset_after else (columns,))
    return {f"{group}/cell/vars/{number}": noise(shape, number) for number, shape in enumerate(shapes)}


def dense(depth: int, units: int, group: str = "dense") -> dict[str, Array]:
    """The variables of a Dense layer."""
    return {f"{group}/vars/0": noise((depth, units)), f"{group}/vars/1": noise((units,))}
