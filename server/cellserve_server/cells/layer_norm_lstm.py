"""The LSTM cell with layer normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import LayerNormBasicLSTMCell, LSTMCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for, sigmoid
from cellserve_server.cells.cell import Cell, CellBuilder, Weights
from cellserve_server.cells.lstm import LSTM

_VARIANCE_EPSILON = 1e-12


class LayerNormLSTM:
    """The LSTM of TF1's ``contrib.rnn.LayerNormBasicLSTMCell.call``; Ba and others 2016, "Layer Normalization".

    ``[x, h] kernel``, without a bias, is cut into four equal parts i, j, f, o (j is the candidate). Each is normalised
    over its own units: ``(v - mean) / sqrt(variance + 1e-12) gamma + beta``, with the weights under ``input``,
    ``transform``, ``forget`` and ``output``. ``c' = c sigmoid(f + forget_bias) + sigmoid(i) activation(j)``, which is
    normalised too, under ``state``; the normalised c' is what goes on. ``h' = activation(c') sigmoid(o)``.

    Output: h'. State: the leaves c and h, each ``[batch, num_units]``.
    """

    def __init__(self, cell: LayerNormBasicLSTMCell, weights: Weights, scope: str) -> None:
        self._units = units = cell.num_units
        self.leaf_sizes = (units, units)
        self.output_size = units
        self._kernel = weights[scope + "kernel"]
        parts = [scope + part for part in ("input", "transform", "forget", "output")]
        self._gamma = np.stack([weights[part + "/gamma"] for part in parts])
        self._beta = np.stack([weights[part + "/beta"] for part in parts])
        self._beta[2] += cell.forget_bias
        self._state_gamma, self._state_beta = weights[scope + "state/gamma"], weights[scope + "state/beta"]
        self._activation = activation_for(cell.activation or "tanh")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        c, h = leaves
        sums = np.concatenate((inputs, h), axis=1) @ self._kernel
        gates = sums.reshape(len(sums), 4, self._units)
        normalise(gates, self._gamma, self._beta)
        i, j, f_and_o = gates[:, 0], gates[:, 1], gates[:, 2:]
        sigmoid(i, i)
        self._activation(j, j)
        sigmoid(f_and_o, f_and_o)
        np.multiply(i, j, out=j)
        new_c = c * gates[:, 2]
        new_c += j
        normalise(new_c, self._state_gamma, self._state_beta)
        new_h = self._activation(new_c, np.empty_like(new_c))
        new_h *= gates[:, 3]
        return new_h, [new_c, new_h]


def normalise(values: Array, gamma: Array, beta: Array) -> None:
    """Gives values mean 0 and variance 1 over the last axis, then gain ``gamma`` and shift ``beta``, in place."""
    values -= values.mean(axis=-1, keepdims=True)
    deviation = np.square(values).mean(axis=-1, keepdims=True)
    deviation += _VARIANCE_EPSILON
    np.sqrt(deviation, out=deviation)
    values /= deviation
    values *= gamma
    values += beta


def build_layer_norm_lstm(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell; without ``layer_norm`` it is a plain LSTM with a bias."""
    cell = placed.cell
    assert isinstance(cell, LayerNormBasicLSTMCell)
    if cell.layer_norm:
        return LayerNormLSTM(cell, weights, placed.scope)
    plain = LSTMCell(cell.num_units, forget_bias=cell.forget_bias, activation=cell.activation)
    return LSTM(plain, weights, placed.scope)
