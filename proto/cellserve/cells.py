"""Descriptions of cells: names, options and sizes as in TensorFlow 1's ``tf.nn.rnn_cell``; no arithmetic.

A description says what a cell is; the server computes with it. Every description knows its ``state_size`` and
``output_size`` as TensorFlow prints them, and the variables that it needs for a given input width.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

from cellserve.errors import FieldInvalidError, InvalidArgumentError, ShapeMismatchError
from cellserve.states import LSTMStateTuple, Structure, leaf_sizes

Initializer: TypeAlias = Literal["glorot_uniform", "zeros", "ones"]
ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
MAX_STACK = 64
MAX_UNITS = 1 << 20
NAME_PATTERN = re.compile(r"[A-Za-z0-9_.\-]{1,128}")


class Variable(NamedTuple):
    """One weight array: its name as in TensorFlow, its shape, and how it begins when nobody gives it."""

    name: str
    shape: tuple[int, ...]
    initializer: Initializer


class Use(NamedTuple):
    """One use of a cell inside another: under which variable prefix, and for inputs of which width."""

    cell: CellDescription
    prefix: str
    input_size: int


class CellDescription(ABC):
    """What all descriptions have. Descriptions are frozen dataclasses."""

    scope_name: ClassVar[str]

    if TYPE_CHECKING:
        # Not a property at run time: a dataclass would take an inherited property for the default of a field of
        # that name, and OutputProjectionWrapper has such a field, as TensorFlow's has.
        @property
        def output_size(self) -> int:
            """The width of the output."""

    @property
    @abstractmethod
    def state_size(self) -> Structure:
        """The widths of the state: an int, an ``LSTMStateTuple`` of ints, or a tuple of these."""

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        """The cells inside, in the order in which they run; none for a plain cell."""
        return iter(())

    def own_variables(self, input_size: int) -> list[Variable]:
        """The cell's own weights, the inner cells' left out, named within the cell's scope."""
        return []

    def scope(self) -> str:
        """The variable scope: ``name``, or the class name in snake case."""
        return getattr(self, "name", None) or self.scope_name

    def variables(self, input_size: int) -> list[Variable]:
        """The weights for inputs of this width, in the order in which TensorFlow makes them.

        Raises:
            ShapeMismatchError: a cell that is used several times would need two widths.
        """
        return place(self, input_size).variables()


class PlacedCell(NamedTuple):
    """A cell with its input width and the scope of its variables, and the cells inside, placed too.

    A cell that is used several times is one ``PlacedCell`` object, used several times.
    """

    cell: CellDescription
    scope: str
    input_size: int
    inner: tuple[PlacedCell, ...]

    def variables(self) -> list[Variable]:
        """All weights under the full names, each once, in the order in which TensorFlow makes them."""
        found: dict[str, Variable] = {}
        for inner in self.inner:
            found.update((variable.name, variable) for variable in inner.variables())
        for name, shape, initializer in self.cell.own_variables(self.input_size):
            found[self.scope + name] = Variable(self.scope + name, shape, initializer)
        return list(found.values())


def place(cell: CellDescription, input_size: int, prefix: str = "") -> PlacedCell:
    """Gives every cell in a nest its input width and its variable scope.

    Raises:
        ShapeMismatchError: a cell that is used several times, and so shares its weights, would need two widths.
    """
    return _place(Use(cell, prefix, input_size), {})


def _place(use: Use, placed: dict[int, PlacedCell]) -> PlacedCell:
    cell, prefix, input_size = use
    known = placed.get(id(cell))
    if known is not None:
        if known.input_size != input_size:
            raise ShapeMismatchError(
                f"{type(cell).__name__}: this cell is used several times and shares its weights, so its inputs have "
                f"to be equally wide; got {known.input_size} and {input_size}"
            )
        return known
    scope = f"{prefix}{cell.scope()}/"
    inner = tuple(_place(inner_use, placed) for inner_use in cell.inner_uses(input_size, scope))
    placed[id(cell)] = PlacedCell(cell, scope, input_size, inner)
    return placed[id(cell)]


