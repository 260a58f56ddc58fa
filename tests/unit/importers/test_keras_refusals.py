"""Models of Keras that cannot be served: each is refused for the layer or the option that stands in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cellserve.tensors import Array
from cellserve_server.importers import keras
from cellserve_server.importers.base import ImportRefusedError
from tests.unit.importers.comparing import settings
from tests.unit.importers.keras_files import dense, functional, inputs, layer, recurrent, save_keras, sequential

VARIABLES = recurrent("LSTM", 3, 4, "lstm")


def lstm(**config: Any) -> dict[str, Any]:
    return layer("LSTM", **{"name": "mine", "units": 4, "return_sequences": True, **config})


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(ImportRefusedError) as refused:
        keras.read(path, settings(**options))
    return str(refused.value)


def refused(tmp_path: Path, config: object, variables: dict[str, Array] | None = None) -> str:
    return refusal(save_keras(tmp_path / "model.keras", config, VARIABLES if variables is None else variables))


BOTH = {"layer": lstm(), "backward_layer": lstm(go_backwards=True)}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([layer("MultiHeadAttention", name="attention")], "attention: a layer of class 'MultiHeadAttention' cannot"),
        ([layer("Lambda", name="code", function="...")], "code: a layer of class 'Lambda' cannot be served"),
        ([{**lstm(), "module": "mine"}], "mine: a layer of somebody's own class"),
        ([{**lstm(), "registered_name": "Custom>LSTM"}], "mine: a layer of somebody's own class"),
        ([lstm(go_backwards=True)], "mine: go_backwards: expected false"),
        ([lstm(time_major=True)], "mine: time_major: expected false"),
        ([lstm(units=0)], "mine: units: expected a number of at least 1; got 0"),
        ([lstm(units="4")], "mine: units: expected a number of at least 1; got '4'"),
        ([lstm(use_bias=1)], "mine: use_bias: expected true or false; got 1"),
        ([lstm(peephole="all")], "mine: option peephole='all' is not known"),
        ([lstm(), lstm()], "mine: expected each layer once"),
        ([layer("Dropout", name="drop", rate=0.5)], "expected a recurrent layer"),
        ([layer("RNN", name="rnn", cell=layer("LayerNormLSTMCell", name="c"))], "c: a layer of class"),
        ([layer("Bidirectional", name="b", **{**BOTH, "merge_mode": None})], "b: merge_mode: expected one of concat"),
        ([layer("Bidirectional", name="b", layer=lstm(return_sequences=False))], "b: return_sequences=False sets"),
        ([layer("Bidirectional", name="b", layer=BOTH["backward_layer"])], "mine: go_backwards: expected false"),
        ([layer("TimeDistributed", name="t", layer=lstm())], "t: a LSTM at each step"),
        (
            [lstm(), layer("Activation", name="a", activation="relu")],
            "a: relu can be served right after a linear Dense",
        ),
        ([lstm(), layer("Embedding", name="e", input_dim=3, output_dim=2)], "e: expected an embedding as the first"),
        ([layer("Normalization", name="n", axis=-1, invert=True)], "n: option invert=True is not known"),
        ([layer("Masking", name="m", mask_value=0.0), lstm()], "m: it masks steps whose inputs are all 0.0"),
        (["lstm"], "expected layers with a class, a name and options"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, entries: list[Any], message: str) -> None:
    assert message in refused(tmp_path, sequential(inputs(None, None, 3), *entries))


@pytest.mark.parametrize("activation", ["gelu", {"class_name": "function"}])
def test_an_activation_of_a_dense_layer_that_is_not_known_is_refused(tmp_path: Path, activation: object) -> None:
    config = sequential(inputs(None, None, 3), lstm(), layer("Dense", name="head", units=2, activation=activation))
    assert "head: activation: expected one of linear, softmax" in refused(tmp_path, config, VARIABLES | dense(4, 2))


def test_a_model_that_branches_is_refused(tmp_path: Path) -> None:
    first, second = lstm(name="first"), lstm(name="second")
    config = functional(inputs(None, None, 3), first, second, sources={"second": "inputs"})
    assert "expected layers in one line from the input to the output; got besides first" in refused(tmp_path, config)
    config = functional(inputs(None, None, 3), first)
    node = config["config"]["layers"][1]["inbound_nodes"][0]
    node["args"] *= 2
    assert "first: expected it to take the output of one layer" in refused(tmp_path, config)
    node["args"], node["kwargs"] = node["args"][:1], {"initial_state": [1]}
    assert "first: it is called with more than its inputs" in refused(tmp_path, config)


def test_a_model_of_somebodys_own_is_refused(tmp_path: Path) -> None:
    config = {"class_name": "MyModel", "config": {"layers": []}}
    assert "expected a Sequential or Functional one with layers; got a 'MyModel'" in refused(tmp_path, config)
