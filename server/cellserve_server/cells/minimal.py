"""The minimal recurrent cells of "Were RNNs All We Needed?" (Feng and others, 2024, arXiv:2410.01201).

Their gates look at the inputs alone, so a whole sequence could be computed at once by a parallel scan, which is how
they are trained. Here the gates of many steps are computed at once, and what is left of a step is a product and a sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import MinGRUCell, MinLSTMCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import Activation, identity, sigmoid, softplus
from cellserve_server.cells.cell import Cell, CellBuilder, Weights
from cellserve_server.cells.kernels import Affine, Kernel
from cellserve_server.cells.recurrent import RecurrentCell, joined_kernel


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


class MinGRU(RecurrentCell):
    """The paper's minGRU: ``h' = (1 - z) h + z g(candidate)``; output and state are h'.

    ``x kernel + bias`` is cut into z, of which the sigmoid is taken, and the candidate. State: one leaf
    ``[batch, num_units]``.
    """

    def __init__(self, cell: MinGRUCell, kernel: Array, bias: Array) -> None:
        super().__init__((cell.num_units,), (2, cell.num_units), kernel)
        self._sums = _sums_of_inputs(kernel, bias, 2)
        self._candidate = _candidate_for(cell.linear_candidate)

    def project(self, inputs: Array, out: Array) -> None:
        """As ``RecurrentCell.project``: ``1 - z`` and ``z g(candidate)``."""
        self._sums.apply(inputs, out)
        z, candidate = out
        sigmoid(z, z)
        self._candidate(candidate, candidate)
        candidate *= z
        np.subtract(1, z, out=z)

    def advance(self, projected: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
        """As ``RecurrentCell.advance``."""
        _weigh(projected, before, after)


class MinLSTM(RecurrentCell):
    """The paper's minLSTM with its gates normalised: ``h' = f / (f + i) h + i / (f + i) g(candidate)``.

    ``x kernel + bias`` is cut into f, i, of which the sigmoids are taken, and the candidate. Output and state are h';
    state: one leaf ``[batch, num_units]``.
    """

    def __init__(self, cell: MinLSTMCell, kernel: Array, bias: Array) -> None:
        super().__init__((cell.num_units,), (3, cell.num_units), kernel)
        self._sums = _sums_of_inputs(kernel, bias, 3)
        self._candidate = _candidate_for(cell.linear_candidate)

    def project(self, inputs: Array, out: Array) -> None:
        """As ``RecurrentCell.project``: ``f / (f + i)``, ``i / (f + i) g(candidate)``, and something."""
        self._sums.apply(inputs, out)
        f, i, candidate = out
        share = _share_of_first(f, i)
        self._candidate(candidate, candidate)
        np.subtract(1, share, out=i)
        np.multiply(i, candidate, out=i)
        f[...] = share

    def advance(self, projected: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
        """As ``RecurrentCell.advance``."""
        _weigh(projected[:2], before, after)


def _sums_of_inputs(kernel: Array, bias: Array, parts: int) -> Affine:
    depth = len(kernel)
    return Affine(Kernel(joined_kernel(kernel, bias, depth, range(parts))), depth, kernel.dtype)


def _weigh(projected: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
    """``h' = weight h + value``."""
    (weight, value), (h,), (new_h,) = projected, before, after
    np.multiply(weight, h, out=new_h)
    new_h += value


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
