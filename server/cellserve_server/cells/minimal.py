"""The minimal recurrent cells of "Were RNNs All We Needed?" (Feng and others, 2024, arXiv:2410.01201).

Their gates look at the inputs alone, so a whole sequence could be computed at once by a parallel scan, which is how
they are trained. One step at a time, as here, they are the same recurrence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import MinGRUCell, MinLSTMCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import Activation, identity, sigmoid, softplus
from cellserve_server.cells.cell import Cell, CellBuilder, Weights


def positive_candidate(x: Array, out: Array) -> Array:
    """The paper's g (appendix B.2.1): x + 0.5 where x >= 0, ``sigmoid(x)`` elsewhere.

    One form for both: ``max(x, 0) + sigmoid(min(x, 0))``, for ``sigmoid(0)`` is 0.5.
    """
    below = np.minimum(x, 0)
    sigmoid(below, below)
    np.maximum(x, 0, out=out)
    return np.add(out, below, out=out)


def _candidate_for(linear: bool) -> Activation:
    return identity if linear else positive_candidate


class MinGRU:
    """The paper's minGRU: ``h' = (1 - z) h + z g(candidate)``; output and state are h'.

    ``x kernel + bias`` is cut into z, of which the sigmoid is taken, and the candidate. State: one leaf
    ``[batch, num_units]``.
    """

    def __init__(self, cell: MinGRUCell, kernel: Array, bias: Array) -> None:
        self._units = cell.num_units
        self.leaf_sizes = (cell.num_units,)
        self.output_size = cell.num_units
        self._kernel = kernel
        self._bias = bias
        self._candidate = _candidate_for(cell.linear_candidate)

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        (h,) = leaves
        sums = inputs @ self._kernel
        sums += self._bias
        z, candidate = sums[:, : self._units], sums[:, self._units :]
        sigmoid(z, z)
        self._candidate(candidate, candidate)
        candidate *= z
        new_h = 1 - z
        new_h *= h
        new_h += candidate
        return new_h, [new_h]


class MinLSTM:
    """The paper's minLSTM with its gates normalised: ``h' = f / (f + i) h + i / (f + i) g(candidate)``.

    ``x kernel + bias`` is cut into f, i, of which the sigmoids are taken, and the candidate. Output and state are h';
    state: one leaf ``[batch, num_units]``.
    """

    def __init__(self, cell: MinLSTMCell, kernel: Array, bias: Array) -> None:
        self._units = cell.num_units
        self.leaf_sizes = (cell.num_units,)
        self.output_size = cell.num_units
        self._kernel = kernel
        self._bias = bias
        self._candidate = _candidate_for(cell.linear_candidate)

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        (h,) = leaves
        units = self._units
        sums = inputs @ self._kernel
        sums += self._bias
        candidate = sums[:, 2 * units :]
        forget = _share_of_first(sums[:, :units], sums[:, units : 2 * units])
        self._candidate(candidate, candidate)
        candidate *= 1 - forget
        new_h = forget
        new_h *= h
        new_h += candidate
        return new_h, [new_h]


def _share_of_first(f: Array, i: Array) -> Array:
    """``sigmoid(f) / (sigmoid(f) + sigmoid(i))``, freshly made; f and i are overwritten.

    As ``sigmoid(log sigmoid(f) - log sigmoid(i))`` with ``log sigmoid(x) = -softplus(-x)``: where both gates are too
    small for the dtype the quotient would be 0 / 0, and the difference of their logarithms still says their ratio.
    """
    for gate in (f, i):
        gate *= -1
        softplus(gate, gate)
    log_ratio: Array = i - f
    return sigmoid(log_ratio, log_ratio)


def build_min_gru(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``kernel`` and ``bias``."""
    assert isinstance(placed.cell, MinGRUCell)
    return MinGRU(placed.cell, weights[placed.scope + "kernel"], weights[placed.scope + "bias"])


def build_min_lstm(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``kernel`` and ``bias``."""
    assert isinstance(placed.cell, MinLSTMCell)
    return MinLSTM(placed.cell, weights[placed.scope + "kernel"], weights[placed.scope + "bias"])
