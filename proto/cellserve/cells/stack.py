"""The stack of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from cellserve.cells.base import MAX_STACK, CellDescription, Use, require_cell, require_vectors
from cellserve.errors import FieldInvalidError, InvalidArgumentError
from cellserve.states import Structure, leaf_sizes


@dataclass(frozen=True)
class MultiRNNCell(CellDescription):
    """A stack: each cell's output is the next one's input, and the state is the tuple of their states.

    The same object several times (``[cell] * 2``) shares one set of weights and keeps separate states.

    Args:
        cells: a list or tuple of cells, the lowest first; at least 1, at most 64.
        state_is_tuple: False: one array, the cells' states side by side; every cell's state must be one array.

    Raises:
        TypeError: ``cells`` is not a list or tuple of cells.
        InvalidArgumentError: no or too many cells, one on ids that is not the lowest, or states that cannot stand side
            by side.
    """

    cells: Sequence[CellDescription]
    state_is_tuple: bool = True

    scope_name: ClassVar[str] = "multi_rnn_cell"

    def __post_init__(self) -> None:
        if not isinstance(self.cells, (list, tuple)):
            raise TypeError(f"cells must be a list or tuple, but received: {self.cells!r}.")
        if not self.cells:
            raise InvalidArgumentError("Must specify at least one cell for MultiRNNCell.")
        if len(self.cells) > MAX_STACK:
            raise FieldInvalidError(f"cells: expected at most {MAX_STACK}; got {len(self.cells)}")
        object.__setattr__(self, "cells", tuple(self.cells))
        for index, cell in enumerate(self.cells):
            require_cell(cell, f"cells[{index}]")
            if index > 0:
                require_vectors(cell, f"cells[{index}]")
        if not self.state_is_tuple and not all(isinstance(cell.state_size, int) for cell in self.cells):
            raise InvalidArgumentError(
                "Some cells return tuples of states, but the flag state_is_tuple is not set. "
                f"State sizes are: {[cell.state_size for cell in self.cells]}"
            )

    @property
    def state_size(self) -> Structure:
        sizes = tuple(cell.state_size for cell in self.cells)
        return sizes if self.state_is_tuple else sum(leaf_sizes(sizes))

    @property
    def output_size(self) -> int:
        return self.cells[-1].output_size

    def takes_ids(self) -> bool:
        return self.cells[0].takes_ids()

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        for index, cell in enumerate(self.cells):
            yield Use(cell, f"{scope}cell_{index}/", input_size)
            input_size = cell.output_size
