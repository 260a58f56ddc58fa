"""What TensorFlow 1 does in corner cases, as far as cells decide it; what the client does is in the mirror's tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.cells import (
    ACTIVATIONS,
    BasicLSTMCell,
    BasicRNNCell,
    CellDescription,
    DropoutWrapper,
    GRUCell,
    LSTMCell,
    MultiRNNCell,
    ResidualWrapper,
)
from cellserve.errors import FieldInvalidError, InvalidArgumentError, ShapeMismatchError
from cellserve.specs import Bidirectional, describe, model_from_proto, model_to_proto, place_layers
from cellserve.states import LSTMStateTuple, flatten
from cellserve.tensors import Array
from tests.golden_cases import GOLDEN_FOLDER
from tests.unit.model_samples import FLOAT32, model, network_of

PROBES: dict[str, dict[str, Any]] = {
    probe["id"]: probe
    for probe in json.loads((GOLDEN_FOLDER / "tf1_behaviours.json").read_text(encoding="utf-8"))["probes"]
}
DOCS = Path(__file__).parents[2] / "docs" / "cells.md"


def test_the_docs_say_of_every_probe_whether_it_is_the_same_here() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \| (?:same|differs: .+) \|$", DOCS.read_text(encoding="utf-8"), re.M)
    assert rows == list(PROBES)


# --- The same ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "cell"),
    [
        ("basic_rnn_sizes", BasicRNNCell(128)),
        ("basic_lstm_sizes", BasicLSTMCell(128)),
        ("multi_sizes", MultiRNNCell([BasicRNNCell(128) for _ in range(3)])),
    ],
)
def test_sizes(probe: str, cell: CellDescription) -> None:
    assert repr(cell.state_size) == PROBES[probe]["value"]["state_size"]
    assert repr(cell.output_size) == PROBES[probe]["value"]["output_size"]


@pytest.mark.parametrize(
    ("probe", "scope", "cell", "width"),
    [
        ("shared_same_width", "", MultiRNNCell([BasicRNNCell(128)] * 2), 128),
        ("shared_dynamic_rnn", "rnn/", MultiRNNCell([BasicRNNCell(128)] * 2), 128),
        (
            "names_dynamic",
            "rnn/",
            MultiRNNCell(
                [
                    BasicLSTMCell(4),
                    GRUCell(4),
                    BasicRNNCell(4),
                    ResidualWrapper(LSTMCell(4, use_peepholes=True, num_proj=4)),
                ]
            ),
            3,
        ),
        ("names_direct", "", MultiRNNCell([BasicLSTMCell(4), BasicLSTMCell(4)]), 3),
        ("dynamic_twice_same_cell", "rnn/", BasicLSTMCell(4), 3),
    ],
)
def test_names_of_variables(probe: str, scope: str, cell: CellDescription, width: int) -> None:
    names = [scope + variable.name for variable in cell.variables(width)]
    assert names == PROBES[probe]["value"]["variables"]


def test_names_of_variables_of_two_directions() -> None:
    (placed,) = place_layers(model([Bidirectional(BasicLSTMCell(4), GRUCell(3))]))
    names = [f"bidirectional_rnn/{variable.name}" for variable in placed.variables]
    assert names == PROBES["names_bidirectional"]["value"]["variables"]


def test_biases_begin_as_in_tensorflow() -> None:
    cell = MultiRNNCell([BasicLSTMCell(4), GRUCell(4)])
    begins = {f"rnn/{variable.name}": variable.initializer for variable in cell.variables(3)}
    for name, (value,) in PROBES["initial_biases"]["value"].items():
        assert begins[name] == {0.0: "zeros", 1.0: "ones"}[value]


@pytest.mark.parametrize(
    ("probe", "make", "error"),
    [
        ("shared_other_width", lambda: MultiRNNCell([BasicRNNCell(128)] * 2).variables(100), ShapeMismatchError),
        ("multi_empty", lambda: MultiRNNCell([]), InvalidArgumentError),
        ("multi_not_list", lambda: MultiRNNCell(BasicRNNCell(4)), TypeError),  # type: ignore[arg-type]
        ("multi_concat_of_tuple", lambda: MultiRNNCell([BasicLSTMCell(4)], False), InvalidArgumentError),
        ("residual_mismatch", lambda: ResidualWrapper(BasicLSTMCell(4)).variables(5), ShapeMismatchError),
        ("residual_broadcast", lambda: ResidualWrapper(BasicRNNCell(4)).variables(1), ShapeMismatchError),
        ("dropout_over_1", lambda: DropoutWrapper(BasicRNNCell(4), input_keep_prob=1.5), FieldInvalidError),
        ("dropout_zero", lambda: DropoutWrapper(BasicRNNCell(4), output_keep_prob=0.0), FieldInvalidError),
        ("bad_activation", lambda: BasicRNNCell(4, "no_such"), FieldInvalidError),
        ("negative_units", lambda: BasicRNNCell(-3), FieldInvalidError),
    ],
)
def test_errors_of_the_same_kind(probe: str, make: Callable[[], object], error: type[Exception]) -> None:
    recorded = PROBES[probe]
    with pytest.raises({"ValueError": ValueError, "TypeError": TypeError}[recorded["error_type"]]) as caught:
        make()
    assert type(caught.value) is error
    if probe.startswith("multi_"):
        words = recorded["error_message"].partition("<")[0]
        assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("probe", "lengths", "time"),
    [
        ("seq_all_zero", [0, 0], 3),
        # What the edges make of 9 and -1: all steps, and none.
        ("seq_over", [3, 2], 3),
        ("seq_negative", [0, 2], 3),
    ],
)
def test_lengths(probe: str, lengths: list[int], time: int) -> None:
    network = network_of(model([BasicRNNCell(4)]))
    inputs = np.random.default_rng(0).normal(size=(2, time, 3)).astype(np.float32)
    (outputs,), (state,) = network.run([inputs], np.array(lengths), [np.zeros((2, 4), np.float32)])
    recorded = PROBES[probe]["value"]
    assert [np.flatnonzero(row.any(1)).tolist() for row in outputs] == recorded["output_nonzero_steps"]
    assert [not row.any() for row in state] == recorded["state_is_zero"]


def test_no_time_and_no_rows() -> None:
    network = network_of(model([BasicLSTMCell(4)]))
    initial: list[Array] = [np.full((2, 4), 0.5, np.float32), np.full((2, 4), 0.25, np.float32)]
    (outputs,), state = network.run([np.zeros((2, 0, 3), np.float32)], np.zeros(2, np.int64), initial)
    recorded = PROBES["dynamic_time_0"]["value"]
    assert list(outputs.shape) == recorded["outputs_shape"]
    assert [list(leaf.shape) for leaf in state] == recorded["state_shapes"]
    for before, after in zip(initial, state, strict=True):
        np.testing.assert_array_equal(after, before)
    (output,), _ = network.step([np.zeros((0, 3), np.float32)], [np.zeros((0, 4), np.float32)] * 2)
    assert list(output.shape) == PROBES["batch_zero"]["value"]["output_shape"]


def test_a_cell_clip_of_0_clips() -> None:
    network = network_of(model([LSTMCell(4, cell_clip=0.0)]))
    ones = [np.ones((2, size), np.float32) for size in network.leaf_sizes]
    _, (c, _) = network.step([np.ones((2, 3), np.float32)], ones)
    assert (not c.any()) is PROBES["cell_clip_zero"]["value"]["c_all_zero"]


def test_a_plain_pair_is_a_state() -> None:
    c, h = np.zeros((2, 4)), np.ones((2, 4))
    assert PROBES["lstm_plain_tuple_state"]["result"] == "ok"
    assert [leaf is part for leaf, part in zip(flatten(LSTMStateTuple(4, 4), (c, h)), (c, h), strict=True)] == [
        True
    ] * 2


# --- Where we differ --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "make"),
    [
        ("zero_units", lambda: BasicRNNCell(0)),
        ("string_units", lambda: BasicRNNCell("4")),  # type: ignore[arg-type]
        ("proj_zero", lambda: LSTMCell(4, num_proj=0)),
        ("input_size_zero", lambda: model_from_proto(model_to_proto(describe(BasicRNNCell(4), 0, FLOAT32)))),
    ],
)
def test_what_is_refused_at_once_here(probe: str, make: Callable[[], object]) -> None:
    assert PROBES[probe]["result"] == "ok" or PROBES[probe]["error_type"] == "TypeError"
    with pytest.raises(FieldInvalidError):
        make()


@pytest.mark.parametrize(
    ("probe", "structure", "parts"),
    [
        ("lstm_single_tensor_state", LSTMStateTuple(4, 4), None),
        ("multi_too_many_states", (4, 4), 3),
        ("multi_too_few_states", (4, 4), 1),
    ],
)
def test_states_of_another_nesting_are_refused(probe: str, structure: Any, parts: int | None) -> None:
    assert PROBES[probe].get("error_type") != "ValueError"
    leaf = np.zeros((2, 4))
    with pytest.raises(ShapeMismatchError, match="state: expected a"):
        flatten(structure, leaf if parts is None else (leaf,) * parts)


def test_activations_have_one_name_each() -> None:
    recorded = PROBES["activation_strings"]["value"]
    assert set(recorded["accepted"]) - set(ACTIVATIONS) == {"linear", "swish", "gelu"}
    assert set(ACTIVATIONS) - set(recorded["accepted"]) == {"identity", "hard_sigmoid_relu6"}
    assert not set(recorded["refused"]) & set(ACTIVATIONS)
