"""``.weights.h5`` files: what shapes and names tell, what is assumed, and what has to be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, BasicRNNCell, CudnnCompatibleGRUCell, GRUCell, LSTMCell
from cellserve.specs import Bidirectional, Dense, Embedding, Standardise
from cellserve.tensors import Array
from cellserve_server.importers import keras
from cellserve_server.importers.base import ImportedModel, ImportRefusedError
from tests.unit.importers.comparing import noise, options_taken, settings
from tests.unit.importers.keras_files import dense, recurrent, save_weights

LSTM, GRU = (
    BasicLSTMCell(4, forget_bias=0.0, activation="tanh"),
    CudnnCompatibleGRUCell(4, "tanh", recurrent_activation="sigmoid"),
)


def read(tmp_path: Path, variables: dict[str, Array], groups: tuple[str, ...] = (), **options: str) -> ImportedModel:
    return keras.read(save_weights(tmp_path / "model.weights.h5", variables, groups), settings(**options))


def refusal(
    tmp_path: Path, variables: dict[str, Array], groups: tuple[str, ...] = (), **options: str
) -> ImportRefusedError:
    with pytest.raises(ImportRefusedError) as refused:
        read(tmp_path, variables, groups, **options)
    return refused.value


def embedding(rows: int, depth: int) -> dict[str, Array]:
    return {"embedding/vars/0": noise((rows, depth))}


def test_a_whole_model_is_found_by_its_widths(tmp_path: Path) -> None:
    variables = embedding(9, 3) | recurrent("LSTM", 3, 4, "lstm") | recurrent("GRU", 4, 5, "gru") | dense(5, 2)
    model = read(tmp_path, variables, ("dropout", "dropout_1", "input_layer"))
    assert [type(layer) for layer in model.description.layers] == [
        Embedding,
        BasicLSTMCell,
        CudnnCompatibleGRUCell,
        Dense,
    ]
    assert options_taken(model) == {
        "layers": "embedding,lstm,gru,dense",
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "head": "none",
        "go_backwards": "false",
        "masking": "none",
    }
    assert model.ignored == ("dropout: a Dropout layer", "dropout_1: a Dropout layer")


def test_layers_of_one_class_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    variables: dict[str, Array] = {}
    for number in range(12):
        variables |= recurrent("LSTM", 4, 4, "lstm" if number == 0 else f"lstm_{number}")
    taken = options_taken(read(tmp_path, variables))["layers"].split(",")
    assert taken == ["lstm", *(f"lstm_{number}" for number in range(1, 12))]


def test_an_order_that_widths_leave_open_is_asked_for(tmp_path: Path) -> None:
    variables = recurrent("LSTM", 4, 4, "lstm") | recurrent("GRU", 4, 4, "gru") | dense(4, 2)
    refused = refusal(tmp_path, variables)
    assert "fit in several orders" in str(refused)
    assert refused.option in ("layers=lstm,gru,dense", "layers=gru,lstm,dense")
    assert read(tmp_path, variables, layers="gru,lstm,dense").description.layers == (GRU, LSTM, Dense(2))
    for wrong in ("gru,lstm", "gru,gru,dense", "gru,lstm,dense,lstm"):
        assert "layers: expected dense, gru, lstm in some order" in str(refusal(tmp_path, variables, layers=wrong))
    assert "fit in no order given" in str(refusal(tmp_path, variables, layers="dense,lstm,gru"))


def test_a_class_that_comes_again_in_the_order_is_the_next_of_its_class(tmp_path: Path) -> None:
    variables = recurrent("LSTM", 4, 4, "lstm") | recurrent("GRU", 4, 4, "gru") | recurrent("LSTM", 4, 4, "lstm_1")
    model = read(tmp_path, variables, layers="lstm,gru,lstm")
    assert options_taken(model)["layers"] == "lstm,gru,lstm_1"


def test_activations_are_for_all_layers_or_for_each(tmp_path: Path) -> None:
    variables = recurrent("LSTM", 3, 4, "lstm") | recurrent("SimpleRNN", 4, 4, "simple_rnn")
    assert read(tmp_path, variables, activation="relu").description.layers == (
        BasicLSTMCell(4, forget_bias=0.0, activation="relu"),
        BasicRNNCell(4, "relu"),
    )
    model = read(tmp_path, variables, activation="tanh, linear", recurrent_activation="hard_sigmoid")
    assert model.description.layers == (
        LSTMCell(4, forget_bias=0.0, activation="tanh", recurrent_activation="hard_sigmoid_relu6"),
        BasicRNNCell(4, "identity"),
    )
    assert options_taken(model)["keras_version"] == "3"
    old = read(tmp_path, variables, recurrent_activation="hard_sigmoid", keras_version="2").description.layers[0]
    assert isinstance(old, LSTMCell)
    assert old.recurrent_activation == "hard_sigmoid"
    for wrong in ("gelu", "tanh,tanh,tanh", ""):
        assert "activation: expected 2 of tanh, relu" in str(refusal(tmp_path, variables, activation=wrong))


def test_the_kind_of_reset_is_told_by_the_bias(tmp_path: Path) -> None:
    before = read(tmp_path, recurrent("GRU", 3, 4, "gru", reset_after=False))
    assert before.description.layers == (GRUCell(4, "tanh", recurrent_activation="sigmoid"),)
    variables = recurrent("GRU", 3, 4, "gru", bias=False)
    assert options_taken(read(tmp_path, variables))["reset_after"] == "true"
    assert isinstance(read(tmp_path, variables, reset_after="false").description.layers[0], GRUCell)


def test_activations_of_dense_layers(tmp_path: Path) -> None:
    variables = recurrent("LSTM", 3, 4, "lstm") | dense(4, 2)
    assert read(tmp_path, variables, head="softmax").description.layers[1] == Dense(2, "softmax")
    assert refusal(tmp_path, variables, ("activation",)).option == "head=none"
    assert read(tmp_path, variables, ("activation",), head="tanh").description.layers[1] == Dense(2, "tanh")
    two = variables | dense(2, 7, "time_distributed/layer")
    assert refusal(tmp_path, two).option == "head=relu,none"
    assert read(tmp_path, two, head="relu,softmax").description.layers[1:] == (Dense(2, "relu"), Dense(7, "softmax"))
    assert "head: expected 2 of none, " in str(refusal(tmp_path, two, head="relu"))


def test_both_directions(tmp_path: Path) -> None:
    variables = recurrent("LSTM", 3, 4, "bidirectional/forward_layer")
    variables |= recurrent("LSTM", 3, 4, "bidirectional/backward_layer")
    model = read(tmp_path, variables | dense(8, 2))
    assert model.description.layers[0] == Bidirectional(LSTM, LSTM)
    assert options_taken(model)["merge_mode"] == "concat"
    summed = read(tmp_path, variables | dense(4, 2), merge_mode="sum")
    assert summed.description.layers[0] == Bidirectional(LSTM, LSTM, "sum")
    assert "merge_mode says how wide" in str(refusal(tmp_path, variables | dense(4, 2)))


def test_a_normalisation_is_found(tmp_path: Path) -> None:
    variables = {f"normalization/vars/{i}": np.ones(3 if i < 2 else (), np.float32) for i in range(3)}
    model = read(tmp_path, variables | recurrent("LSTM", 3, 4, "lstm"))
    assert model.description.layers == (Standardise(), LSTM)


@pytest.mark.parametrize("group", ["multi_head_attention", "lstm_x", "layer_normalization", "flatten"])
def test_an_unknown_layer_is_refused_by_name(tmp_path: Path, group: str) -> None:
    assert f"{group}: of no layer that can be served" in str(
        refusal(tmp_path, recurrent("LSTM", 3, 4, "lstm"), (group,))
    )


@pytest.mark.parametrize("group", ["masking", "rnn", "normalization", "embedding"])
def test_a_layer_that_weights_say_too_little_of_is_refused(tmp_path: Path, group: str) -> None:
    assert "import the .keras file" in str(refusal(tmp_path, recurrent("LSTM", 3, 4, "lstm"), (group,)))


def test_weights_of_another_kind_than_their_name_are_refused(tmp_path: Path) -> None:
    assert "lstm: expected the kernels and bias of a LSTM" in str(refusal(tmp_path, recurrent("GRU", 3, 4, "lstm")))
    odd = recurrent("LSTM", 3, 4, "lstm")
    odd["lstm/cell/vars/1"] = noise((4, 15))
    assert "1, 3 or 4 blocks" in str(refusal(tmp_path, odd))


def test_no_recurrent_layer_and_no_layer_are_refused(tmp_path: Path) -> None:
    assert "expected a recurrent layer" in str(refusal(tmp_path, dense(3, 2)))
    assert "expected weights; the source has none" in str(refusal(tmp_path, {}, ("dropout",)))
