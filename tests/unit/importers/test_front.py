"""The common front of all importers: recognising, naming, verifying, writing, and the command."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cellserve.errors import ModelBrokenError
from cellserve.tensors import Array
from cellserve_server import import_command
from cellserve_server.cells import build_network
from cellserve_server.importers import ImportedModel, ImportRefusedError, Settings, front, import_model, tensorflow1
from cellserve_server.importers.base import ReferenceFailedError
from cellserve_server.importers.verify import verify_import
from cellserve_server.models.model_files import read_model
from cellserve_server.models.repository import ModelRepository
from tests.golden_cases import GOLDEN_FOLDER
from tests.unit.importers.checkpoint_files import save_checkpoint
from tests.unit.importers.comparing import noise, run

CHECKPOINT = GOLDEN_FOLDER / "tf1_checkpoint_2_basic_lstm"
SOURCES = {
    "pytorch": GOLDEN_FOLDER / "torch_lstm_3_layers.pt",
    "keras": GOLDEN_FOLDER / "keras_stacked_lstm_saved.keras",
    "onnx": GOLDEN_FOLDER / "onnx_lstm.onnx",
    "tensorflow1": CHECKPOINT / "model.ckpt-1234",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of models that is not there yet."""
    return tmp_path / "models"


def refused(root: Path, source: Path = CHECKPOINT, name: str = "m", **options: Any) -> str:
    """The refusal; and nothing may have been written for it."""
    before = sorted(root.rglob("*")) if root.exists() else None
    with pytest.raises(ImportRefusedError) as caught:
        import_model(source, name, models=root, **options)
    assert (sorted(root.rglob("*")) if root.exists() else None) == before
    return str(caught.value)


# --- from a file to a model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", SOURCES)
def test_a_source_is_recognised_written_and_loaded(framework: str, root: Path, models: ModelRepository) -> None:
    result = import_model(SOURCES[framework], "m", models=root)
    assert (result.name, result.version, result.folder) == ("m", 1, root / "m" / "1")
    assert result.imported.framework == framework
    models.load_all()
    loaded = models.resolve("default", "models/m")
    assert loaded.description == result.imported.description
    assert loaded.summary == f"Imported from {framework}: {SOURCES[framework].name}."


def test_versions_count_up_and_are_never_replaced(root: Path) -> None:
    assert [import_model(CHECKPOINT, "m", models=root).version for _ in range(2)] == [1, 2]
    assert import_model(CHECKPOINT, "m", models=root, version=7).version == 7
    assert import_model(CHECKPOINT, "m", models=root).version == 8
    assert "version: m has a version 2; there are [1, 2, 7, 8], give another" in refused(root, version=2)
    assert "version: expected a number from 1 to 999999999; got 0" in refused(root, version=0)
    (root / "m" / "999999999").mkdir()
    assert "the highest that there can be; give one" in refused(root)


@pytest.mark.parametrize("name", ["", "../m", "..", ".hidden", "a/b", "a\\b", "a\0", "x" * 129, "-m", "m\n", "é"])
def test_names_that_a_folder_may_not_have(root: Path, name: str) -> None:
    assert "name: expected 1 to 128 letters, digits, '_', '.' and '-'" in refused(root, name=name)
    assert not root.exists()


def test_names_of_the_servers_own(root: Path) -> None:
    assert "names that begin with 'defined-' are the server's own" in refused(root, name="defined-1")


def test_sources_of_no_kind(root: Path, tmp_path: Path) -> None:
    assert refused(root, tmp_path / "missing.pt").endswith("missing.pt: no such file or folder")
    text = tmp_path / "notes.txt"
    text.write_text("nothing")
    assert "notes.txt: it is of no kind that can be imported; these can: PyTorch (.safetensors, .pt)" in refused(
        root, text
    )
    assert "it is of no kind that can be imported" in refused(root, tmp_path)


def test_options_that_are_not_there(root: Path) -> None:
    message = refused(root, settings={"forget_bais": "0"})
    assert message == (
        "forget_bais: no such option for this source; there are: activation, dtype, embedding, forget_bias, head, "
        "layers, scope, state_is_tuple"
    )


def test_what_cannot_be_read_or_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(tensorflow1, "read", fail)
        assert refused(root).endswith("tf1_checkpoint_2_basic_lstm: it cannot be read: Permission denied")
    root.write_text("a file where the folder should be")
    assert "it cannot be listed: Not a directory" in refused(root)
    root.unlink()
    monkeypatch.setattr("cellserve_server.models.model_files.os.replace", fail)
    with pytest.raises(ImportRefusedError, match="m/1: it cannot be written: Permission denied"):
        import_model(CHECKPOINT, "m", models=root)
    assert list((root / "m").iterdir()) == []


# --- what cell.json keeps ---------------------------------------------------------------------------------------------


