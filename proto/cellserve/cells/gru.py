"""The gated recurrent units."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from cellserve.cells.base import (
    CellDescription,
    Variable,
    require_activation,
    require_integer,
    require_name,
    require_number,
)


@dataclass(frozen=True)
class GRUCell(CellDescription):
    """The gated recurrent unit, gates in the order r, u; the reset is applied to h before the product.

    ``r, u = sigmoid([x, h] gates_kernel + gates_bias)``; ``c = activation([x, r h] candidate_kernel +
    candidate_bias)``; ``h' = u h + (1 - u) c``; output and state are h'.

    Args:
        num_units: the width of state and output, at least 1.
        activation: the candidate's; ``tanh`` (when None) or another of ``ACTIVATIONS``.
        recurrent_activation: the gates'; ``sigmoid`` when None. Not in TensorFlow's cell; Keras has it.
        preactivation_clip: bounds what goes into gates and candidate (ONNX's ``clip``); None: no bound.
        name: the variable scope; ``gru_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    activation: str | None = None
    _: KW_ONLY
    recurrent_activation: str | None = None
    preactivation_clip: float | None = None
    name: str | None = None

    scope_name: ClassVar[str] = "gru_cell"

    def __post_init__(self) -> None:
        _check_gru(self)

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
class CudnnCompatibleGRUCell(CellDescription):
    """The gated recurrent unit with the reset after the product: cuDNN, PyTorch, Keras with ``reset_after``.

    ``r, u = sigmoid([x, h] gates_kernel + gates_bias)``; ``c = activation(x Wx + bx + r (h Wh + bh))``;
    ``h' = u h + (1 - u) c``; output and state are h'.

    Args:
        num_units: the width of state and output, at least 1.
        activation: the candidate's; ``tanh`` (when None) or another of ``ACTIVATIONS``.
        recurrent_activation: the gates'; ``sigmoid`` when None.
        preactivation_clip: bounds what goes into gates and candidate (ONNX's ``clip``); None: no bound.
        name: the variable scope; ``cudnn_compatible_gru_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    activation: str | None = None
    _: KW_ONLY
    recurrent_activation: str | None = None
    preactivation_clip: float | None = None
    name: str | None = None

    scope_name: ClassVar[str] = "cudnn_compatible_gru_cell"

    def __post_init__(self) -> None:
        _check_gru(self)

    @property
    def state_size(self) -> int:
        return self.num_units

    @property
    def output_size(self) -> int:
        return self.num_units

    def own_variables(self, input_size: int) -> list[Variable]:
        units = self.num_units
        return [
            Variable("gates/kernel", (input_size + units, 2 * units), "glorot_uniform"),
            Variable("gates/bias", (2 * units,), "ones"),
            Variable("candidate/input_projection/kernel", (input_size, units), "glorot_uniform"),
            Variable("candidate/hidden_projection/kernel", (units, units), "glorot_uniform"),
            Variable("candidate/input_projection/bias", (units,), "zeros"),
            Variable("candidate/hidden_projection/bias", (units,), "zeros"),
        ]


def _check_gru(cell: GRUCell | CudnnCompatibleGRUCell) -> None:
    require_integer(cell.num_units, "num_units")
    require_activation(cell.activation)
    require_activation(cell.recurrent_activation, "recurrent_activation")
    if cell.preactivation_clip is not None:
        require_number(cell.preactivation_clip, "preactivation_clip", above=0)
    require_name(cell.name)
