"""The repository of models: what is in the operator's folder, loading and unloading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellserve.errors import (
    FailedPreconditionError,
    FieldInvalidError,
    ModelBrokenError,
    ModelNotFoundError,
)
from cellserve.states import LSTMStateTuple, spec_from_proto
from cellserve.v1 import model_pb2
from cellserve_server.models.repository import BrokenModel, LoadedModel, ModelRepository, ModelState
from tests.clocks import ManualClock
from tests.unit.model_samples import LIMITS, RNN, bidirectional, classifier, define, load, names, put

# --- what is in the folder --------------------------------------------------------------------------------------------


def test_every_version_is_loaded(models: ModelRepository, models_root: Path) -> None:
    for name, version in (("b", 2), ("b", 10), ("a-1.x_Y", 1)):
        put(models_root, name, version)
    models.load_all()
    assert names(models) == ["models/a-1.x_Y/versions/1", "models/b/versions/2", "models/b/versions/10"]
    assert models.resolve("default", "models/b").version == 10
    assert models.resolve("another", "models/b/versions/2").version == 2
    assert models.count_by_state() == {"ready": 3}


def test_a_loaded_model_computes_and_knows_its_sizes(
    models: ModelRepository, models_root: Path, clock: ManualClock
) -> None:
    put(models_root, "classifier", 1, classifier(), seed=3)
    models.load_all()
    model = models.resolve("default", "models/classifier")
    assert (model.name, model.version, model.tenant) == ("classifier", 1, None)
    assert model.structure == LSTMStateTuple(4, 4)
    assert model.leaf_sizes == (4, 4)
    assert model.leaf_names == ("state.c", "state.h")
    assert model.state_bytes_per_row == 32
    assert model.parameter_count == 3 + 3 + 7 * 16 + 16 + 4 * 2 + 2
    assert model.weight_bytes == 4 * model.parameter_count
    assert model.inputs == classifier().inputs
    assert model.outputs == classifier().outputs
    zeros = [np.zeros((2, 4), np.float32)] * 2
    (output,), _ = model.network.step([np.ones((2, 3), np.float32)], zeros)
    np.testing.assert_allclose(output.sum(1), 1, rtol=1e-5)
    message = model.to_proto(LIMITS)
    assert message.name == "models/classifier/versions/1"
    assert message.description == "The model classifier."
    assert message.state == model_pb2.MODEL_STATE_READY
    assert list(message.spec.outputs[0].labels) == ["no", "yes"]
    assert spec_from_proto(message.state_spec) == model.structure
    assert list(message.capabilities) == [
        *(model_pb2.CAPABILITY_STEP, model_pb2.CAPABILITY_SESSION, model_pb2.CAPABILITY_SEQUENCE)
    ]
    assert message.digest == model.digest
    assert message.load_time.ToSeconds() == clock()
    assert message.limits == LIMITS
    assert not message.defined
    assert not message.HasField("expire_time")


def test_a_bidirectional_model_takes_sequences_alone(models: ModelRepository, models_root: Path) -> None:
    put(models_root, "both-ways", 1, bidirectional())
    models.load_all()
    model = models.resolve("default", "models/both-ways")
    assert not model.steppable
    assert list(model.to_proto(LIMITS).capabilities) == [model_pb2.CAPABILITY_SEQUENCE]


def test_an_absent_folder_is_an_empty_repository(models: ModelRepository) -> None:
    models.load_all()
    assert names(models) == []
    with pytest.raises(ModelNotFoundError, match=r"models/x: no such model; the server's folder has none$"):
        models.resolve("default", "models/x")


def test_what_is_no_model_is_passed_over(models: ModelRepository, models_root: Path) -> None:
    put(models_root, "good", 1)
    for folder in (".git/1", "-bad/1", "bad name/1", "good/01", "good/0", "good/v2", "good/.writing-x"):
        (models_root / folder).mkdir(parents=True)
    (models_root / "README.md").write_text("words")
    (models_root / "good" / "2").write_text("a file")
    models.load_all()
    assert names(models) == ["models/good/versions/1"]


def test_the_names_of_defined_models_are_reserved(models: ModelRepository, models_root: Path) -> None:
    put(models_root, "defined-x", 1)
    models.load_all()
    with pytest.raises(ModelBrokenError, match="names with defined- are for models of DefineModel"):
        models.resolve("default", "models/defined-x")
    with pytest.raises(FieldInvalidError, match="models/defined-x is made by DefineModel"):
        load(models, "models/defined-x")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "x",
            "models/",
            "models/x/",
            "models/x/versions",
            "models/x/versions/",
            "models/x/versions/0",
            "models//1",
        ),
        *(
            "models/x/versions/01",
            "models/x/versions/-1",
            "models/x/versions/1/",
            "models/../x",
            "models/..",
            "models/.",
        ),
        *("models/a/../b", "/models/x", "models/x\n", "models/-x", "models/" + "x" * 129, "sessions/x", "models/é"),
    ],
)
def test_malformed_names_are_refused(models: ModelRepository, name: str) -> None:
    with pytest.raises(FieldInvalidError, match=r"model: expected models/{model} or models/{model}/versions/{version}"):
        models.resolve("default", name)
    with pytest.raises(FieldInvalidError, match="name: expected models/"):
        load(models, name)
    with pytest.raises(FieldInvalidError, match="name: expected models/"):
        models.unload("default", name, force=False)


def test_a_model_that_is_not_there_is_told_with_those_that_are(models: ModelRepository, models_root: Path) -> None:
    for index in range(7):
        put(models_root, f"model-{index}", 2)
    models.load_all()
    with pytest.raises(ModelNotFoundError, match=r"models/x: no such model; there are model-0, .*model-4, \.\.\."):
        models.resolve("default", "models/x")
    with pytest.raises(ModelNotFoundError, match="models/model-0/versions/1: no such version; there are 2"):
        models.resolve("default", "models/model-0/versions/1")


def test_defined_models_are_told_as_a_count_behind_the_operators(models: ModelRepository, models_root: Path) -> None:
    for seed in range(2):
        define(models, "default", RNN, seed=seed)
    define(models, "another", RNN, seed=3)
    with pytest.raises(ModelNotFoundError, match=r"the server's folder has none; besides 2 that clients defined$"):
        models.resolve("default", "models/x")
    put(models_root, "zebra", 1)
    models.load_all()
    with pytest.raises(ModelNotFoundError, match=r"no such model; there are zebra; besides 2 that clients defined$"):
        models.resolve("default", "models/x")


def test_a_model_without_a_version_is_warned_of(
    models: ModelRepository, models_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models_root / "flat").mkdir(parents=True)
    (models_root / "flat" / "cell.json").write_text("{}")
    models.load_all()
    logged = capsys.readouterr().out
    assert "model_has_no_version" in logged
    assert str(models_root / "flat" / "1" / "cell.json") in logged


# --- loading and unloading --------------------------------------------------------------------------------------------


def test_load_finds_what_was_put_there_since(models: ModelRepository, models_root: Path) -> None:
    models.load_all()
    with pytest.raises(ModelNotFoundError, match="models/m: the server's folder of models has nothing of that name"):
        load(models, "models/m")
    put(models_root, "m", 1)
    first = load(models, "models/m")
    put(models_root, "m", 2, seed=1)
    assert models.resolve("default", "models/m") is first
    second = load(models, "models/m")
    assert second.version == 2
    assert models.resolve("default", "models/m") is second
    with pytest.raises(
        ModelNotFoundError, match="models/m/versions/3: the server's folder of models has versions 1, 2"
    ):
        load(models, "models/m/versions/3")


def test_loading_the_same_again_changes_nothing(models: ModelRepository, models_root: Path) -> None:
    put(models_root, "m", 1)
    model = load(models, "models/m")
    models.acquire(model)
    assert load(models, "models/m/versions/1") is model


def test_changed_files_are_refused_under_open_sessions(models: ModelRepository, models_root: Path) -> None:
    dropped: list[LoadedModel] = []
    models.on_drop = dropped.append
    put(models_root, "m", 1)
    model = load(models, "models/m")
    models.acquire(model)
    put(models_root, "m", 1, seed=1)
    with pytest.raises(
        FailedPreconditionError, match=r"1 sessions are open on it .* give the new weights a new version"
    ):
        load(models, "models/m")
    assert models.resolve("default", "models/m") is model
    models.release(model)
    changed = load(models, "models/m")
    assert changed.digest != model.digest
    assert models.resolve("default", "models/m") is changed
    assert dropped == [model]


def test_files_that_break_leave_the_version_in_service(models: ModelRepository, models_root: Path) -> None:
    model = load(models, f"models/{put(models_root, 'm', 1).parent.name}")
    (models_root / "m" / "1" / "cell.json").write_text("{")
    with pytest.raises(ModelBrokenError, match="expected JSON"):
        load(models, "models/m")
    assert models.resolve("default", "models/m") is model


def test_a_broken_version_can_be_mended_or_removed(models: ModelRepository, models_root: Path) -> None:
    (models_root / "m" / "1").mkdir(parents=True)
    models.load_all()
    put(models_root, "m", 1)
    assert load(models, "models/m").state is ModelState.READY
    (models_root / "m" / "2").mkdir()
    with pytest.raises(ModelBrokenError):
        load(models, "models/m/versions/2")
    assert names(models) == ["models/m/versions/1", "models/m/versions/2"]
    assert isinstance(models.unload("default", "models/m/versions/2", force=False), BrokenModel)
    assert names(models) == ["models/m/versions/1"]


def test_unloading_waits_for_the_last_session(models: ModelRepository, models_root: Path) -> None:
    dropped: list[LoadedModel] = []
    models.on_drop = dropped.append
    put(models_root, "m", 1)
    model = load(models, "models/m")
    models.acquire(model)
    models.acquire(model)
    assert models.unload("default", "models/m/versions/1", force=False) is model
    assert model.session_count == 2
    assert model.to_proto(LIMITS).state == model_pb2.MODEL_STATE_UNLOADING
    for call in (lambda: models.resolve("default", "models/m"), lambda: models.acquire(model)):
        with pytest.raises(ModelNotFoundError, match="models/m/versions/1: it is unloading"):
            call()
    assert models.count_by_state() == {"unloading": 1}
    models.release(model)
    assert names(models) == ["models/m/versions/1"]
    models.release(model)
    assert names(models) == []
    assert dropped == [model]
    with pytest.raises(ModelNotFoundError, match="it is unloading or was unloaded"):
        models.acquire(model)
    assert load(models, "models/m") is not model


def test_unloading_ends_when_the_same_is_loaded_again(models: ModelRepository, models_root: Path) -> None:
    put(models_root, "m", 1)
    model = load(models, "models/m")
    models.acquire(model)
    models.unload("default", "models/m/versions/1", force=False)
    assert load(models, "models/m") is model
    models.release(model)
    assert models.resolve("default", "models/m") is model


@pytest.mark.parametrize("at_once", [True, False])
def test_force_has_the_sessions_ended(models: ModelRepository, models_root: Path, at_once: bool) -> None:
    ended: list[LoadedModel] = []

    def end(model: LoadedModel) -> None:
        ended.append(model)
        if at_once:
            models.release(model)

    models.on_unload = end
    put(models_root, "m", 1)
    model = load(models, "models/m")
    models.acquire(model)
    assert models.unload("default", "models/m/versions/1", force=True) is model
    assert ended == [model]
    assert model.session_count == (0 if at_once else 1)
    if not at_once:
        models.release(model)
    assert names(models) == []


def test_unloading_needs_a_version_that_is_there(models: ModelRepository, models_root: Path) -> None:
    put(models_root, "m", 1)
    models.load_all()
    with pytest.raises(FieldInvalidError, match=r"name: expected models/{model}/versions/{version}; got 'models/m'"):
        models.unload("default", "models/m", force=False)
    with pytest.raises(ModelNotFoundError, match="no such version; there are 1"):
        models.unload("default", "models/m/versions/2", force=False)
