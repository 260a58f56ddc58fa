"""The most basic RNN cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import BasicRNNCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for, clip_symmetric
from cellserve_server.cells.cell import Cell, CellBuilder, Weights


class BasicRNN:
    """``h' = activation([x, h] kernel + bias)``; output and state are h'. Source: TF1's ``BasicRNNCell.call``.

    ``preactivation_clip`` bounds what goes into the activation (ONNX's ``clip``). State: one leaf, h
    ``[batch, num_units]``.
    """

    def __init__(self, cell: BasicRNNCell, kernel: Array, bias: Array) -> None:
        self.leaf_sizes = (cell.num_units,)
        self.output_size = cell.num_units
        self._kernel = kernel
        self._bias = bias
        self._clip = cell.preactivation_clip
        self._activation = activation_for(cell.activation or "tanh")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        (h,) = leaves
        sums = np.concatenate((inputs, h), axis=1) @ self._kernel
        sums += self._bias
        if self._clip is not None:
            clip_symmetric(sums, self._clip)
        new_h = self._activation(sums, sums)
        return new_h, [new_h]


def build_basic_rnn(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``kernel`` and ``bias``."""
    assert isinstance(placed.cell, BasicRNNCell)
    return BasicRNN(placed.cell, weights[placed.scope + "kernel"], weights[placed.scope + "bias"])
