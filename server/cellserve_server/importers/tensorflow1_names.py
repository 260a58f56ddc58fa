"""The names of TensorFlow 1's variables, all its versions' spellings brought to the last one's.

Sources: the releases' ``rnn_cell`` modules and ``contrib/rnn/python/tools/checkpoint_convert.py``; for the names before
1.0 (``RNN/MultiRNNCell/Cell0/BasicLSTMCell/Linear/Matrix``, ``LSTMCell/W_0``) checkpoints that people published.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from types import MappingProxyType

_OLD_SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "RNN": "rnn",
        "BiRNN": "bidirectional_rnn",
        "BiRNN_FW": "bidirectional_rnn/fw",
        "BiRNN_BW": "bidirectional_rnn/bw",
        "FW": "fw",
        "BW": "bw",
        "MultiRNNCell": "multi_rnn_cell",
        "BasicRNNCell": "basic_rnn_cell",
        "BasicLSTMCell": "basic_lstm_cell",
        "LSTMCell": "lstm_cell",
        "GRUCell": "gru_cell",
        "LayerNormBasicLSTMCell": "layer_norm_basic_lstm_cell",
        "LayerNormalizedLSTMCell": "layer_norm_basic_lstm_cell",
        "OutputProjectionWrapper": "output_projection_wrapper",
        "InputProjectionWrapper": "input_projection_wrapper",
        "EmbeddingWrapper": "embedding_wrapper",
    }
)
_OLD_CELL = re.compile(r"Cell(\d+)")
# Ends of names, within a cell, the longer ones first.
_OLD_ENDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"(?P<scope>^|.*/){old}"), new)
    for old, new in (
        ("Gates/Linear/Matrix", "gates/kernel"),
        ("Gates/Linear/Bias", "gates/bias"),
        ("Candidate/Linear/Matrix", "candidate/kernel"),
        ("Candidate/Linear/Bias", "candidate/bias"),
        ("Linear/Matrix", "kernel"),
        ("Linear/Bias", "bias"),
        ("(?<=LSTMCell/)Matrix", "kernel"),
        ("(?<=LSTMCell/)Bias", "bias"),
        ("(?<=LSTMCell/)W_P_0", "projection/kernel"),
        ("(?<=LSTMCell/)W_0", "kernel"),
        ("(?<=LSTMCell/)B", "bias"),
        ("W_F_diag", "w_f_diag"),
        ("W_I_diag", "w_i_diag"),
        ("W_O_diag", "w_o_diag"),
        ("weights", "kernel"),
        ("biases", "bias"),
    )
)
_SLOT = re.compile(
    r"(?:Adam|AdaMax|Momentum|RMSProp|Adagrad|AdagradDA|Adadelta|Ftrl|ProximalAdagrad|LazyAdam|adam_m|adam_v)(?:_\d+)?"
)
_PARTS = ("kernel", "bias", "weights", "biases", "W", "b", "w")
"""Names of a layer's weights, which may stand in a scope that is called as a variable beside it is."""

_AVERAGE = re.compile(r"ExponentialMovingAverage(?:_\d+)?")
_COUNTER = re.compile(r"(?:beta[12]_power|global_step|learning_rate|lr|epoch|step|loss_scale)(?:_\d+)?")


def modern_name(name: str) -> str:
    """The name that TensorFlow 1.15 would have given: ``rnn/multi_rnn_cell/cell_0/basic_lstm_cell/kernel``."""
    for pattern, new in _OLD_ENDS:
        match = pattern.fullmatch(name)
        if match is not None:
            name = match["scope"] + new
            break
    return "/".join(_OLD_CELL.sub(r"cell_\1", _OLD_SCOPES.get(part, part)) for part in name.split("/"))


def training_leftovers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Variables that only training needs, with what each is: optimisers' slots, moving averages, counters.

    An optimiser puts its slots under the variable's own name (``rnn/kernel/Adam_1``), sometimes with a scope in front
    (``OptimizeLoss/rnn/kernel/Adam_1``).

    Args:
        shapes: all variables' shapes by name.
    """
    leftovers = {}
    for name, shape in shapes.items():
        scope, _, last = name.rpartition("/")
        if _COUNTER.fullmatch(last) and shape == ():
            leftovers[name] = "a counter of the training"
        elif _AVERAGE.fullmatch(last):
            leftovers[name] = f"a moving average of {scope}"
        elif (scope in shapes and last not in _PARTS) or (_SLOT.fullmatch(last) and _ends_with_one(scope, shapes)):
            leftovers[name] = f"an optimiser's, for {scope}"
    return leftovers


def _ends_with_one(name: str, names: Container[str]) -> bool:
    while name and name not in names:
        name = name.partition("/")[2]
    return bool(name)
