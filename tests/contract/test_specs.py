"""Descriptions of models <-> ModelSpec, and what is said about a bad one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from cellserve.cells import BasicLSTMCell, BasicRNNCell, GRUCell, MultiRNNCell
from cellserve.errors import InvalidArgumentError, ShapeMismatchError
from cellserve.specs import (
    ArraySpec,
    Bidirectional,
    Dense,
    Embedding,
    Layer,
    ModelDescription,
    Standardise,
    describe,
    model_from_proto,
    model_to_proto,
    place_layers,
)
from cellserve.states import LSTMStateTuple
from cellserve.v1.model_pb2 import ModelSpec

FLOAT32, FLOAT64, INT32 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int32)


def model(*layers: Layer, inputs: ArraySpec, width: int, dtype: np.dtype[Any] = FLOAT32) -> ModelDescription:
    return ModelDescription((inputs,), layers, (ArraySpec("output", dtype, (width,)),), dtype)


CLASSIFIER = model(
    Standardise(), BasicLSTMCell(16), Dense(9, "softmax"), inputs=ArraySpec("frame", FLOAT32, (12,)), width=9
)
CHARACTERS = model(Embedding(50, 8), GRUCell(4), inputs=ArraySpec("character", INT32, ()), width=4)
BOTH_ENDS = model(
    Bidirectional(BasicLSTMCell(4), GRUCell(3)), inputs=ArraySpec("x", FLOAT64, (2,)), width=7, dtype=FLOAT64
)
STACKED = model(BasicRNNCell(4), BasicRNNCell(4), inputs=ArraySpec("x", FLOAT32, (4,)), width=4)
PLAIN = describe(MultiRNNCell([GRUCell(4)] * 2), 4, FLOAT32)


@pytest.mark.parametrize("description", [CLASSIFIER, CHARACTERS, BOTH_ENDS, STACKED, PLAIN])
def test_a_model_survives_the_wire_and_a_file(description: ModelDescription) -> None:
    spec = model_to_proto(description)
    assert model_from_proto(ModelSpec.FromString(spec.SerializeToString())) == description
    text = json_format.MessageToJson(spec, preserving_proto_field_name=True)
    assert model_from_proto(json_format.Parse(text, ModelSpec())) == description


@pytest.mark.parametrize(
    ("description", "state_size", "steppable"),
    [
        (CLASSIFIER, LSTMStateTuple(16, 16), True),
        (CHARACTERS, 4, True),
        (BOTH_ENDS, (LSTMStateTuple(4, 4), 3), False),
        (STACKED, (4, 4), True),
        (PLAIN, (4, 4), True),
    ],
)
def test_state_and_steppability_follow_from_the_layers(
    description: ModelDescription, state_size: Any, steppable: bool
) -> None:
    assert repr(description.state_size) == repr(state_size)
    assert description.steppable is steppable


def test_variables_of_all_layers() -> None:
    def names(description: ModelDescription) -> dict[str, tuple[int, ...]]:
        return {item.name: item.shape for layer in place_layers(description) for item in layer.variables}

    assert names(CLASSIFIER) == {
        "standardise/mean": (12,),
        "standardise/scale": (12,),
        "basic_lstm_cell/kernel": (28, 64),
        "basic_lstm_cell/bias": (64,),
        "dense/kernel": (16, 9),
        "dense/bias": (9,),
    }
    assert names(CHARACTERS)["embedding/embeddings"] == (50, 8)
    assert sorted(names(BOTH_ENDS))[:2] == ["bw/gru_cell/candidate/bias", "bw/gru_cell/candidate/kernel"]
    assert list(names(STACKED)) == [
        "basic_rnn_cell/kernel",
        "basic_rnn_cell/bias",
        "layer_1/basic_rnn_cell/kernel",
        "layer_1/basic_rnn_cell/bias",
    ]


def test_what_is_not_said_has_its_default() -> None:
    spec = model_to_proto(CLASSIFIER)
    spec.ClearField("data_type")
    spec.ClearField("outputs")
    assert model_from_proto(spec) == CLASSIFIER


def test_the_name_and_labels_of_an_output_are_kept() -> None:
    spec = model_to_proto(CLASSIFIER)
    spec.outputs[0].name = "speaker"
    spec.outputs[0].labels.extend("abcdefghi")
    (output,) = model_from_proto(spec).outputs
    assert (output.name, output.labels) == ("speaker", tuple("abcdefghi"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": []}, r"^layers: expected 1 to 64; got 0$"),
        ({"layers": [{"cell": {"gru_cell": {"num_units": 1}}}] * 65}, r"^layers: expected 1 to 64; got 65$"),
        ({"layers": [{}]}, r"^layers\[0\]: expected one kind of layer; got an empty message$"),
        ({"layers": [{"cell": {}}]}, r"^layers\[0\]\.cell: expected one kind of cell"),
        ({"layers": [{"dense": {}}]}, r"^layers\[0\]\.dense\.units: expected 1 to 1048576; got 0$"),
        ({"layers": [{"dense": {"units": 1, "activation": 9}}]}, r"^layers\[0\]\.dense\.activation: expected one of"),
        ({"layers": [{"standardise": {}}, {"embedding": {"vocabulary_size": 2, "depth": 2}}]}, r"^layers\[1\]: an emb"),
        ({"layers": [{"embedding": {"depth": 2}}]}, r"^layers\[0\]\.embedding\.vocabulary_size: "),
        ({"layers": [{"embedding": {"vocabulary_size": 2, "depth": 2}}]}, r"^layers\[0\]: an embedding is the first"),
        ({"layers": [{"bidirectional": {}}]}, r"^layers\[0\]\.bidirectional\.forward: expected one kind of cell"),
        ({"inputs": []}, r"^inputs: expected 1 entry; got 0$"),
        ({"inputs": [{"name": "", "data_type": 1, "shape": [2]}]}, r"^inputs\[0\]\.name: expected 1 to 128 char"),
        ({"inputs": [{"name": "x", "data_type": 1, "shape": [0]}]}, r"^inputs\[0\]\.shape: .* got 1: \[0\]$"),
        (
            {"inputs": [{"name": "x", "data_type": 1, "shape": [1] * 100_000}]},
            r"^inputs\[0\]\.shape: expected at most 4 .*; got 100000: \[1, 1, 1, 1, 1\]$",
        ),
        ({"inputs": [{"name": "x", "data_type": 1, "shape": [2, 2]}]}, r"^layers\[0\]: expected vectors as inputs"),
        ({"inputs": [{"name": "x", "shape": [2]}]}, r"^inputs\[0\]\.data_type: expected one of float32"),
        ({"inputs": [{"name": "x", "data_type": 2, "shape": [2]}]}, r"^inputs\[0\]\.data_type: expected float32, the"),
        ({"inputs": [{"name": "x", "data_type": 3, "shape": []}]}, r"^inputs\[0\]\.data_type: int32 needs an embedd"),
        ({"inputs": [{"name": "x", "data_type": 1, "shape": [2], "labels": ["a"]}]}, r"^inputs\[0\]\.labels: expec"),
        (
            {"inputs": [{"name": "x", "data_type": 1, "shape": [1], "labels": ["a" * 129]}]},
            r"^inputs\[0\]\.labels\[0\]: expected at most 128 characters; got 129$",
        ),
        ({"data_type": 3}, r"^data_type: expected float32 or float64; got int32$"),
        ({"data_type": 77}, r"^data_type: expected one of .*; got data type number 77$"),
        ({"outputs": [{"name": "y", "data_type": 1, "shape": [5]}]}, r"^outputs\[0\]: the last layer gives float32\[9"),
        ({"outputs": [{"name": "y", "data_type": 1, "shape": [9]}] * 2}, r"^outputs: expected 1 entry; got 2$"),
    ],
)
def test_a_bad_description_names_its_field(change: dict[str, Any], message: str) -> None:
    fields = json_format.MessageToDict(model_to_proto(CLASSIFIER), preserving_proto_field_name=True) | change
    with pytest.raises(InvalidArgumentError, match=message):
        model_from_proto(json_format.ParseDict(fields, ModelSpec()))


def test_a_shared_cell_of_two_widths_is_refused() -> None:
    shared = BasicRNNCell(4)
    with pytest.raises(ShapeMismatchError, match="used several times"):
        model_from_proto(model_to_proto(describe(MultiRNNCell([shared, shared]), 3, FLOAT32)))
