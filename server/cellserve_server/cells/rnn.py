"""The most basic RNN cell."""

from __future__ import annotations

from collections.abc import Sequence

from cellserve.cells import BasicRNNCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for, clip_symmetric
from cellserve_server.cells.cell import Cell, CellBuilder, Weights
from cellserve_server.cells.recurrent import JoinedCell, Sums


class BasicRNN(JoinedCell):
    """``h' = activation([x, h] kernel + bias)``; output and state are h'. Source: TF1's ``BasicRNNCell.call``.

    ``preactivation_clip`` bounds what goes into the activation (ONNX's ``clip``). State: one leaf, h
    ``[batch, num_units]``.
    """

    def __init__(self, cell: BasicRNNCell, kernel: Array, bias: Array) -> None:
        super().__init__((cell.num_units,), kernel, bias)
        self._clip = cell.preactivation_clip
        self._activation = activation_for(cell.activation or "tanh")

    def finish(self, sums: Sums, before: Sequence[Array], after: Sequence[Array]) -> None:
        """As ``JoinedCell.finish``."""
        (sum_,) = sums.parts
        if self._clip is not None:
            clip_symmetric(sum_, self._clip)
        self._activation(sum_, after[0])


def build_basic_rnn(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``kernel`` and ``bias``."""
    assert isinstance(placed.cell, BasicRNNCell)
    return BasicRNN(placed.cell, weights[placed.scope + "kernel"], weights[placed.scope + "bias"])
