"""What every cell and stateless layer looks like once it has its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from cellserve.cells import PlacedCell
from cellserve.tensors import Array

Weights: TypeAlias = Mapping[str, Array]


class Cell(Protocol):
    """A cell (or a layer without a state) with its weights: a pure function of inputs and state.

    ``step`` is all that a cell needs. ``RecurrentCell`` is a base for cells that gain from projecting the inputs of
    many steps at once, and ``SequenceRunner`` is what a cell may offer for whole sequences.

    Attributes:
        leaf_sizes: the widths of the flattened state's leaves; empty for a layer without a state.
        output_size: the width of the output.
    """

    @property
    def leaf_sizes(self) -> tuple[int, ...]: ...

    @property
    def output_size(self) -> int: ...

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """One step of a batch.

        Args:
            inputs: ``[batch, depth]`` (``[batch]`` ids for an embedding).
            leaves: the state, ``[batch, size]`` for each of ``leaf_sizes``.

        Returns:
            The output ``[batch, output_size]`` and the new leaves, all freshly made; but the output may be the same
            array as one of the leaves.
        """
        ...


CellBuilder: TypeAlias = Callable[[PlacedCell], Cell]
"""Builds an inner cell; gives the same object again for a cell that is used several times."""

CellFactory: TypeAlias = Callable[[PlacedCell, Weights, CellBuilder], Cell]
"""Builds a cell of one kind from its place, all weights by their full names, and the builder for cells inside."""
