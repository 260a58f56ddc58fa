"""Models of Keras: against Keras's own results, and what becomes of each layer and option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.cells import (
    BasicLSTMCell,
    BasicRNNCell,
    CudnnCompatibleGRUCell,
    GRUCell,
    LSTMCell,
    MultiRNNCell,
)
from cellserve.specs import Bidirectional, Dense, Embedding, Layer, Standardise
from cellserve.tensors import Array
from cellserve_server.importers import keras
from cellserve_server.importers.base import ImportedModel, ImportRefusedError
from tests.golden_cases import FrameworkCase, framework_cases
from tests.unit.importers.comparing import assert_close, noise, options_taken, run, settings
from tests.unit.importers.keras_files import (
    dense,
    functional,
    inputs,
    layer,
    recurrent,
    save_keras,
    save_weights,
    sequential,
)

CASES = [case for case in framework_cases() if case.framework == "keras"]
FILES = [(case, path) for case in CASES for path in case.files]
GROUPS = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru"}


def state_leaves(case: FrameworkCase, which: str) -> list[Array]:
    """A golden state as our leaves: Keras has h before c, we have c before h."""
    count = len(layers_of(case))
    prefixes = [which] if count == 1 and f"{which}/h" in case.arrays else [f"{which}/{i}" for i in range(count)]
    return [case.arrays[f"{prefix}/{x}"] for prefix in prefixes for x in ("c", "h") if f"{prefix}/{x}" in case.arrays]


def layers_of(case: FrameworkCase) -> list[dict[str, Any]]:
    cell: dict[str, Any] = case.entry["cell"]
    return list(cell.get("layers", [cell]))


def check(case: FrameworkCase, model: ImportedModel) -> None:
    outputs, after = run(model, case.arrays["inputs"], None, state_leaves(case, "initial_state"))
    assert_close(outputs, case.arrays["outputs"])
    want = state_leaves(case, "final_state")
    assert len(after) == len(want) > 0
    for got, leaf in zip(after, want, strict=True):
        assert_close(got, leaf)


@pytest.mark.parametrize(("case", "path"), FILES, ids=[path.name for _, path in FILES])
def test_a_file_that_keras_wrote_gives_what_keras_gave(case: FrameworkCase, path: Path) -> None:
    assert keras.recognises(path)
    check(case, keras.read(path, settings()))


def golden_variables(case: FrameworkCase) -> dict[str, Array]:
    """A case's weights as a file has them: ``lstm_1/lstm_cell/bias`` is ``lstm_1/cell/vars/2`` there."""
    numbers = {"kernel": 0, "recurrent_kernel": 1, "bias": 2}
    parts = [(name, name.split("/")) for name in case.entry["weights"]]
    return {f"{group}/cell/vars/{numbers[last]}": case.arrays[name] for name, (group, _, last) in parts}


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_golden_case_as_a_model_gives_what_keras_gave(case: FrameworkCase, tmp_path: Path) -> None:
    layers = [
        layer(
            options["type"],
            name=f"layer_{number}",
            return_sequences=True,
            **{k: v for k, v in options.items() if k != "type"},
        )
        for number, options in enumerate(layers_of(case))
    ]
    config = sequential(inputs(None, None, case.entry["input_size"]), *layers)
    check(case, keras.read(save_keras(tmp_path / "model.keras", config, golden_variables(case)), settings()))


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_golden_case_as_weights_alone_gives_what_keras_gave(case: FrameworkCase, tmp_path: Path) -> None:
    path = save_weights(tmp_path / "model.weights.h5", golden_variables(case))
    options = {"activation": layers_of(case)[0]["activation"]}
    check(case, keras.read(path, settings(**options)))


# --- layers -----------------------------------------------------------------------------------------------------------


def read(tmp_path: Path, config: object, variables: dict[str, Array], **options: str) -> ImportedModel:
    return keras.read(save_keras(tmp_path / "model.keras", config, variables), settings(**options))


def read_one(tmp_path: Path, kind: str, version: str = "3.15.1", **config: Any) -> Layer:
    """What one recurrent layer of 4 units on inputs of 3 becomes."""
    bias, reset_after = config.get("use_bias", True), config.get("reset_after", True)
    variables = recurrent(kind, 3, 4, GROUPS[kind], bias, reset_after)
    entry = layer(kind, name="mine", units=4, return_sequences=True, **config)
    path = save_keras(tmp_path / "model.keras", sequential(inputs(None, None, 3), entry), variables, version)
    (found,) = keras.read(path, settings()).description.layers
    return found


def test_recurrent_layers_become_cells(tmp_path: Path) -> None:
    assert read_one(tmp_path, "SimpleRNN", activation="relu") == BasicRNNCell(4, "relu")
    assert read_one(tmp_path, "LSTM") == BasicLSTMCell(4, forget_bias=0.0, activation="tanh")
    assert read_one(tmp_path, "GRU") == CudnnCompatibleGRUCell(4, "tanh", recurrent_activation="sigmoid")
    assert read_one(tmp_path, "GRU", reset_after=False) == GRUCell(4, "tanh", recurrent_activation="sigmoid")
    assert read_one(tmp_path, "LSTM", recurrent_activation="linear") == LSTMCell(
        4, forget_bias=0.0, activation="tanh", recurrent_activation="identity"
    )


