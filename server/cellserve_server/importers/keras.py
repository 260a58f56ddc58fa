"""Models of Keras, from ``.keras`` and ``.weights.h5`` files.

Reading needs h5py, no Keras, and runs nothing that the file says. A ``.keras`` file has the layers with their options.
What a ``.weights.h5`` file cannot say comes by option:

- ``layers``: the groups of the file in the order in which they run, as ``lstm,gru,dense``, where several orders fit.
- ``activation``, ``recurrent_activation``: of the recurrent layers, by Keras's names; one for all, or one for each.
- ``head``: the activation of each Dense layer, one of ``DENSE_ACTIVATIONS``; none is assumed of one alone.
- ``merge_mode``: of Bidirectional layers; ``concat`` is assumed.
- ``reset_after``: of a GRU without biases; ``true`` is assumed.
- ``keras_version``: ``2`` or ``3``, for hard_sigmoid, which is another function in each.

Of both kinds of file:

- ``masking=lengths``: serve a model that masks steps (``mask_zero``, ``Masking``); its padding is then said by lengths.
- ``dtype``: ``float32`` or ``float64``, to serve weights or layers of half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.importers.assembly import assemble, model_dtype, require_finite
from cellserve_server.importers.base import ImportedModel, ImportRefusedError, Settings
from cellserve_server.importers.keras_cells import Source
from cellserve_server.importers.keras_files import kind_of, read_keras_file, read_weights_file
from cellserve_server.importers.keras_inference import infer_model
from cellserve_server.importers.keras_layers import serve_layers
from cellserve_server.importers.keras_model import KerasModel, read_model_config
from cellserve_server.importers.keras_options import policy
from cellserve_server.importers.keras_reference import model_reference, weights_reference
from cellserve_server.importers.keras_variables import Variables


def recognises(source: Path) -> bool:
    """Whether the source is of Keras, by its first bytes; a damaged file with a suffix of Keras's is taken too."""
    return kind_of(source) != ""


def read(source: Path, settings: Settings) -> ImportedModel:
    """Reads a model.

    Args:
        source: a ``.keras`` or ``.weights.h5`` file.
        settings: the options above.

    Raises:
        ImportRefusedError: the file is damaged, a layer or an option in it cannot be served, it says too little, or
            h5py is not installed.
    """
    try:
        return _read_model(source, settings) if kind_of(source) == "model" else _read_weights(source, settings)
    except CellServeError as error:
        raise ImportRefusedError(f"a layer of the source cannot be served: {error}") from error
    except RecursionError as error:
        raise ImportRefusedError(f"{source.name}: its configuration is nested too deeply") from error


def _read_model(source: Path, settings: Settings) -> ImportedModel:
    file = read_keras_file(source)
    model = read_model_config(file.config)
    policies = {f"{layer.name}: its dtype": policy(layer) for layer in model.layers if layer.class_name != "InputLayer"}
    dtype, assumptions = model_dtype(_dtypes(file.variables) | policies, settings)
    served = serve_layers(model, Source(file.variables, _reader(file.variables, dtype), file.version), settings)
    imported = assemble(
        "keras",
        served.layers,
        served.input_width,
        dtype,
        (*assumptions, *served.assumptions),
        (*served.ignored, *(f"{name}: not of the layers" for name in file.variables.others)),
        model_reference(source),
    )
    return replace(imported, reference_shape=_fixed_shape(model))


def _read_weights(source: Path, settings: Settings) -> ImportedModel:
    variables = read_weights_file(source)
    dtype, assumptions = model_dtype(_dtypes(variables), settings)
    inferred = infer_model(variables, dtype.name, settings)
    served = serve_layers(inferred.model, Source(variables, _reader(variables, dtype), inferred.version), settings)
    return assemble(
        "keras",
        served.layers,
        served.input_width,
        dtype,
        (*assumptions, *inferred.assumptions, *served.assumptions),
        (*inferred.ignored, *served.ignored),
        weights_reference(source, inferred.model),
    )


def _dtypes(variables: Variables) -> dict[str, str]:
    """The dtypes of the layers' numbers; counters and seeds are integers and no numbers of the model."""
    return {
        path: variable.dtype
        for path, variable in variables.by_path.items()
        if variable.dtype == "bfloat16" or variable.values.dtype.kind == "f"
    }


def _reader(variables: Variables, dtype: np.dtype[Any]) -> Callable[[str], Array]:
    def read_variable(path: str) -> Array:
        return np.asarray(require_finite(variables.by_path[path].values, path), dtype)

    return read_variable


def _fixed_shape(model: KerasModel) -> tuple[int | None, int | None]:
    """Batch and time that Keras insists on."""
    shape = model.input_shape or (None, None)
    return shape[0], shape[1]
