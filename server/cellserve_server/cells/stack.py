"""Several cells, one above the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from cellserve.cells import MultiRNNCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.cell import Cell, CellBuilder, Weights


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


class ConcatenatedStack:
    """A stack with ``state_is_tuple=False``: one leaf, the cells' states side by side, the lowest cell's first."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.leaf_sizes = (sum(stack.leaf_sizes),)
        self.output_size = stack.output_size
        self._cuts = tuple(accumulate(stack.leaf_sizes[:-1]))

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        (together,) = leaves
        output, new_leaves = self._stack.step(inputs, np.split(together, self._cuts, axis=1))
        return output, [np.concatenate(new_leaves, axis=1)]


def build_stack(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the stack of its inner cells; it has no weights of its own."""
    assert isinstance(placed.cell, MultiRNNCell)
    stack = Stack([build(inner) for inner in placed.inner])
    return stack if placed.cell.state_is_tuple else ConcatenatedStack(stack)
