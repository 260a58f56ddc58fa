"""PyTorch's modules as our layers, weights and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from cellserve.cells import BasicLSTMCell, BasicRNNCell, CudnnCompatibleGRUCell, LSTMCell
from cellserve.specs import Dense, Embedding
from cellserve.tensors import Array
from cellserve_server.importers.assembly import WeightedCell, WeightedLayer, bidirectional_layer, stack_layer
from cellserve_server.importers.pytorch_modules import GATES, Direction, PlainModule, RecurrentModule
from cellserve_server.importers.pytorch_order import Part

Read: TypeAlias = Callable[[str], Array]
"""Gives a tensor of the state dict by its name, finite and of the model's dtype."""


def part_layers(part: Part, nonlinearity: str, read: Read) -> list[WeightedLayer]:
    """The layers of a module: one, or as many as a bidirectional module has."""
    module = part.module
    if isinstance(module, RecurrentModule):
        return _recurrent_layers(module, nonlinearity, read)
    if part.role == "embedding":
        table = read(module.weight)
        return [WeightedLayer(Embedding(module.rows, module.columns), {"embedding/embeddings": table})]
    return [_dense(module, part.activation, read)]


def _dense(module: PlainModule, activation: str, read: Read) -> WeightedLayer:
    """``y = x W^T + b``, with W ``[out, in]``."""
    kernel = read(module.weight).T
    bias = np.zeros(module.rows, kernel.dtype) if module.bias is None else read(module.bias)
    return WeightedLayer(Dense(module.rows, activation), {"dense/kernel": kernel, "dense/bias": bias})


def _recurrent_layers(module: RecurrentModule, nonlinearity: str, read: Read) -> list[WeightedLayer]:
    cells = [[_cell(module, direction, nonlinearity, read) for direction in directions] for directions in module.layers]
    if len(cells[0]) == 1:
        return [stack_layer([forward for (forward,) in cells])]
    return [bidirectional_layer(forward, backward) for forward, backward in cells]


def _cell(module: RecurrentModule, cell: Direction, nonlinearity: str, read: Read) -> WeightedCell:
    """Source of the formulas: the documentation of ``torch.nn.RNN``, ``LSTM`` and ``GRU``."""
    from_input, from_hidden = read(cell.weight_ih).T, read(cell.weight_hh).T
    rows = GATES[module.kind] * module.hidden_size
    zeros = np.zeros(rows, from_input.dtype)
    input_bias, hidden_bias = (zeros, zeros) if cell.biases is None else (read(name) for name in cell.biases)
    units = module.hidden_size
    if module.kind == "GRU":
        return _gru(units, from_input, from_hidden, input_bias, hidden_bias)
    kernel, bias = np.concatenate((from_input, from_hidden)), input_bias + hidden_bias
    if module.kind == "RNN":
        return WeightedCell(BasicRNNCell(units, nonlinearity), {"kernel": kernel, "bias": bias})
    # Blocks i, f, g, o there; i, j, f, o here, and g is j. PyTorch adds no constant to f.
    i, f, g, o = np.split(kernel, 4, axis=1)
    weights = {"kernel": np.concatenate((i, g, f, o), axis=1)}
    i, f, g, o = np.split(bias, 4)
    weights["bias"] = np.concatenate((i, g, f, o))
    if cell.projection is None:
        return WeightedCell(BasicLSTMCell(units, forget_bias=0.0), weights)
    weights["projection/kernel"] = read(cell.projection).T
    return WeightedCell(LSTMCell(units, num_proj=module.proj_size, forget_bias=0.0), weights)


def _gru(units: int, from_input: Array, from_hidden: Array, input_bias: Array, hidden_bias: Array) -> WeightedCell:
    """Blocks r, z, n there: ``h' = (1 - z) n + z h``, so z is our u; n has its two biases apart, inside the reset."""
    gates = 2 * units
    return WeightedCell(
        CudnnCompatibleGRUCell(units),
        {
            "gates/kernel": np.concatenate((from_input[:, :gates], from_hidden[:, :gates])),
            "gates/bias": input_bias[:gates] + hidden_bias[:gates],
            "candidate/input_projection/kernel": from_input[:, gates:],
            "candidate/input_projection/bias": input_bias[gates:],
            "candidate/hidden_projection/kernel": from_hidden[:, gates:],
            "candidate/hidden_projection/bias": hidden_bias[gates:],
        },
    )
