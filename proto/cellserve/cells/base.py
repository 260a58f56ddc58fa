"""What all cell descriptions have: sizes, variables, scopes, and how a cell stands inside another."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

from cellserve.errors import FieldInvalidError, ShapeMismatchError, shown
from cellserve.states import Structure

Initializer: TypeAlias = Literal["glorot_uniform", "zeros", "ones"] | float
"""How a variable begins when nobody gives it; a number fills it."""

ACTIVATIONS = (
    "tanh",
    "relu",
    "sigmoid",
    "identity",
    "hard_sigmoid",
    "leaky_relu",
    "hard_sigmoid_relu6",
    "relu6",
    "elu",
    "selu",
    "softplus",
    "softsign",
    "silu",
    "mish",
    "exponential",
)
"""The names of the functions that cells can apply; cell.proto says what each computes."""

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
    makes_own_variables_first: ClassVar[bool] = False
    """Whether TensorFlow makes a wrapper's own variables before those of the cell inside."""

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

    def takes_ids(self) -> bool:
        """Whether the inputs are int32 ids of shape ``[batch]`` instead of vectors ``[batch, depth]``."""
        return False

    def inner_uses(self, input_size: int, scope: str) -> Iterator[Use]:
        """The cells inside, in the order in which they run; none for a plain cell."""
        return iter(())

    def own_variables(self, input_size: int) -> list[Variable]:
        """The cell's own weights, the inner cells' left out, named within the cell's scope."""
        return []

    def scope(self) -> str:
        """The variable scope: ``name``, or the class name in snake case; empty for a wrapper without a level."""
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
        own = [
            variable._replace(name=self.scope + variable.name) for variable in self.cell.own_variables(self.input_size)
        ]
        inside = [variable for inner in self.inner for variable in inner.variables()]
        ordered = own + inside if self.cell.makes_own_variables_first else inside + own
        return list({variable.name: variable for variable in ordered}.values())


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
    scope = f"{prefix}{cell.scope()}/" if cell.scope() else prefix
    inner = tuple(_place(inner_use, placed) for inner_use in cell.inner_uses(input_size, scope))
    placed[id(cell)] = PlacedCell(cell, scope, input_size, inner)
    return placed[id(cell)]


def require_cell(cell: object, field: str) -> None:
    """Raises ``TypeError`` unless this is a cell."""
    if not isinstance(cell, CellDescription):
        raise TypeError(f"{field}: expected a cell, such as BasicLSTMCell(128); got {cell!r}")


def require_vectors(cell: CellDescription, field: str) -> None:
    """Raises ``FieldInvalidError`` where a cell would get vectors and takes ids."""
    if cell.takes_ids():
        raise FieldInvalidError(f"{field}: expected a cell on vectors; got one on ids, {type(cell).__name__}")


def require_integer(value: object, field: str, maximum: int = MAX_UNITS) -> None:
    """Raises ``FieldInvalidError`` unless this is an integer from 1 to ``maximum``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
        raise FieldInvalidError(f"{field}: expected an integer from 1 to {maximum}; got {value!r}")


def require_number(value: object, field: str, above: float | None = None, most: float | None = None) -> None:
    """Raises ``FieldInvalidError`` unless this is a finite number, above and at most the bounds that are given."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
    if not fits or (above is not None and not value > above) or (most is not None and not value <= most):  # type: ignore[operator]
        bounds = "" if above is None else f" above {above:g}"
        bounds += "" if most is None else f", at most {most:g}"
        raise FieldInvalidError(f"{field}: expected a finite number{bounds}; got {value!r}")


def require_activation(activation: object, field: str = "activation") -> None:
    """Raises ``FieldInvalidError`` unless this is the name of an activation, or None."""
    if activation is not None and activation not in ACTIVATIONS:
        raise FieldInvalidError(f"{field}: expected one of {', '.join(ACTIVATIONS)}; got {activation!r}")


def require_name(name: object) -> None:
    """Raises ``FieldInvalidError`` unless this can be a variable scope, or None."""
    if name is not None and not (isinstance(name, str) and NAME_PATTERN.fullmatch(name)):
        got = shown(name) if isinstance(name, str) else repr(name)
        raise FieldInvalidError(f"name: expected 1 to 128 characters of letters, digits, '_', '.' and '-'; got {got}")
