"""Cells around a cell."""

from __future__ import annotations

from collections.abc import Sequence

from cellserve.cells import OutputProjectionWrapper, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for
from cellserve_server.cells.cell import Cell, CellBuilder, Weights


class OutputProjection:
    """``activation(output kernel + bias)`` of a cell's output; the state is the cell's.

    Source: TF1's ``OutputProjectionWrapper.call``.
    """

    def __init__(self, description: OutputProjectionWrapper, cell: Cell, kernel: Array, bias: Array) -> None:
        self.leaf_sizes = cell.leaf_sizes
        self.output_size = description.output_size
        self._cell = cell
        self._kernel = kernel
        self._bias = bias
        self._activation = activation_for(description.activation or "identity")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        output, new_leaves = self._cell.step(inputs, leaves)
        sums = output @ self._kernel
        sums += self._bias
        return self._activation(sums, sums), new_leaves


def build_output_projection(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the wrapper from the cell inside and its own ``kernel`` and ``bias``."""
    assert isinstance(placed.cell, OutputProjectionWrapper)
    (inner,) = placed.inner
    kernel, bias = weights[placed.scope + "kernel"], weights[placed.scope + "bias"]
    return OutputProjection(placed.cell, build(inner), kernel, bias)
