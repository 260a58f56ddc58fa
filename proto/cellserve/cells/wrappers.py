"""Cells around a cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from cellserve.cells.base import (
    CellDescription,
    Use,
    Variable,
    require_activation,
    require_cell,
    require_integer,
    require_name,
    require_number,
    require_vectors,
)
from cellserve.errors import ShapeMismatchError
from cellserve.states import Structure


@dataclass(frozen=True)
class OutputProjectionWrapper(CellDescription):
    """A dense layer on a cell's output: ``activation(output kernel + bias)``; the state is the cell's.

    Args:
        cell: the cell inside.
        output_size: the width of the output, at least 1.
        activation: None: the linear map alone; or one of ``ACTIVATIONS``.
        name: the variable scope; ``output_projection_wrapper`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    cell: CellDescription
    output_size: int
    activation: str | None = None
    _: KW_ONLY
    name: str | None = None

    scope_name: ClassVar[str] = "output_projection_wrapper"

    def __post_init__(self) -> None:
        require_cell(self.cell, "cell")
        require_integer(self.output_size, "output_size")
        require_activation(self.activation)
        require_name(self.name)

    @property
    def state_size(self) -> Structure:
        return self.cell.state_size

    def takes_ids(self) -> bool:
        return self.cell.takes_ids()

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        yield Use(self.cell, scope, input_size)

    def own_variables(self, input_size: int) -> list[Variable]:
        return [
            Variable("kernel", (self.cell.output_size, self.output_size), "glorot_uniform"),
            Variable("bias", (self.output_size,), "zeros"),
        ]


@dataclass(frozen=True)
class InputProjectionWrapper(CellDescription):
    """A dense layer before a cell: the cell runs on ``activation(x kernel + bias)``; the state is the cell's.

    Args:
        cell: the cell inside.
        num_proj: the width of what the cell sees, at least 1.
        activation: None: the linear map alone; or one of ``ACTIVATIONS``.
        name: the variable scope; ``input_projection_wrapper`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    cell: CellDescription
    num_proj: int
    activation: str | None = None
    _: KW_ONLY
    name: str | None = None

    scope_name: ClassVar[str] = "input_projection_wrapper"
    makes_own_variables_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_cell(self.cell, "cell")
        require_vectors(self.cell, "cell")
        require_integer(self.num_proj, "num_proj")
        require_activation(self.activation)
        require_name(self.name)

    @property
    def state_size(self) -> Structure:
        return self.cell.state_size

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        yield Use(self.cell, scope, self.num_proj)

    def own_variables(self, input_size: int) -> list[Variable]:
        return [
            Variable("kernel", (input_size, self.num_proj), "glorot_uniform"),
            Variable("bias", (self.num_proj,), "zeros"),
        ]


@dataclass(frozen=True)
class EmbeddingWrapper(CellDescription):
    """A table before a cell: the cell runs on the row that an int32 id names; the state is the cell's.

    Args:
        cell: the cell inside.
        embedding_classes: the number of ids, at least 1: 0 to ``embedding_classes - 1``.
        embedding_size: the width of a row, at least 1.
        name: the variable scope; ``embedding_wrapper`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    cell: CellDescription
    embedding_classes: int
    embedding_size: int
    _: KW_ONLY
    name: str | None = None

    scope_name: ClassVar[str] = "embedding_wrapper"
    makes_own_variables_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_cell(self.cell, "cell")
        require_vectors(self.cell, "cell")
        require_integer(self.embedding_classes, "embedding_classes")
        require_integer(self.embedding_size, "embedding_size")
        require_name(self.name)

    @property
    def state_size(self) -> Structure:
        return self.cell.state_size

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    def takes_ids(self) -> bool:
        return True

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        yield Use(self.cell, scope, self.embedding_size)

    def own_variables(self, input_size: int) -> list[Variable]:
        return [Variable("embedding", (self.embedding_classes, self.embedding_size), "glorot_uniform")]


@dataclass(frozen=True)
class ResidualWrapper(CellDescription):
    """The inputs added to a cell's outputs; the state is the cell's. It adds no level to variable names.

    Args:
        cell: the cell inside; its output has to be as wide as its input.

    Raises:
        TypeError: ``cell`` is no cell.
        InvalidArgumentError: the cell takes ids.
    """

    cell: CellDescription

    scope_name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        require_cell(self.cell, "cell")
        require_vectors(self.cell, "cell")

    @property
    def state_size(self) -> Structure:
        return self.cell.state_size

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        if input_size != self.cell.output_size:
            raise ShapeMismatchError(
                f"ResidualWrapper: expected inputs as wide as the cell's outputs, {self.cell.output_size}; "
                f"got {input_size}"
            )
        yield Use(self.cell, scope, input_size)


@dataclass(frozen=True)
class DropoutWrapper(CellDescription):
    """A cell that was trained with dropout. Served, it is the cell itself: dropout is for training alone.

    Args:
        cell: the cell inside.
        input_keep_prob, output_keep_prob, state_keep_prob: above 0, at most 1; kept, and without effect.

    Raises:
        InvalidArgumentError: a probability is out of its range.
    """

    cell: CellDescription
    input_keep_prob: float = 1.0
    output_keep_prob: float = 1.0
    state_keep_prob: float = 1.0

    scope_name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        require_cell(self.cell, "cell")
        for field in ("input_keep_prob", "output_keep_prob", "state_keep_prob"):
            require_number(getattr(self, field), field, above=0, most=1)

    @property
    def state_size(self) -> Structure:
        return self.cell.state_size

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    def takes_ids(self) -> bool:
        return self.cell.takes_ids()

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        yield Use(self.cell, scope, input_size)
