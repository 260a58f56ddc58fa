"""The LSTM cells: the one with every option, and the basic one, which is that without them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import BasicLSTMCell, LSTMCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for, clip_symmetric
from cellserve_server.cells.cell import Cell, CellBuilder, Weights


class LSTM:
    """The LSTM of TF1's ``LSTMCell.call``, and what Keras and ONNX add to it.

    ``z = [x, h] kernel + bias``, cut into four equal parts i, j, f, o (j is the candidate). Peepholes add
    ``w_i_diag c`` to i and ``w_f_diag c`` to f. ``c' = sigmoid(f + forget_bias) c + sigmoid(i) activation(j)``, bounded
    by ``cell_clip``. Peepholes add ``w_o_diag c'`` to o. ``m = sigmoid(o) output_activation(c')``. With a projection
    ``h' = m projection_kernel``, bounded by ``proj_clip``; else h' is m. ``recurrent_activation`` stands for sigmoid.

    ``preactivation_clip`` bounds i, j, f and o after biases and peepholes, just before their functions; not c' in
    ``output_activation(c')``: so onnxruntime reads ONNX's ``clip``.

    Output: h', ``[batch, output_size]``. State: the leaves c ``[batch, num_units]`` and h ``[batch, output_size]``;
    with ``state_is_tuple=False`` one leaf with c and h side by side.
    """

    def __init__(self, cell: LSTMCell, weights: Weights, scope: str) -> None:
        self._units = units = cell.num_units
        self.output_size = cell.output_size
        sizes = (units, self.output_size)
        self.leaf_sizes: tuple[int, ...] = sizes if cell.state_is_tuple else (sum(sizes),)
        self._kernel = weights[scope + "kernel"]
        # forget_bias is no part of the stored bias; added to a copy once, it costs nothing at each step.
        self._bias = weights[scope + "bias"].copy()
        self._bias[2 * units : 3 * units] += cell.forget_bias
        self._peepholes = _peepholes(weights, scope) if cell.use_peepholes else None
        self._projection = None if cell.num_proj is None else weights[scope + "projection/kernel"]
        self._cell_clip, self._proj_clip = cell.cell_clip, cell.proj_clip
        self._preactivation_clip = cell.preactivation_clip
        self._gate = activation_for(cell.recurrent_activation or "sigmoid")
        self._activation = activation_for(cell.activation or "tanh")
        self._output_activation = activation_for(cell.output_activation or cell.activation or "tanh")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        if len(leaves) == 2:
            new_c, new_h = self._step(inputs, leaves[0], leaves[1])
            return new_h, [new_c, new_h]
        (both,) = leaves
        new_c, new_h = self._step(inputs, both[:, : self._units], both[:, self._units :])
        return new_h, [np.concatenate((new_c, new_h), axis=1)]

    def _step(self, inputs: Array, c: Array, h: Array) -> tuple[Array, Array]:
        units = self._units
        gates = np.concatenate((inputs, h), axis=1) @ self._kernel
        gates += self._bias
        i, j = gates[:, :units], gates[:, units : 2 * units]
        f, o = gates[:, 2 * units : 3 * units], gates[:, 3 * units :]
        if self._peepholes is None:
            if self._preactivation_clip is not None:
                clip_symmetric(gates, self._preactivation_clip)
            f_and_o = gates[:, 2 * units :]
            self._gate(f_and_o, f_and_o)
        else:
            w_i, w_f, _ = self._peepholes
            i += w_i * c
            f += w_f * c
            if self._preactivation_clip is not None:
                clip_symmetric(gates[:, : 3 * units], self._preactivation_clip)
            self._gate(f, f)
        self._gate(i, i)
        self._activation(j, j)
        np.multiply(i, j, out=j)
        new_c = f * c
        new_c += j
        if self._cell_clip is not None:
            clip_symmetric(new_c, self._cell_clip)
        if self._peepholes is not None:
            o += self._peepholes[2] * new_c
            if self._preactivation_clip is not None:
                clip_symmetric(o, self._preactivation_clip)
            self._gate(o, o)
        new_h = self._output_activation(new_c, np.empty_like(new_c))
        new_h *= o
        if self._projection is not None:
            new_h = new_h @ self._projection
            if self._proj_clip is not None:
                clip_symmetric(new_h, self._proj_clip)
        return new_c, new_h


def _peepholes(weights: Weights, scope: str) -> tuple[Array, Array, Array]:
    """The weights with which i and f look at c, and o at c'; one for each unit."""
    return weights[scope + "w_i_diag"], weights[scope + "w_f_diag"], weights[scope + "w_o_diag"]


def build_lstm(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its kernel and bias, and what its options ask for besides."""
    assert isinstance(placed.cell, LSTMCell)
    return LSTM(placed.cell, weights, placed.scope)


def build_basic_lstm(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its kernel and bias: it is the ``LSTMCell`` without the options that it does not have."""
    cell = placed.cell
    assert isinstance(cell, BasicLSTMCell)
    same = LSTMCell(
        cell.num_units, forget_bias=cell.forget_bias, state_is_tuple=cell.state_is_tuple, activation=cell.activation
    )
    return LSTM(same, weights, placed.scope)
