"""The LSTM cell with layer normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import LayerNormBasicLSTMCell, LSTMCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for, sigmoid
from cellserve_server.cells.cell import Cell, CellBuilder, Weights
from cellserve_server.cells.lstm import lstm
from cellserve_server.cells.recurrent import JoinedCell, Sums

_VARIANCE_EPSILON = 1e-12


class LayerNormLSTM(JoinedCell):
    """The LSTM of TF1's ``contrib.rnn.LayerNormBasicLSTMCell.call``; Ba and others 2016, "Layer Normalization".

    ``[x, h] kernel``, without a bias, is cut into four equal parts i, j, f, o (j is the candidate). Each is normalised
    over its own units: ``(v - mean) / sqrt(variance + 1e-12) gamma + beta``, with the weights under ``input``,
    ``transform``, ``forget`` and ``output``. ``c' = c sigmoid(f + forget_bias) + sigmoid(i) activation(j)``, which is
    normalised too, under ``state``; the normalised c' is what goes on. ``h' = activation(c') sigmoid(o)``.

    Output: h'. State: the leaves c and h, each ``[batch, num_units]``.
    """

    def __init__(self, cell: LayerNormBasicLSTMCell, weights: Weights, scope: str) -> None:
        units, kernel = cell.num_units, weights[scope + "kernel"]
        super().__init__((units, units), kernel, np.zeros(4 * units, kernel.dtype), range(4))
        parts = [scope + part for part in ("input", "transform", "forget", "output")]
        self._gamma = np.stack([weights[part + "/gamma"] for part in parts])[:, np.newaxis]
        self._beta = np.stack([weights[part + "/beta"] for part in parts])[:, np.newaxis]
        self._beta[2] += cell.forget_bias
        self._state_gamma, self._state_beta = weights[scope + "state/gamma"], weights[scope + "state/beta"]
        self._activation = activation_for(cell.activation or "tanh")

    def finish(self, sums: Sums, before: Sequence[Array], after: Sequence[Array]) -> None:
        """As ``JoinedCell.finish``."""
        i, j, f, o = sums.parts
        c, (new_c, new_h) = before[0], after
        normalise(sums.all, self._gamma, self._beta)
        for gate in (i, f, o):
            sigmoid(gate, gate)
        self._activation(j, j)
        np.multiply(i, j, j)
        np.multiply(f, c, f)
        np.add(f, j, new_c)
        normalise(new_c, self._state_gamma, self._state_beta)
        self._activation(new_c, new_h)
        new_h *= o


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
    return lstm(plain, weights, placed.scope)
