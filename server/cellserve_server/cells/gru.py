"""The gated recurrent unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import GRUCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for, sigmoid
from cellserve_server.cells.cell import Cell, CellBuilder, Weights


class GRU:
    """The GRU of TF1's ``GRUCell.call``: the reset is applied to h before the product.

    ``r, u = sigmoid([x, h] gates_kernel + gates_bias)`` in this order; ``c = activation([x, r h] candidate_kernel +
    candidate_bias)``; ``h' = u h + (1 - u) c``. Output and state are h': one leaf ``[batch, num_units]``.
    """

    def __init__(self, cell: GRUCell, weights: Weights, scope: str) -> None:
        self.leaf_sizes = (cell.num_units,)
        self.output_size = cell.num_units
        self._units = cell.num_units
        self._gates_kernel = weights[scope + "gates/kernel"]
        self._gates_bias = weights[scope + "gates/bias"]
        self._candidate_kernel = weights[scope + "candidate/kernel"]
        self._candidate_bias = weights[scope + "candidate/bias"]
        self._activation = activation_for(cell.activation or "tanh")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        (h,) = leaves
        joined = np.concatenate((inputs, h), axis=1)
        gates = joined @ self._gates_kernel
        gates += self._gates_bias
        sigmoid(gates, gates)
        r, u = gates[:, : self._units], gates[:, self._units :]
        joined[:, -self._units :] *= r
        candidate = joined @ self._candidate_kernel
        candidate += self._candidate_bias
        self._activation(candidate, candidate)
        new_h = u * h
        candidate *= 1 - u
        new_h += candidate
        return new_h, [new_h]


def build_gru(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``gates`` and ``candidate`` weights."""
    assert isinstance(placed.cell, GRUCell)
    return GRU(placed.cell, weights, placed.scope)
