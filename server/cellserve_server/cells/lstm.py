"""The basic LSTM cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import BasicLSTMCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for, sigmoid
from cellserve_server.cells.cell import Cell, CellBuilder, Weights


class BasicLSTM:
    """The LSTM of TF1's ``BasicLSTMCell.call``: no peepholes, no clipping, no projection.

    ``z = [x, h] kernel + bias``, cut into four equal parts i, j, f, o (j is the candidate);
    ``c' = sigmoid(f + forget_bias) c + sigmoid(i) activation(j)``; ``h' = sigmoid(o) activation(c')``.
    Output: h'. State: the leaves c and h, each ``[batch, num_units]``; with ``state_is_tuple=False`` one leaf with c
    and h side by side, ``[batch, 2 num_units]``.
    """

    def __init__(self, cell: BasicLSTMCell, kernel: Array, bias: Array) -> None:
        self._units = units = cell.num_units
        self.leaf_sizes = (units, units) if cell.state_is_tuple else (2 * units,)
        self.output_size = units
        self._kernel = kernel
        # forget_bias is no part of the stored bias; added to a copy once, it costs nothing at each step.
        self._bias = bias.copy()
        self._bias[2 * units : 3 * units] += cell.forget_bias
        self._activation = activation_for(cell.activation or "tanh")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        units = self._units
        if len(leaves) == 2:
            new_c, new_h = self._step(inputs, leaves[0], leaves[1])
            return new_h, [new_c, new_h]
        (both,) = leaves
        new_c, new_h = self._step(inputs, both[:, :units], both[:, units:])
        return new_h, [np.concatenate((new_c, new_h), axis=1)]

    def _step(self, inputs: Array, c: Array, h: Array) -> tuple[Array, Array]:
        units = self._units
        gates = np.concatenate((inputs, h), axis=1) @ self._kernel
        gates += self._bias
        i, j = gates[:, :units], gates[:, units : 2 * units]
        f, o = gates[:, 2 * units : 3 * units], gates[:, 3 * units :]
        f_and_o = gates[:, 2 * units :]
        sigmoid(i, i)
        self._activation(j, j)
        sigmoid(f_and_o, f_and_o)
        np.multiply(i, j, out=j)
        new_c = f * c
        new_c += j
        new_h = self._activation(new_c, np.empty_like(new_c))
        new_h *= o
        return new_c, new_h


def build_basic_lstm(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``kernel`` and ``bias``."""
    assert isinstance(placed.cell, BasicLSTMCell)
    return BasicLSTM(placed.cell, weights[placed.scope + "kernel"], weights[placed.scope + "bias"])
