"""The layers that may stand around a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.errors import ModelNotSteppableError
from cellserve.specs import Dense
from cellserve.tensors import Array
from cellserve_server.cells.activations import activation_for
from cellserve_server.cells.cell import Cell
from cellserve_server.cells.ids import look_up
from cellserve_server.cells.sequences import BeforeStep, Packing, run_cell


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

    def __init__(self, table: Array) -> None:
        self.output_size = table.shape[1]
        self._table = table

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``; any shape of ids will do."""
        return look_up(self._table, inputs), []


class DenseLayer:
    """``activation(x kernel + bias)``. No state."""

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
    """A cell from each end of the sequence. Source: TF1's ``bidirectional_dynamic_rnn``, and Keras' ``Bidirectional``.

    The backward cell sees each row reversed within the row's own length, and its outputs are turned back. Outputs: both
    directions' side by side, or their sum, product or mean. State: the forward cell's leaves, then the backward cell's.
    """

    def __init__(self, forward: Cell, backward: Cell, merge_mode: str) -> None:
        self.leaf_sizes = forward.leaf_sizes + backward.leaf_sizes
        both = merge_mode == "concat"
        self.output_size = forward.output_size + backward.output_size if both else forward.output_size
        self._forward = forward
        self._backward = backward
        self._merge_mode = merge_mode

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """Refuses: the backward cell begins where the sequence ends.

        Raises:
            ModelNotSteppableError: always.
        """
        raise ModelNotSteppableError("the model is bidirectional and needs whole sequences: RunSequence")

    def run(
        self, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """As ``run_cell``."""
        cut = len(self._forward.leaf_sizes)
        forward_outputs, forward_leaves = run_cell(self._forward, packed, packing, leaves[:cut], before_step)
        turned = packed[packing.reversal]
        backward_outputs, backward_leaves = run_cell(self._backward, turned, packing, leaves[cut:], before_step)
        backward_outputs = backward_outputs[packing.reversal]
        return _merge(self._merge_mode, forward_outputs, backward_outputs), forward_leaves + backward_leaves


def _merge(mode: str, forward: Array, backward: Array) -> Array:
    match mode:
        case "concat":
            return np.concatenate((forward, backward), axis=1)
        case "sum":
            return forward + backward
        case "mul":
            return forward * backward
        case _:
            assert mode == "average", mode
            return (forward + backward) / 2
