"""Runs PyTorch itself on the modules that were recognised, to compare with what is served."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from cellserve.tensors import Array
from cellserve_server.importers.pytorch_layers import Read
from cellserve_server.importers.pytorch_modules import PlainModule, RecurrentModule
from cellserve_server.importers.pytorch_order import Part


def pytorch_reference(parts: Sequence[Part], nonlinearity: str, read: Read) -> Callable[[Array], Array]:
    """A function that builds the ``torch.nn`` modules, loads the tensors into them as they are, and runs them.

    The function takes ``[batch, time, ...]``, begins at zero states and gives ``[batch, time, size]``. It raises
    ``ModuleNotFoundError`` where PyTorch is not installed.
    """

    def run(inputs: Array) -> Array:
        try:
            torch: Any = importlib.import_module("torch")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "running PyTorch beside the served model needs the package torch, which is not installed", name="torch"
            ) from error
        with torch.no_grad():
            values = torch.from_numpy(inputs.copy())
            for part in parts:
                values = _run_part(torch, part, nonlinearity, read, values)
        outputs: Array = values.numpy()
        return outputs

    return run


def _run_part(torch: Any, part: Part, nonlinearity: str, read: Read, values: Any) -> Any:
    module = part.module
    if isinstance(module, RecurrentModule):
        return _run_recurrent(torch, module, nonlinearity, read, values)
    weight = torch.from_numpy(read(module.weight).copy())
    if part.role == "embedding":
        return torch.nn.functional.embedding(values.long(), weight)
    return _run_linear(torch, module, part.activation, weight, read, values)


def _run_linear(torch: Any, module: PlainModule, activation: str, weight: Any, read: Read, values: Any) -> Any:
    bias = None if module.bias is None else torch.from_numpy(read(module.bias).copy())
    values = torch.nn.functional.linear(values, weight, bias)
    if activation == "softmax":
        return torch.softmax(values, dim=-1)
    return values if activation == "none" else getattr(torch, activation)(values)


def _run_recurrent(torch: Any, module: RecurrentModule, nonlinearity: str, read: Read, values: Any) -> Any:
    options: dict[str, Any] = {"bias": module.has_biases, "dtype": values.dtype}
    if module.kind == "RNN":
        options["nonlinearity"] = nonlinearity
    if not module.is_cell:
        options |= {"num_layers": len(module.layers), "bidirectional": len(module.layers[0]) == 2, "batch_first": True}
        if module.proj_size:
            options["proj_size"] = module.proj_size
    maker = getattr(torch.nn, module.kind + ("Cell" if module.is_cell else ""))
    network = maker(module.input_size, module.hidden_size, **options).eval()
    prefix = f"{module.name}." if module.name else ""
    network.load_state_dict({name: torch.from_numpy(read(prefix + name).copy()) for name in network.state_dict()})
    if not module.is_cell:
        return network(values)[0]
    state, outputs = None, []
    for step in range(values.shape[1]):
        state = network(values[:, step], state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs, dim=1)