def test_hard_sigmoid_is_that_of_the_version(tmp_path: Path) -> None:
    new = read_one(tmp_path, "LSTM", recurrent_activation="hard_sigmoid")
    old = read_one(tmp_path, "LSTM", version="2.15.0", recurrent_activation="hard_sigmoid")
    assert isinstance(new, LSTMCell)
    assert isinstance(old, LSTMCell)
    assert (new.recurrent_activation, old.recurrent_activation) == ("hard_sigmoid_relu6", "hard_sigmoid")


@pytest.mark.parametrize("activation", ["gelu", "softmax", {"class_name": "function", "config": "mine"}, 3])
def test_an_unknown_activation_is_refused_by_name(tmp_path: Path, activation: object) -> None:
    with pytest.raises(ImportRefusedError, match="mine: activation: expected one of tanh, relu, "):
        read_one(tmp_path, "LSTM", activation=activation)


def test_without_biases_they_are_zeros(tmp_path: Path) -> None:
    variables = recurrent("GRU", 3, 4, "gru", bias=False)
    entry = layer("GRU", name="gru", units=4, use_bias=False, return_sequences=True)
    model = read(tmp_path, sequential(inputs(None, None, 3), entry), variables)
    assert all(not array.any() for name, array in model.weights.items() if name.endswith("bias"))


def test_training_alone_is_left_out_and_said(tmp_path: Path) -> None:
    lstm = layer("LSTM", name="lstm", units=4, return_sequences=True, dropout=0.1, recurrent_dropout=0.2, stateful=True)
    layers = [inputs(8, 10, 3), lstm, layer("Dropout", name="drop", rate=0.5, seed=None, noise_shape=None)]
    model = read(tmp_path, sequential(*layers), recurrent("LSTM", 3, 4, "lstm"))
    assert model.ignored == (
        "lstm: dropout=0.1, for training alone",
        "lstm: recurrent_dropout=0.2, for training alone",
        "lstm: stateful; a session keeps the state",
        "drop: Dropout, for training alone",
    )
    assert model.reference_shape == (8, 10)


