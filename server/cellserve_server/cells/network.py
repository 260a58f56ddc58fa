"""A whole model's arithmetic: its layers in order, built from the description and the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from cellserve.cells import (
    BasicLSTMCell,
    BasicRNNCell,
    CellDescription,
    CudnnCompatibleGRUCell,
    DropoutWrapper,
    EmbeddingWrapper,
    GRUCell,
    InputProjectionWrapper,
    LayerNormBasicLSTMCell,
    LSTMCell,
    MinGRUCell,
    MinLSTMCell,
    MultiRNNCell,
    OutputProjectionWrapper,
    PlacedCell,
    ResidualWrapper,
    place,
)
from cellserve.specs import Bidirectional, Dense, Embedding, ModelDescription, PlacedLayer, Standardise, place_layers
from cellserve.tensors import Array
from cellserve_server.cells.cell import Cell, CellFactory, Weights
from cellserve_server.cells.gru import build_gru, build_reset_after_gru
from cellserve_server.cells.ids import check_ids, vocabulary_size
from cellserve_server.cells.layer_norm_lstm import build_layer_norm_lstm
from cellserve_server.cells.layers import BidirectionalLayer, DenseLayer, EmbeddingLayer, StandardiseLayer
from cellserve_server.cells.lstm import build_basic_lstm, build_lstm
from cellserve_server.cells.minimal import build_min_gru, build_min_lstm
from cellserve_server.cells.rnn import build_basic_rnn
from cellserve_server.cells.sequences import BeforeStep, Packing, go_on, run_cell
from cellserve_server.cells.stack import build_stack
from cellserve_server.cells.workspace import MAX_ROWS
from cellserve_server.cells.wrappers import (
    build_dropout,
    build_embedding_input,
    build_input_projection,
    build_output_projection,
    build_residual,
)

_CELLS: Mapping[type[CellDescription], CellFactory] = MappingProxyType(
    {
        BasicRNNCell: build_basic_rnn,
        BasicLSTMCell: build_basic_lstm,
        LSTMCell: build_lstm,
        LayerNormBasicLSTMCell: build_layer_norm_lstm,
        GRUCell: build_gru,
        CudnnCompatibleGRUCell: build_reset_after_gru,
        MinGRUCell: build_min_gru,
        MinLSTMCell: build_min_lstm,
        MultiRNNCell: build_stack,
        OutputProjectionWrapper: build_output_projection,
        InputProjectionWrapper: build_input_projection,
        EmbeddingWrapper: build_embedding_input,
        ResidualWrapper: build_residual,
        DropoutWrapper: build_dropout,
    }
)


class Network(Protocol):
    """A model's arithmetic with its weights; pure, and safe to use from several threads at once.

    Rows do not see each other: a row gives the same alone as in any batch, but for rounding (less than 1e-5 in
    float32), and NaN, infinities and overflow stay in their row and raise nothing.

    Attributes:
        leaf_sizes: the widths of the flattened state's leaves.
        dtype: of the weights, the state, and the floating-point inputs and outputs.
    """

    @property
    def leaf_sizes(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def step(self, inputs: Sequence[Array], leaves: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """One step of a batch.

        Args:
            inputs: one ``[batch, ...]`` for each declared input; batch 0 will do.
            leaves: the state, ``[batch, size]`` for each of ``leaf_sizes``.

        Returns:
            One ``[batch, ...]`` for each declared output, and the new leaves. Nothing shares memory with the arguments
            or with each other: the arrays are the caller's.

        Raises:
            ModelNotSteppableError: the model needs whole sequences.
        """
        ...

    def run(
        self,
        inputs: Sequence[Array],
        lengths: Array,
        leaves: Sequence[Array],
        before_step: BeforeStep = go_on,
    ) -> tuple[list[Array], list[Array]]:
        """Whole sequences, as TF1's ``dynamic_rnn``.

        Args:
            inputs: one ``[batch, time, ...]`` for each declared input; batch 0 and time 0 will do.
            lengths: int64 ``[batch]``, each from 0 to time.
            leaves: the state before, ``[batch, size]`` for each of ``leaf_sizes``.
            before_step: called before each step of each cell, for up to ``MAX_ROWS`` rows; what it raises ends the run.
                It must not use the network, whose temporaries are in use.

        Returns:
            One ``[batch, time, ...]`` for each declared output, exactly 0 past each row's length, and the leaves after
            each row's own last step. The arrays are the caller's.
        """
        ...

    def check_inputs(self, inputs: Sequence[Array], field_prefix: str, lengths: Array | None = None) -> None:
        """Checks what shapes and dtypes do not say: that ids are in the vocabulary. Of floats anything will do.

        Args:
            inputs: one ``[batch, ...]`` or ``[batch, time, ...]`` for each declared input.
            field_prefix: the name of the list of inputs in the request, for messages: ``inputs`` gives
                ``inputs[0][3][1]`` for row 3, step 1 of the first.
            lengths: int64 ``[batch]``, for ``[batch, time, ...]``: ids past a row's length are not looked at.

        Raises:
            FieldInvalidError: an id is out of range; its position, the range and the id are named.
        """
        ...


def build_network(description: ModelDescription, weights: Mapping[str, Array]) -> Network:
    """Builds the arithmetic of a model.

    Args:
        description: a complete description.
        weights: the variables of ``place_layers(description)`` by name, C-contiguous and of the model's dtype, as
            ``prepare_weights`` and ``draw_weights`` give them. Some are kept, so they must not change afterwards; the
            large ones are laid out anew.
    """
    with np.errstate(all="ignore"):
        layers = [_build_layer(placed, weights) for placed in place_layers(description)]
    return _LayeredNetwork(layers, description.dtype, vocabulary_size(description.layers[0]))


def _build_layer(placed: PlacedLayer, weights: Weights) -> Cell:
    layer, prefix = placed.layer, placed.prefix
    match layer:
        case Standardise():
            return StandardiseLayer(weights[f"{prefix}standardise/mean"], weights[f"{prefix}standardise/scale"])
        case Embedding():
            return EmbeddingLayer(weights[f"{prefix}embedding/embeddings"])
        case Dense():
            return DenseLayer(layer, weights[f"{prefix}dense/kernel"], weights[f"{prefix}dense/bias"])
        case Bidirectional(forward, backward, merge_mode):
            width = placed.input_shape[0]
            return BidirectionalLayer(
                _build_cell(place(forward, width, f"{prefix}fw/"), weights),
                _build_cell(place(backward, width, f"{prefix}bw/"), weights),
                merge_mode,
            )
        case _:
            width = placed.input_shape[0] if placed.input_shape else 0  # Ids have no width.
            return _build_cell(place(layer, width, prefix), weights)


def _build_cell(root: PlacedCell, weights: Weights) -> Cell:
    """Builds a nest of cells; a cell that is used several times is built once."""
    built: dict[int, Cell] = {}

    def build(placed: PlacedCell) -> Cell:
        if id(placed) not in built:
            built[id(placed)] = _CELLS[type(placed.cell)](placed, weights, build)
        return built[id(placed)]

    return build(root)


class _LayeredNetwork:
    """``Network`` for one input and one output, which is what descriptions allow so far."""

    def __init__(self, layers: Sequence[Cell], dtype: np.dtype[Any], vocabulary_size: int | None) -> None:
        self._vocabulary_size = vocabulary_size
        self.leaf_sizes = tuple(size for layer in layers for size in layer.leaf_sizes)
        self.dtype = dtype
        bounds = accumulate((len(layer.leaf_sizes) for layer in layers), initial=0)
        spans = [slice(start, stop) for start, stop in pairwise(bounds)]
        self._layers = tuple(zip(layers, spans, strict=True))

    def step(self, inputs: Sequence[Array], leaves: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        (values,) = inputs
        new_leaves: list[Array] = []
        # The flags of NaN, overflow and the like say which row is ill only to its own caller, in its results.
        with np.errstate(all="ignore"):
            for layer, span in self._layers:
                values, after = layer.step(values, leaves[span])
                new_leaves += after
        for leaf in new_leaves:
            if values is leaf:
                return [values.copy()], new_leaves
        return [values], new_leaves

    def run(
        self,
        inputs: Sequence[Array],
        lengths: Array,
        leaves: Sequence[Array],
        before_step: BeforeStep = go_on,
    ) -> tuple[list[Array], list[Array]]:
        (values,) = inputs
        rows, time = values.shape[:2]
        assert lengths.max(initial=0) <= time, "lengths are clipped before they come here"
        outputs: list[Array] = []
        new_leaves = [np.empty((rows, size), self.dtype) for size in self.leaf_sizes]
        # At least one block, so that outputs of no rows have their shape.
        for block in (slice(start, start + MAX_ROWS) for start in range(0, max(rows, 1), MAX_ROWS)):
            packing = Packing(lengths[block])
            packed, after = self._run(packing, values[block], [leaf[block] for leaf in leaves], before_step)
            outputs.append(packing.unpack(packed, time))
            for leaf, sorted_leaf in zip(new_leaves, after, strict=True):
                leaf[block][packing.order] = sorted_leaf
        return [outputs[0] if len(outputs) == 1 else np.concatenate(outputs)], new_leaves

    def _run(
        self, packing: Packing, sequences: Array, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """Runs up to ``MAX_ROWS`` sequences; the outputs are packed, the new leaves in the packing's order."""
        packed = packing.pack(sequences)
        sorted_leaves = [leaf[packing.order] for leaf in leaves]
        new_leaves: list[Array] = []
        with np.errstate(all="ignore"):
            for layer, span in self._layers:
                if layer.leaf_sizes:
                    packed, after = run_cell(layer, packed, packing, sorted_leaves[span], before_step)
                else:
                    packed, after = layer.step(packed, ())
                new_leaves += after
        return packed, new_leaves

    def check_inputs(self, inputs: Sequence[Array], field_prefix: str, lengths: Array | None = None) -> None:
        if self._vocabulary_size is not None:
            check_ids(inputs[0], self._vocabulary_size, lengths, f"{field_prefix}[0]")
