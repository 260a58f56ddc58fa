"""Cells around a cell."""

from __future__ import annotations

from collections.abc import Sequence

from cellserve.cells import (
    DropoutWrapper,
    EmbeddingWrapper,
    InputProjectionWrapper,
    OutputProjectionWrapper,
    PlacedCell,
    ResidualWrapper,
)
from cellserve.tensors import Array
from cellserve_server.cells.activations import Activation, activation_for
from cellserve_server.cells.cell import Cell, CellBuilder, Weights
from cellserve_server.cells.ids import look_up
from cellserve_server.cells.sequences import BeforeStep, Packing, run_cell


class OutputProjection:
    """``activation(output kernel + bias)`` of a cell's output; the state is the cell's.

    Source: TF1's ``OutputProjectionWrapper.call``.
    """

    def __init__(self, description: OutputProjectionWrapper, cell: Cell, kernel: Array, bias: Array) -> None:
        self.leaf_sizes = cell.leaf_sizes
        self.output_size = description.output_size
        self._cell = cell
        self._kernel = kernel
        self._bias = bias
        self._activation = activation_for(description.activation or "identity")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        output, new_leaves = self._cell.step(inputs, leaves)
        return _dense(output, self._kernel, self._bias, self._activation), new_leaves

    def run(
        self, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """As ``run_cell``."""
        outputs, new_leaves = run_cell(self._cell, packed, packing, leaves, before_step)
        return _dense(outputs, self._kernel, self._bias, self._activation), new_leaves


class InputProjection:
    """A cell on ``activation(inputs kernel + bias)``; output and state are the cell's.

    Source: TF1's ``InputProjectionWrapper.call``.
    """

    def __init__(self, description: InputProjectionWrapper, cell: Cell, kernel: Array, bias: Array) -> None:
        self.leaf_sizes = cell.leaf_sizes
        self.output_size = cell.output_size
        self._cell = cell
        self._kernel = kernel
        self._bias = bias
        self._activation = activation_for(description.activation or "identity")

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        return self._cell.step(_dense(inputs, self._kernel, self._bias, self._activation), leaves)

    def run(
        self, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """As ``run_cell``."""
        projected = _dense(packed, self._kernel, self._bias, self._activation)
        return run_cell(self._cell, projected, packing, leaves, before_step)


class EmbeddingInput:
    """A cell on the row of a table for each int32 id; output and state are the cell's.

    Inputs: ids ``[batch]``. Source: TF1's ``EmbeddingWrapper.call``.
    """

    def __init__(self, cell: Cell, table: Array) -> None:
        self.leaf_sizes = cell.leaf_sizes
        self.output_size = cell.output_size
        self._cell = cell
        self._table = table

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        return self._cell.step(look_up(self._table, inputs), leaves)

    def run(
        self, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """As ``run_cell``."""
        return run_cell(self._cell, look_up(self._table, packed), packing, leaves, before_step)


class Residual:
    """A cell's outputs with its inputs added; the state is the cell's. Source: TF1's ``ResidualWrapper.call``."""

    def __init__(self, cell: Cell) -> None:
        self.leaf_sizes = cell.leaf_sizes
        self.output_size = cell.output_size
        self._cell = cell

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        output, new_leaves = self._cell.step(inputs, leaves)
        # Not in place: the output may be one of the leaves.
        return output + inputs, new_leaves

    def run(
        self, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """As ``run_cell``."""
        outputs, new_leaves = run_cell(self._cell, packed, packing, leaves, before_step)
        return outputs + packed, new_leaves


def _dense(x: Array, kernel: Array, bias: Array, activation: Activation) -> Array:
    sums = x @ kernel
    sums += bias
    return activation(sums, sums)


def build_output_projection(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the wrapper from the cell inside and its own ``kernel`` and ``bias``."""
    assert isinstance(placed.cell, OutputProjectionWrapper)
    (inner,) = placed.inner
    kernel, bias = weights[placed.scope + "kernel"], weights[placed.scope + "bias"]
    return OutputProjection(placed.cell, build(inner), kernel, bias)


def build_input_projection(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the wrapper from the cell inside and its own ``kernel`` and ``bias``."""
    assert isinstance(placed.cell, InputProjectionWrapper)
    (inner,) = placed.inner
    kernel, bias = weights[placed.scope + "kernel"], weights[placed.scope + "bias"]
    return InputProjection(placed.cell, build(inner), kernel, bias)


def build_embedding_input(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the wrapper from the cell inside and its own table ``embedding``."""
    assert isinstance(placed.cell, EmbeddingWrapper)
    (inner,) = placed.inner
    return EmbeddingInput(build(inner), weights[placed.scope + "embedding"])


def build_residual(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Makes the wrapper from the cell inside."""
    assert isinstance(placed.cell, ResidualWrapper)
    (inner,) = placed.inner
    return Residual(build(inner))


def build_dropout(placed: PlacedCell, weights: Weights, build: CellBuilder) -> Cell:
    """Gives the cell inside: dropout is for training, a served cell drops nothing."""
    assert isinstance(placed.cell, DropoutWrapper)
    (inner,) = placed.inner
    return build(inner)
