"""The layers that may stand around a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.errors import FieldInvalidError
from cellserve.specs import Dense, Embedding
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for
from cellserve_server.cells.cell import Cell
from cellserve_server.cells.sequences import reverse_rows, run_steps


class StandardiseLayer:
    """``(x - mean) / scale``, element by element. No state."""

    leaf_sizes: tuple[int, ...] = ()

    def __init__(self, mean: Array, scale: Array) -> None:
        self.output_size = len(mean)
        self._mean = mean
        self._scale = scale

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``; any number of leading dimensions will do."""
        centred = inputs - self._mean
        centred /= self._scale
        return centred, []


class EmbeddingLayer:
    """The row of a table ``[vocabulary_size, depth]`` for each int32 id. No state."""

    leaf_sizes: tuple[int, ...] = ()

    def __init__(self, layer: Embedding, table: Array) -> None:
        self.output_size = layer.depth
        self._vocabulary_size = layer.vocabulary_size
        self._table = table

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``; any shape of ids will do.

        Ids out of range are refused by ``check``, at the edge. They do come here in the padding of sequences, where
        any id may stand and any row of the table will do.
        """
        return np.take(self._table, inputs, axis=0, mode="clip"), []

    def check(self, ids: Array, lengths: Array | None, field: str) -> None:
        """Checks ids ``[batch]`` or ``[batch, time]``; with ``lengths``, those within each row's length.

        Raises:
            FieldInvalidError: an id is not one of the table's; its position is named.
        """
        wrong = (ids < 0) | (ids >= self._vocabulary_size)
        if lengths is not None:
            wrong &= np.arange(ids.shape[1]) < lengths[:, np.newaxis]
        if not wrong.any():
            return
        position = tuple(int(index) for index in np.argwhere(wrong)[0])
        where = field + "".join(f"[{index}]" for index in position)
        raise FieldInvalidError(
            f"{where}: expected an id from 0 to {self._vocabulary_size - 1}; got {int(ids[position])}",
            metadata={"field": where, "actual": str(int(ids[position]))},
        )


class DenseLayer:
    """``activation(x kernel + bias)``; the activation is none, softmax or sigmoid. No state."""

    leaf_sizes: tuple[int, ...] = ()

    def __init__(self, layer: Dense, kernel: Array, bias: Array) -> None:
        self.output_size = layer.units
        self._kernel = kernel
        self._bias = bias
        self._activation = activation_for(layer.activation)

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``; any number of leading dimensions will do."""
        sums = inputs @ self._kernel
        sums += self._bias
        return self._activation(sums, sums), []


class BidirectionalLayer:
    """A cell from each end of the sequence, outputs side by side. Source: TF1's ``bidirectional_dynamic_rnn``.

    The backward cell sees each row reversed within the row's own length, and its outputs are turned back. State: the
    forward cell's leaves, then the backward cell's.
    """

    def __init__(self, forward: Cell, backward: Cell) -> None:
        self.leaf_sizes = forward.leaf_sizes + backward.leaf_sizes
        self.output_size = forward.output_size + backward.output_size
        self._forward = forward
        self._backward = backward

    def run(self, sequence: Array, lengths: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``sequences.run_steps``."""
        cut = len(self._forward.leaf_sizes)
        forward_outputs, forward_leaves = run_steps(self._forward, sequence, lengths, leaves[:cut])
        turned = reverse_rows(sequence, lengths)
        backward_outputs, backward_leaves = run_steps(self._backward, turned, lengths, leaves[cut:])
        backward_outputs = reverse_rows(backward_outputs, lengths)
        return np.concatenate((forward_outputs, backward_outputs), axis=2), forward_leaves + backward_leaves
