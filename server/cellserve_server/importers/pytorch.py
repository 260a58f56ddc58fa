"""Models of PyTorch: state dicts of recurrent modules, from ``.safetensors``, ``.pt`` and ``.pth``.

Reading needs no PyTorch and runs nothing that the file says. What a state dict cannot say comes by option:

- ``nonlinearity``: ``tanh`` (the default) or ``relu``, of ``nn.RNN``.
- ``order``: the modules in the order in which forward() uses them, where several orders fit; modules that it leaves
  out are ignored.
- ``embedding``: which module is an ``nn.Embedding``, or ``none``, where an ``nn.Linear`` without biases fits as well.
- ``head``: the activation after each ``nn.Linear``, one of ``DENSE_ACTIVATIONS``; none is assumed of one alone.
- ``state_dict``: the entry of a checkpoint, where several have recurrent weights.
- ``dtype``: ``float32`` or ``float64``, to serve weights of half precision.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.importers.assembly import assemble, chosen, model_dtype, require_finite
from cellserve_server.importers.base import Assumption, ImportedModel, ImportRefusedError, Settings
from cellserve_server.importers.pytorch_checkpoint import read_state_dict
from cellserve_server.importers.pytorch_files import kind_of
from cellserve_server.importers.pytorch_layers import part_layers
from cellserve_server.importers.pytorch_modules import RecurrentModule, find_modules
from cellserve_server.importers.pytorch_order import Part, find_order
from cellserve_server.importers.pytorch_reference import pytorch_reference

NONLINEARITIES = ("tanh", "relu")


def recognises(source: Path) -> bool:
    """Whether the source is of PyTorch, by its first bytes; a damaged file with a suffix of PyTorch's is taken too."""
    return kind_of(source) != ""


def read(source: Path, settings: Settings) -> ImportedModel:
    """Reads a state dict.

    Args:
        source: a ``.safetensors``, ``.pt`` or ``.pth`` file: a state dict, or a checkpoint with one.
        settings: the options above.

    Raises:
        ImportRefusedError: the file is damaged or would run code, a module in it cannot be served, or it says too
            little.
    """
    state = read_state_dict(source, settings)
    chain = find_order(find_modules(state.tensors), settings)
    used = {name: state.tensors[name].dtype for part in chain.parts for name in _tensor_names(part)}
    dtype, dtype_assumptions = model_dtype(used, settings)
    nonlinearity, nonlinearity_assumptions = _nonlinearity(chain.parts, settings)
    arrays: dict[str, Array] = {}

    def tensor(name: str) -> Array:
        if name not in arrays:
            arrays[name] = np.asarray(require_finite(state.tensors[name].read(), name), dtype)
        return arrays[name]

    try:
        layers = [layer for part in chain.parts for layer in part_layers(part, nonlinearity, tensor)]
    except CellServeError as error:
        raise ImportRefusedError(f"a module of the source cannot be served: {error}") from error
    first = chain.parts[0]
    width = first.module.input_size if isinstance(first.module, RecurrentModule) else first.module.columns
    return assemble(
        "pytorch",
        layers,
        None if first.role == "embedding" else width,
        dtype,
        (*state.assumptions, *chain.assumptions, *nonlinearity_assumptions, *dtype_assumptions),
        (*state.ignored, *chain.ignored),
        pytorch_reference(chain.parts, nonlinearity, tensor),
    )


def _tensor_names(part: Part) -> list[str]:
    module = part.module
    if not isinstance(module, RecurrentModule):
        return [name for name in (module.weight, module.bias) if name is not None]
    cells = [cell for directions in module.layers for cell in directions]
    names = [name for cell in cells for name in (cell.weight_ih, cell.weight_hh, *(cell.biases or ()), cell.projection)]
    return [name for name in names if name is not None]


def _nonlinearity(parts: tuple[Part, ...], settings: Settings) -> tuple[str, list[Assumption]]:
    if not any(isinstance(part.module, RecurrentModule) and part.module.kind == "RNN" for part in parts):
        return "tanh", []
    because = "a state dict does not say which nonlinearity an nn.RNN has; this is PyTorch's default"
    assumption = chosen(settings, "nonlinearity", "tanh", NONLINEARITIES, because)
    return assumption.value, [assumption]
