"""The gated recurrent units: with the reset before the product, and after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.cells import CudnnCompatibleGRUCell, GRUCell, PlacedCell
from cellserve.tensors import Array
from cellserve_server.cells.activations import (
    HALF_FOR_SIGMOID,
    activation_for,
    clip_symmetric,
    constant,
    sigmoid_of_tanh,
)
from cellserve_server.cells.cell import Cell, CellBuilder, Weights
from cellserve_server.cells.kernels import Affine, Kernel
from cellserve_server.cells.recurrent import RecurrentCell, Sums, joined_kernel
from cellserve_server.cells.workspace import Workspace

_ONE = constant(1)


class _Functions:
    """What both cells do with their sums, in place: ``sigmoid`` of r and u, ``activation`` of the candidate.

    The usual sigmoid is computed by tanh, of sums that ``gate_scale`` has halved in the kernel.
    """

    def __init__(self, cell: GRUCell | CudnnCompatibleGRUCell) -> None:
        self._clip = cell.preactivation_clip
        self._gate = activation_for(cell.recurrent_activation or "sigmoid")
        self._activation = activation_for(cell.activation or "tanh")
        self._by_tanh = self._clip is None and (cell.recurrent_activation or "sigmoid") == "sigmoid"
        self.gate_scale = HALF_FOR_SIGMOID if self._by_tanh else 1.0

    def gates(self, sums: Array) -> None:
        """Of r and u, ``[2, rows, units]``."""
        if self._by_tanh:
            np.tanh(sums, sums)
            sigmoid_of_tanh(sums)
            return
        if self._clip is not None:
            clip_symmetric(sums, self._clip)
        self._gate(sums, sums)

    def candidate(self, sums: Array) -> None:
        """Of the candidate, ``[rows, units]``."""
        if self._clip is not None:
            clip_symmetric(sums, self._clip)
        self._activation(sums, sums)


class GRU(RecurrentCell):
    """The GRU of TF1's ``GRUCell.call``: the reset is applied to h before the product.

    ``r, u = sigmoid([x, h] gates_kernel + gates_bias)`` in this order; ``c = activation([x, r h] candidate_kernel +
    candidate_bias)``; ``h' = u h + (1 - u) c``. ``recurrent_activation`` stands for the sigmoid;
    ``preactivation_clip`` bounds what goes into the three functions (ONNX's ``clip``). Output and state are h': one
    leaf ``[batch, num_units]``.
    """

    def __init__(self, cell: GRUCell, weights: Weights, scope: str) -> None:
        units = cell.num_units
        gates, candidate = weights[scope + "gates/kernel"], weights[scope + "candidate/kernel"]
        super().__init__((units,), (3, units), gates)
        self._functions = _Functions(cell)
        depth, scale, dtype = len(gates) - units, self._functions.gate_scale, gates.dtype
        gates = joined_kernel(gates, weights[scope + "gates/bias"], depth, (0, 1), (scale, scale))
        candidate = joined_kernel(candidate, weights[scope + "candidate/bias"], depth, (0,))
        whole = Kernel(np.concatenate((gates, candidate)))
        self._gates, self._candidate = whole.parts(0, 2), whole.parts(2, 3)
        self._inputs = Affine(whole.rows(0, depth + 1), depth, dtype)
        self._hidden_gates, self._hidden_candidate = self._gates.rows(depth + 1), self._candidate.rows(depth + 1)
        self._sums = Workspace(dtype, lambda memory, rows: Sums(memory, rows, (depth, units), (3, units)))

    def project(self, inputs: Array, out: Array) -> None:
        """As ``RecurrentCell.project``: the inputs' share of r, u and c."""
        self._inputs.apply(inputs, out)

    def advance(self, projected: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
        """As ``RecurrentCell.advance``."""
        (h,) = before
        sums = self._sums.for_rows(len(h))
        gates, candidate, r = sums.all[:2], sums.all[2:], sums.parts[0]
        self._hidden_gates.multiply(h, gates)
        np.add(gates, projected[:2], gates)
        self._functions.gates(gates)
        np.multiply(r, h, r)
        self._hidden_candidate.multiply(r, candidate)
        np.add(candidate, projected[2:], candidate)
        self._finish(sums, h, after)

    def _step(self, inputs: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
        # As in ``JoinedCell``: for a lone step x and h are joined.
        (h,) = before
        sums = self._sums.for_rows(len(h))
        gates, candidate, r = sums.all[:2], sums.all[2:], sums.parts[0]
        sums.x[...] = inputs
        sums.h[...] = h
        self._gates.multiply(sums.joined, gates)
        self._functions.gates(gates)
        np.multiply(r, h, sums.h)
        self._candidate.multiply(sums.joined, candidate)
        self._finish(sums, h, after)

    def _finish(self, sums: Sums, h: Array, after: Sequence[Array]) -> None:
        r, u, candidate = sums.parts
        self._functions.candidate(candidate)
        _blend(u, h, candidate, after[0], r)


class ResetAfterGRU(RecurrentCell):
    """The GRU of TF1's ``CudnnCompatibleGRUCell.call``: the reset is applied after the product.

    ``r, u = sigmoid([x, h] gates_kernel + gates_bias)`` in this order; ``c = activation(x Wx + bx + r (h Wh + bh))``;
    ``h' = u h + (1 - u) c``. So do cuDNN, PyTorch, Keras with ``reset_after`` and ONNX with ``linear_before_reset``.
    Options, output and state as for ``GRU``.
    """

    def __init__(self, cell: CudnnCompatibleGRUCell, weights: Weights, scope: str) -> None:
        units = cell.num_units
        gates = weights[scope + "gates/kernel"]
        super().__init__((units,), (3, units), gates)
        self._functions = _Functions(cell)
        depth, dtype = len(gates) - units, gates.dtype
        scales, order = (self._functions.gate_scale,) * 2, (0, 1)
        candidate = scope + "candidate/"
        from_x = np.concatenate(
            (
                joined_kernel(gates[:depth], weights[scope + "gates/bias"], depth, order, scales),
                _with_bias(weights, candidate + "input_projection/"),
            )
        )
        from_h = np.concatenate(
            (
                joined_kernel(gates[depth:], np.zeros(2 * units, dtype), units, order, scales),
                _with_bias(weights, candidate + "hidden_projection/"),
            )
        )
        self._inputs = Affine(Kernel(from_x), depth, dtype)
        self._hidden = Affine(Kernel(from_h), units, dtype)
        self._sums = Workspace(dtype, lambda memory, rows: memory.array(3, rows, units))

    def project(self, inputs: Array, out: Array) -> None:
        """As ``RecurrentCell.project``: the inputs' share of r, u and c."""
        self._inputs.apply(inputs, out)

    def advance(self, projected: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
        """As ``RecurrentCell.advance``."""
        (h,), (new_h,) = before, after
        sums = self._sums.for_rows(len(h))
        self._hidden.apply(h, sums)
        gates, candidate = sums[:2], sums[2]
        np.add(gates, projected[:2], gates)
        self._functions.gates(gates)
        r, u = gates
        np.multiply(candidate, r, candidate)
        np.add(candidate, projected[2], candidate)
        self._functions.candidate(candidate)
        _blend(u, h, candidate, new_h, r)


def _with_bias(weights: Weights, scope: str) -> Array:
    kernel = weights[scope + "kernel"]
    return joined_kernel(kernel, weights[scope + "bias"], len(kernel), (0,))


def _blend(u: Array, h: Array, candidate: Array, new_h: Array, spare: Array) -> None:
    """``h' = u h + (1 - u) candidate``; all but h is overwritten. So written, a u of 1 keeps h to the last bit."""
    np.multiply(u, h, spare)
    np.subtract(_ONE[u.dtype], u, u)
    np.multiply(candidate, u, candidate)
    np.add(spare, candidate, new_h)


def build_gru(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``gates`` and ``candidate`` weights."""
    assert isinstance(placed.cell, GRUCell)
    return GRU(placed.cell, weights, placed.scope)


def build_reset_after_gru(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the cell from its ``gates`` and ``candidate`` weights."""
    assert isinstance(placed.cell, CudnnCompatibleGRUCell)
    return ResetAfterGRU(placed.cell, weights, placed.scope)