def classifier(lstm: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    return sequential(
        inputs(None, None),
        layer("Embedding", name="embedding", input_dim=9, output_dim=3, mask_zero=False),
        layer("LSTM", name="lstm", units=4, **lstm),
        layer("Dense", name="dense", units=2, activation="softmax", use_bias=True),
        *more,
    )


CLASSIFIER = {"embedding/vars/0": noise((9, 3))} | recurrent("LSTM", 3, 4, "lstm") | dense(4, 2)


def test_a_classifier_gives_each_step_and_says_so(tmp_path: Path) -> None:
    model = read(tmp_path, classifier({"return_sequences": False}), CLASSIFIER)
    assert model.description.layers == (
        Embedding(9, 3),
        BasicLSTMCell(4, forget_bias=0.0, activation="tanh"),
        Dense(2, "softmax"),
    )
    assert model.description.inputs[0].dtype == np.int32
    assert options_taken(model) == {"return_sequences": "true"}


def test_masked_ids_need_a_word(tmp_path: Path) -> None:
    config = classifier({"return_sequences": True})
    config["config"]["layers"][1]["config"]["mask_zero"] = True
    with pytest.raises(ImportRefusedError, match="embedding: it masks id 0") as refused:
        read(tmp_path, config, CLASSIFIER)
    assert refused.value.option == "masking=lengths"
    model = read(tmp_path, config, CLASSIFIER, masking="lengths")
    assert options_taken(model) == {"masking": "lengths"}


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave"])
def test_both_directions_are_joined_as_keras_joins_them(tmp_path: Path, merge_mode: str) -> None:
    inner = layer("LSTM", name="forward_lstm", units=4, return_sequences=True)
    back = layer("LSTM", name="backward_lstm", units=4, return_sequences=True, go_backwards=True)
    both = layer("Bidirectional", name="both", merge_mode=merge_mode, layer=inner, backward_layer=back)
    variables = recurrent("LSTM", 3, 4, "bidirectional/forward_layer")
    variables |= {k.replace("forward", "backward"): -v for k, v in variables.items()}
    model = read(tmp_path, sequential(inputs(None, None, 3), both), variables)
    cell = BasicLSTMCell(4, forget_bias=0.0, activation="tanh")
    assert model.description.layers == (Bidirectional(cell, cell, merge_mode.replace("ave", "average")),)
    values = noise((2, 5, 3))
    there, back_again = run_apart(tmp_path, variables, values)
    want = {
        "concat": np.concatenate((there, back_again), 2),
        "sum": there + back_again,
        "mul": there * back_again,
        "ave": (there + back_again) / 2,
    }
    assert_close(run(model, values)[0], want[merge_mode])


def run_apart(tmp_path: Path, variables: dict[str, Array], values: Array) -> tuple[Array, Array]:
    """Each direction on its own, as Keras does it: the backward layer on the inputs turned round."""
    outputs = []
    for way, direction in (("forward", 1), ("backward", -1)):
        alone = {k.replace(f"bidirectional/{way}_layer", "lstm"): v for k, v in variables.items() if way in k}
        config = sequential(inputs(None, None, 3), layer("LSTM", name="lstm", units=4, return_sequences=True))
        outputs.append(run(read(tmp_path, config, alone), values[:, ::direction])[0][:, ::direction])
    return outputs[0], outputs[1]


def test_a_stack_of_cells_becomes_a_stack(tmp_path: Path) -> None:
    cells = [layer("LSTMCell", name="a", units=4), layer("SimpleRNNCell", name="b", units=2, activation="relu")]
    stack = layer("StackedRNNCells", name="stack", cells=cells)
    rnn = layer("RNN", name="rnn", cell=stack, return_sequences=True)
    variables = {}
    for kind, depth, units, group in (("LSTM", 3, 4, "lstm_cell"), ("SimpleRNN", 4, 2, "simple_rnn_cell")):
        for path, array in recurrent(kind, depth, units, group).items():
            variables["rnn/cell/cells/" + path.replace("/cell/vars", "/vars")] = array
    (found,) = read(tmp_path, sequential(inputs(None, None, 3), rnn), variables).description.layers
    assert found == MultiRNNCell([BasicLSTMCell(4, forget_bias=0.0, activation="tanh"), BasicRNNCell(2, "relu")])


def test_normalisation_becomes_standardisation(tmp_path: Path) -> None:
    mean, variance = np.array([1, 2, 3], np.float32), np.array([4, 9, 0], np.float32)
    variables = {f"normalization/vars/{i}": array for i, array in enumerate((mean, variance, np.array(7)))}
    normalization = layer("Normalization", name="normalization", axis=[-1], invert=False, mean=None, variance=None)
    lstm = layer("LSTM", name="lstm", units=4, return_sequences=True)
    model = read(
        tmp_path, sequential(inputs(None, None, 3), normalization, lstm), variables | recurrent("LSTM", 3, 4, "lstm")
    )
    assert model.description.layers[0] == Standardise()
    np.testing.assert_array_equal(model.weights["standardise/mean"], mean)
    assert_close(model.weights["standardise/scale"], np.array([2, 3, 1e-7], np.float32))


def test_an_activation_becomes_that_of_the_dense_layer_before(tmp_path: Path) -> None:
    lstm = layer("LSTM", name="lstm", units=4, return_sequences=True)
    outer = layer("TimeDistributed", name="steps", layer=layer("Dense", name="inner", units=2, activation="linear"))
    config = sequential(inputs(None, None, 3), lstm, outer, layer("Softmax", name="softmax", axis=-1))
    variables = recurrent("LSTM", 3, 4, "lstm") | dense(4, 2, "time_distributed/layer")
    assert read(tmp_path, config, variables).description.layers[1] == Dense(2, "softmax")
    config["config"]["layers"].append(layer("Activation", name="again", activation="tanh"))
    with pytest.raises(ImportRefusedError, match="again: tanh can be served right after a linear Dense layer alone"):
        read(tmp_path, config, variables)


def test_a_functional_model_in_a_line_is_read_in_its_order(tmp_path: Path) -> None:
    first = layer("LSTM", name="first", units=4, return_sequences=True)
    second = layer("LSTM", name="second", units=2, return_sequences=True)
    variables = recurrent("LSTM", 3, 4, "lstm") | recurrent("LSTM", 4, 2, "lstm_1")
    model = read(tmp_path, functional(inputs(None, None, 3), first, second), variables)
    assert [cell.output_size for cell in model.description.layers if isinstance(cell, BasicLSTMCell)] == [4, 2]


def test_a_functional_model_of_keras_2_is_read_too(tmp_path: Path) -> None:
    config = functional(inputs(None, None, 3), layer("LSTM", name="only", units=4, return_sequences=True))
    entry = config["config"]["layers"][1]
    entry["inbound_nodes"] = [[["inputs", 0, 0, {}]]]
    variables = recurrent("LSTM", 3, 4, "lstm")
    path = save_keras(tmp_path / "model.keras", config, variables, "2.15.0")
    assert len(keras.read(path, settings()).description.layers) == 1
    entry["inbound_nodes"][0][0][3] = {"initial_state": ["other", 0, 0]}
    with pytest.raises(ImportRefusedError, match="only: it is called with more than its inputs"):
        read(tmp_path, config, variables)


def test_without_an_input_layer_the_width_is_that_of_the_weights(tmp_path: Path) -> None:
    model = read(tmp_path, sequential(layer("GRU", name="gru", units=4)), recurrent("GRU", 3, 4, "gru"))
    assert model.description.inputs[0].shape == (3,)
