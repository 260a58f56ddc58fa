"""Descriptions of cells: names, options and sizes as in TensorFlow 1's ``tf.nn.rnn_cell``; no arithmetic.

A description says what a cell is; the server computes with it. Every description knows its ``state_size`` and
``output_size`` as TensorFlow prints them, and the variables that it needs for a given input width.
"""

from cellserve.cells.base import (
    ACTIVATIONS,
    MAX_STACK,
    MAX_UNITS,
    NAME_PATTERN,
    CellDescription,
    Initializer,
    PlacedCell,
    Use,
    Variable,
    place,
)
from cellserve.cells.gru import CudnnCompatibleGRUCell, GRUCell
from cellserve.cells.lstm import BasicLSTMCell, LayerNormBasicLSTMCell, LSTMCell
from cellserve.cells.minimal import MinGRUCell, MinLSTMCell
from cellserve.cells.rnn import BasicRNNCell
from cellserve.cells.stack import MultiRNNCell
from cellserve.cells.wrappers import (
    DropoutWrapper,
    EmbeddingWrapper,
    InputProjectionWrapper,
    OutputProjectionWrapper,
    ResidualWrapper,
)

__all__ = [
    "ACTIVATIONS",
    "MAX_STACK",
    "MAX_UNITS",
    "NAME_PATTERN",
    "BasicLSTMCell",
    "BasicRNNCell",
    "CellDescription",
    "CudnnCompatibleGRUCell",
    "DropoutWrapper",
    "EmbeddingWrapper",
    "GRUCell",
    "Initializer",
    "InputProjectionWrapper",
    "LSTMCell",
    "LayerNormBasicLSTMCell",
    "MinGRUCell",
    "MinLSTMCell",
    "MultiRNNCell",
    "OutputProjectionWrapper",
    "PlacedCell",
    "ResidualWrapper",
    "Use",
    "Variable",
    "place",
]
