"""The gated recurrent units: with the reset before the product, and after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import CudnnCompatibleGRUCell, GRUCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for, clip_symmetric
from cellserve_server.cells.cell import Cell, CellBuilder, Weights


class GRU:
    """The GRU of TF1's ``GRUCell.call``: the reset is applied to h before the product.

    ``r, u = sigmoid([x, h] gates_kernel + gates_bias)`` in this order; ``c = activation([x, r h] candidate_kernel +
    candidate_bias)``; ``h' = u h + (1 - u) c``. ``recurrent_activation`` stands for the sigmoid;
    ``preactivation_clip`` bounds what goes into the three functions (ONNX's ``clip``). Output and state are h': one
    leaf ``[batch, num_units]``.
    """

    def __init__(self, cell: GRUCell, weights: Weights, scope: str) -> None:
        self.leaf_sizes = (cell.num_units,)
        self.output_size = cell.num_units
        self._units = cell.num_units
        self._gates_kernel = weights[scope + "gates/kernel"]
        self._gates_bias = weights[scope + "gates/bias"]
        self._candidate_kernel = weights[scope + "candidate/kernel"]
        self._candidate_bias = weights[scope + "candidate/bias"]
        self._clip = cell.preactivation_clip
        self._gate = activation_for(cell.recurrent_activation or "sigmoid")
        self._activation = activation_for(cell.activation or "tanh")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        (h,) = leaves
        joined = np.concatenate((inputs, h), axis=1)
        gates = joined @ self._gates_kernel
        gates += self._gates_bias
        if self._clip is not None:
            clip_symmetric(gates, self._clip)
        self._gate(gates, gates)
        r, u = gates[:, : self._units], gates[:, self._units :]
        joined[:, -self._units :] *= r
        candidate = joined @ self._candidate_kernel
        candidate += self._candidate_bias
        if self._clip is not None:
            clip_symmetric(candidate, self._clip)
        self._activation(candidate, candidate)
        return _blend(u, h, candidate)


class ResetAfterGRU:
    """The GRU of TF1's ``CudnnCompatibleGRUCell.call``: the reset is applied after the product.

    ``r, u = sigmoid([x, h] gates_kernel + gates_bias)`` in this order; ``c = activation(x Wx + bx + r (h Wh + bh))``;
    ``h' = u h + (1 - u) c``. So do cuDNN, PyTorch, Keras with ``reset_after`` and ONNX with ``linear_before_reset``.
    Options, output and state as for ``GRU``.
    """

    def __init__(self, cell: CudnnCompatibleGRUCell, weights: Weights, scope: str) -> None:
        self.leaf_sizes = (cell.num_units,)
        self.output_size = cell.num_units
        self._units = cell.num_units
        self._gates_kernel = weights[scope + "gates/kernel"]
        self._gates_bias = weights[scope + "gates/bias"]
        self._input_kernel = weights[scope + "candidate/input_projection/kernel"]
        self._input_bias = weights[scope + "candidate/input_projection/bias"]
        self._hidden_kernel = weights[scope + "candidate/hidden_projection/kernel"]
        self._hidden_bias = weights[scope + "candidate/hidden_projection/bias"]
        self._clip = cell.preactivation_clip
        self._gate = activation_for(cell.recurrent_activation or "sigmoid")
        self._activation = activation_for(cell.activation or "tanh")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        (h,) = leaves
        # One product of x and one of h, for gates and candidate together, would do; with many rows that was slower
        # than these three, for the parts that it gives are not contiguous.
        gates = np.concatenate((inputs, h), axis=1) @ self._gates_kernel
        gates += self._gates_bias
        if self._clip is not None:
            clip_symmetric(gates, self._clip)
        self._gate(gates, gates)
        r, u = gates[:, : self._units], gates[:, self._units :]
        candidate = h @ self._hidden_kernel
        candidate += self._hidden_bias
        candidate *= r
        candidate += inputs @ self._input_kernel
        candidate += self._input_bias
        if self._clip is not None:
            clip_symmetric(candidate, self._clip)
        self._activation(candidate, candidate)
        return _blend(u, h, candidate)


def _blend(u: Array, h: Array, candidate: Array) -> tuple[Array, list[Array]]:
    """``h' = u h + (1 - u) candidate`` as output and as state; the candidate is overwritten."""
    new_h = u * h
    candidate *= 1 - u
    new_h += candidate
    return new_h, [new_h]


def build_gru(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``gates`` and ``candidate`` weights."""
    assert isinstance(placed.cell, GRUCell)
    return GRU(placed.cell, weights, placed.scope)


def build_reset_after_gru(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``gates`` and ``candidate`` weights."""
    assert isinstance(placed.cell, CudnnCompatibleGRUCell)
    return ResetAfterGRU(placed.cell, weights, placed.scope)
