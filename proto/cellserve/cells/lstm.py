"""The LSTM cells."""

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
from cellserve.states import LSTMStateTuple, Structure


@dataclass(frozen=True)
class BasicLSTMCell(CellDescription):
    """The basic LSTM cell, gates in the order i, j, f, o (j is the candidate).

    ``z = [x, h] kernel + bias``; ``c' = sigmoid(f + forget_bias) c + sigmoid(i) activation(j)``;
    ``h' = sigmoid(o) activation(c')``.

    Args:
        num_units: the width of c, h and output, at least 1.
        forget_bias: added to f when the cell runs; no part of the stored bias.
        state_is_tuple: the state is ``LSTMStateTuple(c, h)``; False: one array with c and h side by side.
        activation: ``tanh`` (when None) or another of ``ACTIVATIONS``; the gates stay sigmoids.
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
        require_integer(self.num_units, "num_units")
        require_activation(self.activation)
        require_name(self.name)
        require_number(self.forget_bias, "forget_bias")

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
class LSTMCell(CellDescription):
    """The LSTM cell with every option, gates in the order i, j, f, o (j is the candidate).

    ``z = [x, h] kernel + bias``; peepholes add ``w_f_diag c`` and ``w_i_diag c`` to f and i;
    ``c' = sigmoid(f + forget_bias) c + sigmoid(i) activation(j)``, clipped to ``cell_clip``; peepholes add
    ``w_o_diag c'`` to o; ``m = sigmoid(o) activation(c')``; with a projection ``h' = m projection``, clipped to
    ``proj_clip``, else m.

    Args:
        num_units: the width of c, and of h without a projection; at least 1.
        use_peepholes: gates look at c, through one weight a unit.
        cell_clip: bounds c', also as the state that goes on; 0 is a bound; None: none.
        num_proj: the width of h and output; None: no projection.
        proj_clip: bounds h'; without ``num_proj`` it does nothing, as in TensorFlow; None: no bound.
        forget_bias: added to f when the cell runs; no part of the stored bias.
        state_is_tuple: the state is ``LSTMStateTuple(c, h)``; False: one array with c and h side by side.
        activation: of candidate and c': ``tanh`` (when None) or another of ``ACTIVATIONS``.
        recurrent_activation: the gates'; ``sigmoid`` when None. Not in TensorFlow's cell; Keras has it.
        output_activation: of c'; that of ``activation`` when None. Not in TensorFlow's cell; ONNX has it.
        preactivation_clip: bounds what goes into gates and candidate (ONNX's ``clip``); None: no bound.
        name: the variable scope; ``lstm_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    use_peepholes: bool = False
    cell_clip: float | None = None
    _: KW_ONLY
    num_proj: int | None = None
    proj_clip: float | None = None
    forget_bias: float = 1.0
    state_is_tuple: bool = True
    activation: str | None = None
    recurrent_activation: str | None = None
    output_activation: str | None = None
    preactivation_clip: float | None = None
    name: str | None = None

    scope_name: ClassVar[str] = "lstm_cell"

    def __post_init__(self) -> None:
        require_integer(self.num_units, "num_units")
        if self.num_proj is not None:
            require_integer(self.num_proj, "num_proj")
        for clip in ("cell_clip", "proj_clip"):
            if getattr(self, clip) is not None:
                require_number(getattr(self, clip), clip)
        if self.preactivation_clip is not None:
            require_number(self.preactivation_clip, "preactivation_clip", above=0)
        require_number(self.forget_bias, "forget_bias")
        for field in ("activation", "recurrent_activation", "output_activation"):
            require_activation(getattr(self, field), field)
        require_name(self.name)

    @property
    def state_size(self) -> Structure:
        if self.state_is_tuple:
            return LSTMStateTuple(c=self.num_units, h=self.output_size)
        return self.num_units + self.output_size

    @property
    def output_size(self) -> int:
        return self.num_units if self.num_proj is None else self.num_proj

    def own_variables(self, input_size: int) -> list[Variable]:
        units = self.num_units
        variables = [
            Variable("kernel", (input_size + self.output_size, 4 * units), "glorot_uniform"),
            Variable("bias", (4 * units,), "zeros"),
        ]
        if self.use_peepholes:
            diagonals = ("w_f_diag", "w_i_diag", "w_o_diag")
            variables += [Variable(diagonal, (units,), "glorot_uniform") for diagonal in diagonals]
        if self.num_proj is not None:
            variables.append(Variable("projection/kernel", (units, self.num_proj), "glorot_uniform"))
        return variables


@dataclass(frozen=True)
class LayerNormBasicLSTMCell(CellDescription):
    """The basic LSTM cell with layer normalisation (TensorFlow's ``contrib.rnn``), gates in the order i, j, f, o.

    i, j, f, o of ``[x, h] kernel``, and c', are each normalised over their units before their functions:
    ``(v - mean) / sqrt(variance + 1e-12) gamma + beta``. The normalised c' is the state that goes on.

    Args:
        num_units: the width of c, h and output, at least 1.
        forget_bias: added to f, after it was normalised, when the cell runs.
        activation: replaces both tanh; ``tanh`` (when None) or another of ``ACTIVATIONS``.
        layer_norm: False: a bias in place of the normalisations.
        norm_gain: what gamma begins with.
        norm_shift: what beta begins with.
        name: the variable scope; ``layer_norm_basic_lstm_cell`` when None.

    Raises:
        InvalidArgumentError: an option is out of its range.
    """

    num_units: int
    forget_bias: float = 1.0
    _: KW_ONLY
    activation: str | None = None
    layer_norm: bool = True
    norm_gain: float = 1.0
    norm_shift: float = 0.0
    name: str | None = None

    scope_name: ClassVar[str] = "layer_norm_basic_lstm_cell"

    def __post_init__(self) -> None:
        require_integer(self.num_units, "num_units")
        for field in ("forget_bias", "norm_gain", "norm_shift"):
            require_number(getattr(self, field), field)
        require_activation(self.activation)
        require_name(self.name)

    @property
    def state_size(self) -> LSTMStateTuple:
        return LSTMStateTuple(c=self.num_units, h=self.num_units)

    @property
    def output_size(self) -> int:
        return self.num_units

    def own_variables(self, input_size: int) -> list[Variable]:
        units = self.num_units
        kernel = Variable("kernel", (input_size + units, 4 * units), "glorot_uniform")
        if not self.layer_norm:
            return [kernel, Variable("bias", (4 * units,), "zeros")]
        parts = ("input", "transform", "forget", "output", "state")
        both = (("gamma", self.norm_gain), ("beta", self.norm_shift))
        return [kernel, *(Variable(f"{part}/{name}", (units,), value) for part in parts for name, value in both)]
