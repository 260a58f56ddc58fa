"""The LSTM cells: the one with every option, and the basic one, which is that without them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import BasicLSTMCell, LSTMCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import HALF_FOR_SIGMOID, activation_for, clip_symmetric, sigmoid_of_tanh
from cellserve_server.cells.cell import Cell, CellBuilder, Weights
from cellserve_server.cells.recurrent import JoinedCell, Sums
from cellserve_server.cells.stack import ConcatenatedState

# The checkpoint has i, j, f, o; so the three gates lie together.
_I_F_O_J = (0, 2, 3, 1)


class PlainLSTM(JoinedCell):
    """The LSTM without options: ``c' = sigmoid(f) c + sigmoid(i) tanh(j)``, ``h' = sigmoid(o) tanh(c')``.

    i, j, f, o and the state are those of ``LSTM``, which has the sources. The sigmoids are computed by tanh, which
    then takes all four parts in one pass: with ``LSTM`` the functions of 256 rows of 128 units take twice as long.
    """

    def __init__(self, cell: LSTMCell, weights: Weights, scope: str) -> None:
        sizes = (cell.num_units, cell.num_units)
        scales = (HALF_FOR_SIGMOID, HALF_FOR_SIGMOID, HALF_FOR_SIGMOID, 1.0)
        super().__init__(sizes, weights[scope + "kernel"], _bias(cell, weights, scope), _I_F_O_J, scales)

    def finish(self, sums: Sums, before: Sequence[Array], after: Sequence[Array]) -> None:
        """As ``JoinedCell.finish``."""
        i, f, o, j = sums.parts
        c, (new_c, new_h) = before[0], after
        np.tanh(sums.all, sums.all)
        sigmoid_of_tanh(sums.all[:3])
        np.multiply(i, j, i)
        np.multiply(f, c, f)
        np.add(i, f, new_c)
        np.tanh(new_c, new_h)
        np.multiply(new_h, o, new_h)


class LSTM(JoinedCell):
    """The LSTM of TF1's ``LSTMCell.call``, and what Keras and ONNX add to it.

    ``z = [x, h] kernel + bias``, cut into four equal parts i, j, f, o (j is the candidate). Peepholes add
    ``w_i_diag c`` to i and ``w_f_diag c`` to f. ``c' = sigmoid(f + forget_bias) c + sigmoid(i) activation(j)``, bounded
    by ``cell_clip``. Peepholes add ``w_o_diag c'`` to o. ``m = sigmoid(o) output_activation(c')``. With a projection
    ``h' = m projection_kernel``, bounded by ``proj_clip``; else h' is m. ``recurrent_activation`` stands for sigmoid.

    ``preactivation_clip`` bounds i, j, f and o after biases and peepholes, just before their functions; not c' in
    ``output_activation(c')``: so onnxruntime reads ONNX's ``clip``.

    Output: h', ``[batch, output_size]``. State: the leaves c ``[batch, num_units]`` and h ``[batch, output_size]``.
    """

    def __init__(self, cell: LSTMCell, weights: Weights, scope: str) -> None:
        sizes = (cell.num_units, cell.output_size)
        super().__init__(sizes, weights[scope + "kernel"], _bias(cell, weights, scope), _I_F_O_J)
        self._peepholes = _peepholes(weights, scope) if cell.use_peepholes else None
        self._projection = None if cell.num_proj is None else weights[scope + "projection/kernel"]
        self._cell_clip, self._proj_clip = cell.cell_clip, cell.proj_clip
        self._preactivation_clip = cell.preactivation_clip
        self._gate = activation_for(cell.recurrent_activation or "sigmoid")
        self._activation = activation_for(cell.activation or "tanh")
        self._output_activation = activation_for(cell.output_activation or cell.activation or "tanh")

    def finish(self, sums: Sums, before: Sequence[Array], after: Sequence[Array]) -> None:
        """As ``JoinedCell.finish``."""
        i, f, o, j = sums.parts
        c, (new_c, new_h) = before[0], after
        if self._peepholes is not None:
            w_i, w_f, _ = self._peepholes
            i += w_i * c
            f += w_f * c
        for part, function in ((i, self._gate), (f, self._gate), (j, self._activation)):
            if self._preactivation_clip is not None:
                clip_symmetric(part, self._preactivation_clip)
            function(part, part)
        np.multiply(i, j, j)
        np.multiply(f, c, f)
        np.add(f, j, new_c)
        if self._cell_clip is not None:
            clip_symmetric(new_c, self._cell_clip)
        if self._peepholes is not None:
            o += self._peepholes[2] * new_c
        if self._preactivation_clip is not None:
            clip_symmetric(o, self._preactivation_clip)
        self._gate(o, o)
        m = i if self._projection is not None else new_h
        self._output_activation(new_c, m)
        m *= o
        if self._projection is not None:
            np.matmul(m, self._projection, new_h)
            if self._proj_clip is not None:
                clip_symmetric(new_h, self._proj_clip)


def _bias(cell: LSTMCell, weights: Weights, scope: str) -> Array:
    """The bias with ``forget_bias``, which is no part of the stored one."""
    bias = weights[scope + "bias"].copy()
    bias[2 * cell.num_units : 3 * cell.num_units] += cell.forget_bias
    return bias


def _peepholes(weights: Weights, scope: str) -> tuple[Array, Array, Array]:
    """The weights with which i and f look at c, and o at c'; one for each unit."""
    return weights[scope + "w_i_diag"], weights[scope + "w_f_diag"], weights[scope + "w_o_diag"]


def _is_plain(cell: LSTMCell) -> bool:
    activations = (cell.activation or "tanh", cell.output_activation or cell.activation or "tanh")
    return (
        activations == ("tanh", "tanh")
        and (cell.recurrent_activation or "sigmoid") == "sigmoid"
        and not cell.use_peepholes
        and (cell.cell_clip, cell.preactivation_clip, cell.num_proj) == (None, None, None)
    )


def lstm(cell: LSTMCell, weights: Weights, scope: str) -> Cell:
    """Makes the cell that a description asks for; with ``state_is_tuple=False`` its state is one leaf, c beside h."""
    made = PlainLSTM(cell, weights, scope) if _is_plain(cell) else LSTM(cell, weights, scope)
    return made if cell.state_is_tuple else ConcatenatedState(made)


def build_lstm(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its kernel and bias, and what its options ask for besides."""
    assert isinstance(placed.cell, LSTMCell)
    return lstm(placed.cell, weights, placed.scope)


def build_basic_lstm(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its kernel and bias: it is the ``LSTMCell`` without the options that it does not have."""
    cell = placed.cell
    assert isinstance(cell, BasicLSTMCell)
    same = LSTMCell(
        cell.num_units, forget_bias=cell.forget_bias, state_is_tuple=cell.state_is_tuple, activation=cell.activation
    )
    return lstm(same, weights, placed.scope)
