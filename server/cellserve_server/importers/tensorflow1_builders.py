"""The descriptions of TensorFlow 1's cells from their variables' names and shapes, and from the user's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from cellserve.cells import (
    BasicLSTMCell,
    BasicRNNCell,
    CellDescription,
    CudnnCompatibleGRUCell,
    GRUCell,
    LayerNormBasicLSTMCell,
    LSTMCell,
)
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.tensorflow1_options import CellOptions
from cellserve_server.importers.tensorflow1_scopes import Leaf

Builder: TypeAlias = Callable[[int, Mapping[str, Leaf], CellOptions], CellDescription]
"""Describes a cell of so many units with these variables."""


def _basic_rnn(units: int, leaves: Mapping[str, Leaf], options: CellOptions) -> CellDescription:
    return BasicRNNCell(units, options.activation())


def _gru(units: int, leaves: Mapping[str, Leaf], options: CellOptions) -> CellDescription:
    return GRUCell(units, options.activation())


def _cudnn_gru(units: int, leaves: Mapping[str, Leaf], options: CellOptions) -> CellDescription:
    return CudnnCompatibleGRUCell(units, options.activation())


def _lstm(forget_bias: float) -> Builder:
    def build(units: int, leaves: Mapping[str, Leaf], options: CellOptions) -> CellDescription:
        projection = leaves.get("projection/kernel")
        if projection is not None and len(projection.shape) != 2:
            raise ImportRefusedError(f"{projection.name}: expected a matrix; got shape {list(projection.shape)}")
        return LSTMCell(
            units,
            use_peepholes="w_f_diag" in leaves,
            cell_clip=options.clip("cell_clip"),
            num_proj=None if projection is None else projection.shape[1],
            proj_clip=None if projection is None else options.clip("proj_clip"),
            forget_bias=options.forget_bias(forget_bias),
            state_is_tuple=options.state_is_tuple(),
            activation=options.activation(),
        )

    return build


def _basic_lstm(units: int, leaves: Mapping[str, Leaf], options: CellOptions) -> CellDescription:
    return BasicLSTMCell(units, options.forget_bias(), options.state_is_tuple(), options.activation())


def _layer_norm(units: int, leaves: Mapping[str, Leaf], options: CellOptions) -> CellDescription:
    return LayerNormBasicLSTMCell(
        units, options.forget_bias(), activation=options.activation(), layer_norm="state/gamma" in leaves
    )


BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {
        "basic_rnn_cell": _basic_rnn,
        "basic_lstm_cell": _basic_lstm,
        "lstm_cell": _lstm(1.0),
        "cudnn_compatible_lstm_cell": _lstm(0.0),
        "gru_cell": _gru,
        "cudnn_compatible_gru_cell": _cudnn_gru,
        "layer_norm_basic_lstm_cell": _layer_norm,
    }
)