def test_assumptions_are_kept(root: Path) -> None:
    result = import_model(CHECKPOINT, "m", models=root, settings={"forget_bias": "0,1"})
    content = json.loads((result.folder / "cell.json").read_text())
    assert content["imported"]["framework"] == "tensorflow1"
    assert content["imported"]["source"] == CHECKPOINT.name
    notes = {note["option"]: note for note in content["imported"]["assumptions"]}
    assert notes["forget_bias"]["value"] == "0,1"
    assert notes["forget_bias"]["given"]
    assert notes["activation"] == {
        "option": "activation",
        "value": "tanh",
        "because": "functions are in no checkpoint; tanh is TensorFlow's default",
        "given": False,
    }


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "cell.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def set_forget_bias(content: dict[str, Any]) -> None:
    stack = content["model"]["layers"][0]["cell"]["multi_rnn_cell"]
    stack["cells"][0]["basic_lstm_cell"]["forget_bias"] = 0.5


def test_weights_are_bound_to_their_description(root: Path) -> None:
    """The shapes fit, the numbers would be wrong: an edited forget bias, the weights of another version."""
    first = import_model(CHECKPOINT, "m", models=root)
    second = import_model(CHECKPOINT, "m", models=root, settings={"activation": "relu"})
    read_model(root, "m", 1)
    edit(first.folder, lambda content: content.update(description="Another text.", imported={}))
    assert read_model(root, "m", 1).summary == "Another text."
    weights = "weights.safetensors"
    shutil.copyfile(first.folder / weights, second.folder / weights)
    with pytest.raises(
        ModelBrokenError, match=r"m/2/weights.safetensors: expected the weights of the model in cell.json"
    ):
        read_model(root, "m", 2)
    edit(first.folder, set_forget_bias)
    with pytest.raises(ModelBrokenError, match=r"these were written for [0-9a-f]{12}: one of the files was changed"):
        read_model(root, "m", 1)


# --- verification -----------------------------------------------------------------------------------------------------


def served(model: ImportedModel, wrong_by: float = 0.0) -> ImportedModel:
    """The model with a framework that gives what is served, or almost."""

    def reference(inputs: Array) -> Array:
        return run(model, inputs)[0] + np.float32(wrong_by)

    return replace(model, reference=reference)


@pytest.fixture
def lstm() -> ImportedModel:
    return tensorflow1.read(CHECKPOINT, Settings({}))


def test_the_largest_difference_is_given(lstm: ImportedModel) -> None:
    result = verify_import(served(lstm))
    assert (result.largest_difference, result.failed, result.why_not) == (0.0, False, "")
    assert verify_import(served(lstm, 0.01)).failed
    assert verify_import(served(lstm, float("nan"))).failed
    last_steps = replace(lstm, reference=lambda inputs: run(lstm, inputs)[0][:, -2:])
    assert verify_import(last_steps).largest_difference == 0
    assert verify_import(replace(lstm, reference=lambda inputs: run(lstm, inputs)[0][:, :, 1:])).failed


def test_a_reference_may_insist_on_a_batch_and_a_time(lstm: ImportedModel) -> None:
    shapes = []

    def reference(inputs: Array) -> Array:
        shapes.append(inputs.shape)
        return run(lstm, inputs)[0]

    verify_import(replace(lstm, reference=reference, reference_shape=(1, 9)))
    verify_import(replace(lstm, reference=reference))
    assert shapes == [(1, 9, 12), (3, 7, 12)]


def test_ids_are_drawn_from_the_vocabulary(tmp_path: Path) -> None:
    arrays = {
        "rnn/gru_cell/gates/kernel": noise((8, 8)),
        "rnn/gru_cell/gates/bias": noise((8,)),
        "embedding": noise((3, 4)),
    }
    arrays |= {"rnn/gru_cell/candidate/kernel": noise((8, 4)), "rnn/gru_cell/candidate/bias": noise((4,))}
    model = tensorflow1.read(save_checkpoint(tmp_path, arrays), Settings({}))
    seen: set[int] = set()

    def reference(inputs: Array) -> Array:
        seen.update(inputs.reshape(-1).tolist())
        return run(model, inputs)[0]

    assert verify_import(replace(model, reference=reference)).largest_difference == 0
    assert seen == {0, 1, 2}


def test_why_a_framework_did_not_run(lstm: ImportedModel) -> None:
    assert verify_import(lstm).why_not.startswith("the source alone does not let tensorflow1 run")

    def missing(inputs: Array) -> Array:
        raise ModuleNotFoundError("no torch", name="torch")

    def failing(inputs: Array) -> Array:
        raise ReferenceFailedError("too old")

    assert verify_import(replace(lstm, reference=missing)).why_not == "torch is not installed: pip install torch"
    result = verify_import(replace(lstm, reference=failing))
    assert result.why_not == "the framework could not run the source: too old"
    assert result.largest_difference is None


def test_a_model_that_differs_is_not_written(root: Path, monkeypatch: pytest.MonkeyPatch, lstm: ImportedModel) -> None:
    def with_reference(model: ImportedModel) -> None:
        importer = ModuleType("importer")
        importer.__dict__.update(recognises=lambda _: True, read=lambda *_: model)
        monkeypatch.setattr(front, "IMPORTERS", (importer,))

    with_reference(served(lstm, 0.01))
    message = refused(root, verify=True)
    assert message.startswith("the served model and tensorflow1 differ by 0.01, more than 0.0001")
    with_reference(served(lstm))
    verification = import_model(CHECKPOINT, "m", models=root, verify=True).verification
    assert verification is not None
    assert verification.largest_difference == 0


