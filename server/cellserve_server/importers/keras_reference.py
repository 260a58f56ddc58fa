"""Runs Keras itself on a file, to compare with what is served."""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cellserve.tensors import Array
from cellserve_server.importers.keras_files import CONFIG, METADATA, WEIGHTS
from cellserve_server.importers.keras_model import KerasModel


def model_reference(source: Path) -> Callable[[Array], Array]:
    """A function that loads a ``.keras`` file, in Keras's safe mode, and runs it.

    The function takes ``[batch, time, ...]`` and gives ``[batch, time, size]``, or ``[batch, 1, size]`` where the model
    gives its last step alone. It raises ``ModuleNotFoundError`` where Keras or its backend is not installed.
    """

    def run(inputs: Array) -> Array:
        keras = _import_keras()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"  # Keras goes by the name
            shutil.copyfile(source, path)
            return _outputs(keras, path, inputs)

    return run


def weights_reference(source: Path, model: KerasModel) -> Callable[[Array], Array]:
    """The same for a ``.weights.h5`` file: Keras builds the layers that were recognised and loads the file itself."""

    def run(inputs: Array) -> Array:
        keras = _import_keras()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(CONFIG, json.dumps(_sequential(model)))
                archive.writestr(METADATA, json.dumps({"keras_version": keras.__version__}))
                archive.write(source, WEIGHTS)
            return _outputs(keras, path, inputs)

    return run


def _import_keras() -> Any:
    try:
        return importlib.import_module("keras")
    except ModuleNotFoundError as error:
        name = error.name or "keras"
        raise ModuleNotFoundError(
            f"running Keras beside the served model needs the package {name}, which is not installed", name=name
        ) from error


def _outputs(keras: Any, path: Path, inputs: Array) -> Array:
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    outputs = model(inputs, training=False)
    if isinstance(outputs, (list, tuple)):
        outputs = outputs[0]
    values: Array = keras.ops.convert_to_numpy(outputs)
    return values if values.ndim == 3 else values[:, None]


def _sequential(model: KerasModel) -> dict[str, Any]:
    """The configuration of a Sequential model of these layers."""
    shape = list(model.input_shape or ())
    dtype = "int32" if len(shape) == 2 else model.layers[0].config["dtype"]
    entries = [_entry("InputLayer", {"name": "inputs", "batch_shape": shape, "dtype": dtype})]
    entries += [_entry(layer.class_name, layer.config) for layer in model.layers]
    config = {"name": "recognised", "layers": entries}
    return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}


def _entry(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A layer and the layers within it as Keras 3 writes them."""
    inner = {
        key: _entry(value["class_name"], value["config"])
        if isinstance(value, dict) and "class_name" in value
        else value
        for key, value in config.items()
    }
    return {"module": "keras.layers", "class_name": class_name, "config": inner, "registered_name": None}
