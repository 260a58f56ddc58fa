"""Several cells, one above the other; and states that are one array."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from cellserve.cells import MultiRNNCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.cell import Cell, CellBuilder, Weights
from cellserve_server.cells.sequences import BeforeStep, Packing, run_cell


class Stack:
    """Each cell's output is the next one's input. Source: TF1's ``MultiRNNCell.call``.

    State: the cells' leaves one after the other, the lowest cell's first. A cell may stand in ``cells`` several
    times: it has one set of weights and a state for each place.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = tuple(cells)
        self.leaf_sizes = tuple(size for cell in cells for size in cell.leaf_sizes)
        self.output_size = cells[-1].output_size
        bounds = accumulate((len(cell.leaf_sizes) for cell in cells), initial=0)
        self._spans = tuple(slice(start, stop) for start, stop in pairwise(bounds))

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        new_leaves: list[Array] = []
        for cell, span in zip(self._cells, self._spans, strict=True):
            inputs, after = cell.step(inputs, leaves[span])
            new_leaves += after
        return inputs, new_leaves

    def run(
        self, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """As ``run_cell``: cell by cell, each over all steps."""
        new_leaves: list[Array] = []
        for cell, span in zip(self._cells, self._spans, strict=True):
            packed, after = run_cell(cell, packed, packing, leaves[span], before_step)
            new_leaves += after
        return packed, new_leaves


class ConcatenatedState:
    """A cell with ``state_is_tuple=False``: one leaf, the cell's own leaves side by side, the first one first."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.leaf_sizes = (sum(cell.leaf_sizes),)
        self.output_size = cell.output_size
        self._cuts = tuple(accumulate(cell.leaf_sizes[:-1]))

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        (together,) = leaves
        output, new_leaves = self._cell.step(inputs, np.split(together, self._cuts, axis=1))
        return output, [np.concatenate(new_leaves, axis=1)]

    def run(
        self, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """As ``run_cell``."""
        (together,) = leaves
        apart = np.split(together, self._cuts, axis=1)
        outputs, new_leaves = run_cell(self._cell, packed, packing, apart, before_step)
        return outputs, [np.concatenate(new_leaves, axis=1)]


def build_stack(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the stack of its inner cells; it has no weights of its own."""
    assert isinstance(placed.cell, MultiRNNCell)
    stack = Stack([build(inner) for inner in placed.inner])
    return stack if placed.cell.state_is_tuple else ConcatenatedState(stack)