# --- the command ------------------------------------------------------------------------------------------------------


def command(*arguments: object) -> int:
    return import_command.main([str(argument) for argument in arguments])


def test_the_command_prints_what_it_did(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(CHECKPOINT, "--name", "m", "--models", root, "--set", "forget_bias=0", "--verify") == 0
    printed = capsys.readouterr().out
    for text in (
        "m version 1, from tensorflow1 tf1_checkpoint_2_basic_lstm: 6,176 parameters, 24,704 bytes of float32",
        "takes float32[12] a step (inputs)",
        "MultiRNNCell(state_is_tuple=True): 6,176 parameters, 12 -> 16",
        "BasicLSTMCell(num_units=24, forget_bias=0.0, state_is_tuple=True): 3,552 parameters, 12 -> 24",
        "multi_rnn_cell/cell_1/basic_lstm_cell/kernel [40, 64]",
        "gives float32[16] a step (output)",
        "global_step: a counter of the training",
        "--set activation=",
        "0 (given)",
        "Not verified: the source alone does not let tensorflow1 run",
        "Written: ",
        "cellserve serve --models",
        'server.session("m")',
    ):
        assert text in printed


def test_the_command_prints_layers_of_every_kind(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bidirectional = GOLDEN_FOLDER / "onnx_lstm_bidirectional.onnx"
    assert command(bidirectional, "--name", "both", "--models", root) == 0
    printed = capsys.readouterr().out
    assert "Bidirectional, outputs: concat" in printed
    assert "bw/basic_lstm_cell/kernel [13, 32]" in printed
    assert 'rnn.dynamic_rnn(server.model("both")' in printed
    arrays = {
        "rnn/basic_rnn_cell/kernel": noise((9, 4)),
        "rnn/basic_rnn_cell/bias": noise((4,)),
        "embedding": noise((7, 5)),
    }
    arrays |= {"dense/kernel": noise((4, 2)), "dense/bias": noise((2,))} | {
        f"old/{i}": noise((2, 3, 4)) for i in range(30)
    }
    assert (
        command(save_checkpoint(tmp_path / "ckpt", arrays), "--name", "ids", "--models", root, "--set", "scope=rnn")
        == 0
    )
    printed = capsys.readouterr().out
    assert "takes an id a step" in printed
    assert "Embedding(vocabulary_size=7, depth=5): 35 parameters" in printed
    assert "Dense(units=2, activation='none'): 10 parameters" in printed
    assert "and 10 more (--json lists all)" in printed


def test_the_command_gives_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(CHECKPOINT, "--name", "m", "--models", root, "--json", "--verify") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == "models/m/versions/1"
    assert document["parameter_count"] == 6176
    assert document["variables"]["multi_rnn_cell/cell_0/basic_lstm_cell/bias"] == [96]
    assert {note["option"] for note in document["assumptions"]} == {"state_is_tuple", "forget_bias", "activation"}
    assert document["verification"]["largest_difference"] is None
    assert document["ignored"] == ["global_step: a counter of the training"]


def test_the_command_refuses_with_1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(CHECKPOINT, "--name", "../m", "--models", root) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("cellserve import: name: expected 1 to 128 letters")
    assert printed.err.endswith("Nothing was written.\n")
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "Missing option '--name'"),
        (["--name", "m"], "Missing argument 'SOURCE'"),
        (["x", "--name", "m", "--set", "forget_bias"], "expected OPTION=VALUE; got 'forget_bias'"),
        (["x", "--name", "m", "--set", "a=1", "--set", "a=2"], "a is given twice"),
        (["x", "--name", "m", "--version", "one"], "'one' is not a valid integer"),
        (["x", "--name", "m", "--verbose"], "No such option"),
    ],
)
def test_the_command_says_what_it_takes_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == 2
    assert message in capsys.readouterr().err


def test_the_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    assert "cellserve import model.onnx --name ticks --verify" in capsys.readouterr().out


def test_no_framework_is_needed(root: Path) -> None:
    """Reading a file imports none; only --verify does, where it is installed."""
    frameworks = {"torch", "tensorflow", "keras", "onnxruntime"}
    before = frameworks & set(sys.modules)
    for source in SOURCES.values():
        import_model(source, "m", models=root)
    assert frameworks & set(sys.modules) == before


def test_what_is_written_gives_what_was_imported(root: Path) -> None:
    result = import_model(SOURCES["pytorch"], "m", models=root)
    files = read_model(root, "m", 1)
    inputs = noise((2, 3, 5))
    zeros = [np.zeros((2, size), np.float32) for size in build_network(files.description, files.weights).leaf_sizes]
    (outputs,), _ = build_network(files.description, files.weights).run([inputs], np.full(2, 3), zeros)
    np.testing.assert_array_equal(outputs, run(result.imported, inputs)[0])