@dataclass(frozen=True)
class BasicRNNCell(CellDescription):
    """The most basic RNN cell: ``h' = activation([x, h] kernel + bias)``; output and state are h'.

    Args:
        num_units: the width of state and output, at least 1.
        activation: ``tanh`` (when None), ``relu``, ``sigmoid`` or ``identity``.
        name: the variable scope; ``basic_rnn_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    activation: str | None = None
    _: KW_ONLY
    name: str | None = None

    scope_name: ClassVar[str] = "basic_rnn_cell"

    def __post_init__(self) -> None:
        _check_options(self, self.num_units, self.activation)

    @property
    def state_size(self) -> int:
        return self.num_units

    @property
    def output_size(self) -> int:
        return self.num_units

    def own_variables(self, input_size: int) -> list[Variable]:
        return [
            Variable("kernel", (input_size + self.num_units, self.num_units), "glorot_uniform"),
            Variable("bias", (self.num_units,), "zeros"),
        ]


@dataclass(frozen=True)
class BasicLSTMCell(CellDescription):
    """The basic LSTM cell, gates in the order i, j, f, o (j is the candidate).

    ``z = [x, h] kernel + bias``; ``c' = sigmoid(f + forget_bias) c + sigmoid(i) activation(j)``;
    ``h' = sigmoid(o) activation(c')``.

    Args:
        num_units: the width of c, h and output, at least 1.
        forget_bias: added to f when the cell runs; no part of the stored bias.
        state_is_tuple: the state is ``LSTMStateTuple(c, h)``; False: one array with c and h side by side.
        activation: ``tanh`` (when None), ``relu``, ``sigmoid`` or ``identity``; the gates stay sigmoids.
        name: the variable scope; ``basic_lstm_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    forget_bias: float = 1.0
    state_is_tuple: bool = True
    activation: str | None = None
    _: KW_ONLY
    name: str | None = None

    scope_name: ClassVar[str] = "basic_lstm_cell"

    def __post_init__(self) -> None:
        _check_options(self, self.num_units, self.activation)
        if not isinstance(self.forget_bias, (int, float)) or not abs(self.forget_bias) < float("inf"):
            raise FieldInvalidError(f"forget_bias: expected a finite number; got {self.forget_bias!r}")

    @property
    def state_size(self) -> Structure:
        if self.state_is_tuple:
            return LSTMStateTuple(c=self.num_units, h=self.num_units)
        return 2 * self.num_units

    @property
    def output_size(self) -> int:
        return self.num_units

    def own_variables(self, input_size: int) -> list[Variable]:
        return [
            Variable("kernel", (input_size + self.num_units, 4 * self.num_units), "glorot_uniform"),
            Variable("bias", (4 * self.num_units,), "zeros"),
        ]


@dataclass(frozen=True)
class GRUCell(CellDescription):
    """The gated recurrent unit, gates in the order r, u; the reset is applied to h before the product.

    ``r, u = sigmoid([x, h] gates_kernel + gates_bias)``; ``c = activation([x, r h] candidate_kernel +
    candidate_bias)``; ``h' = u h + (1 - u) c``; output and state are h'.

    Args:
        num_units: the width of state and output, at least 1.
        activation: ``tanh`` (when None), ``relu``, ``sigmoid`` or ``identity``; the gates stay sigmoids.
        name: the variable scope; ``gru_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    activation: str | None = None
    _: KW_ONLY
    name: str | None = None

    scope_name: ClassVar[str] = "gru_cell"

    def __post_init__(self) -> None:
        _check_options(self, self.num_units, self.activation)

    @property
    def state_size(self) -> int:
        return self.num_units

    @property
    def output_size(self) -> int:
        return self.num_units

    def own_variables(self, input_size: int) -> list[Variable]:
        rows = input_size + self.num_units
        return [
            Variable("gates/kernel", (rows, 2 * self.num_units), "glorot_uniform"),
            Variable("gates/bias", (2 * self.num_units,), "ones"),
            Variable("candidate/kernel", (rows, self.num_units), "glorot_uniform"),
            Variable("candidate/bias", (self.num_units,), "zeros"),
        ]


@dataclass(frozen=True)
class MultiRNNCell(CellDescription):
    """A stack: each cell's output is the next one's input, and the state is the tuple of their states.

    The same object several times (``[cell] * 2``) shares one set of weights and keeps separate states.

    Args:
        cells: a list or tuple of cells, the lowest first; at least 1, at most 64.
        state_is_tuple: False: one array, the cells' states side by side; every cell's state must be one array.

    Raises:
        TypeError: ``cells`` is not a list or tuple of cells.
        InvalidArgumentError: no or too many cells, or states that cannot stand side by side.
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
            _require_cell(cell, f"cells[{index}]")
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

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        for index, cell in enumerate(self.cells):
            yield Use(cell, f"{scope}cell_{index}/", input_size)
            input_size = cell.output_size


@dataclass(frozen=True)
class OutputProjectionWrapper(CellDescription):
    """A dense layer on a cell's output: ``activation(output kernel + bias)``; the state is the cell's.

    Args:
        cell: the cell inside.
        output_size: the width of the output, at least 1.
        activation: None: the linear map alone; or ``tanh``, ``relu``, ``sigmoid``.
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
        _require_cell(self.cell, "cell")
        _check_options(self, self.output_size, self.activation, size_field="output_size")

    @property
    def state_size(self) -> Structure:
        return self.cell.state_size

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        yield Use(self.cell, scope, input_size)

    def own_variables(self, input_size: int) -> list[Variable]:
        return [
            Variable("kernel", (self.cell.output_size, self.output_size), "glorot_uniform"),
            Variable("bias", (self.output_size,), "zeros"),
        ]


def _require_cell(cell: object, field: str) -> None:
    if not isinstance(cell, CellDescription):
        raise TypeError(f"{field}: expected a cell, such as BasicLSTMCell(128); got {cell!r}")


def _check_options(cell: CellDescription, size: int, activation: str | None, size_field: str = "num_units") -> None:
    """Checks what all cells have: a width, an activation and a name."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_UNITS:
        raise FieldInvalidError(f"{size_field}: expected an integer from 1 to {MAX_UNITS}; got {size!r}")
    if activation is not None and activation not in ACTIVATIONS:
        raise FieldInvalidError(f"activation: expected one of {', '.join(ACTIVATIONS)}; got {activation!r}")
    name = getattr(cell, "name", None)
    if name is not None and not NAME_PATTERN.fullmatch(name):
        raise FieldInvalidError(
            f"name: expected 1 to 128 characters of letters, digits, '_', '.' and '-'; got {name!r}"
        )
