"""The basic RNN cell."""

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
class BasicRNNCell(CellDescription):
    """The most basic RNN cell: ``h' = activation([x, h] kernel + bias)``; output and state are h'.

    Args:
        num_units: the width of state and output, at least 1.
        activation: ``tanh`` (when None) or another of ``ACTIVATIONS``.
        preactivation_clip: bounds what goes into the activation (ONNX's ``clip``); None: no bound.
        name: the variable scope; ``basic_rnn_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    activation: str | None = None
    _: KW_ONLY
    preactivation_clip: float | None = None
    name: str | None = None

    scope_name: ClassVar[str] = "basic_rnn_cell"

    def __post_init__(self) -> None:
        require_integer(self.num_units, "num_units")
        require_activation(self.activation)
        require_name(self.name)
        if self.preactivation_clip is not None:
            require_number(self.preactivation_clip, "preactivation_clip", above=0)

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
