"""The minimal recurrent cells of "Were RNNs All We Needed?" (Feng and others, 2024): their gates do not look at h."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from cellserve.cells.base import CellDescription, Variable, require_integer, require_name


@dataclass(frozen=True)
class MinGRUCell(CellDescription):
    """The minimal GRU: ``z = sigmoid(x Wz + bz)``; ``h' = (1 - z) h + z g(x Wh + bh)``; output and state are h'.

    ``g(v)`` is ``v + 0.5`` where v >= 0 and ``sigmoid(v)`` elsewhere, as in the paper's log-space form (appendix B).

    Args:
        num_units: the width of state and output, at least 1.
        linear_candidate: ``g(v) = v``, the paper's plain form.
        name: the variable scope; ``min_gru_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    _: KW_ONLY
    linear_candidate: bool = False
    name: str | None = None

    scope_name: ClassVar[str] = "min_gru_cell"

    def __post_init__(self) -> None:
        require_integer(self.num_units, "num_units")
        require_name(self.name)

    @property
    def state_size(self) -> int:
        return self.num_units

    @property
    def output_size(self) -> int:
        return self.num_units

    def own_variables(self, input_size: int) -> list[Variable]:
        return [
            Variable("kernel", (input_size, 2 * self.num_units), "glorot_uniform"),
            Variable("bias", (2 * self.num_units,), "zeros"),
        ]


@dataclass(frozen=True)
class MinLSTMCell(CellDescription):
    """The minimal LSTM: ``f, i = sigmoid(x W + b)``; ``h' = f / (f + i) h + i / (f + i) g(x Wh + bh)``.

    Output and state are h'. g as in ``MinGRUCell``; kernel and bias in the order f, i, candidate.

    Args:
        num_units: the width of state and output, at least 1.
        linear_candidate: ``g(v) = v``, the paper's plain form.
        name: the variable scope; ``min_lstm_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    _: KW_ONLY
    linear_candidate: bool = False
    name: str | None = None

    scope_name: ClassVar[str] = "min_lstm_cell"

    def __post_init__(self) -> None:
        require_integer(self.num_units, "num_units")
        require_name(self.name)

    @property
    def state_size(self) -> int:
        return self.num_units

    @property
    def output_size(self) -> int:
        return self.num_units

    def own_variables(self, input_size: int) -> list[Variable]:
        return [
            Variable("kernel", (input_size, 3 * self.num_units), "glorot_uniform"),
            Variable("bias", (3 * self.num_units,), "zeros"),
        ]
