"""The files of a model's version: written, read, and refused when they are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from cellserve.errors import (
    ModelBrokenError,
    ShapeMismatchError,
)
from cellserve.tensors import Array
from cellserve.v1 import model_pb2
from cellserve_server.cells import draw_weights
from cellserve_server.models.model_files import write_model
from cellserve_server.models.repository import BrokenModel, ModelRepository
from tests.unit.model_samples import LIMITS, RNN, classifier, define, load, put


def set_cell(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes ``cell.json``; what ``change`` returns takes its place, unless it is None."""
    path = folder / "cell.json"
    content = json.loads(path.read_text())
    result = change(content)
    path.write_text(json.dumps(content if result is None else result))


def set_weights(folder: Path, change: dict[str, Array | None]) -> None:
    path = folder / "weights.safetensors"
    arrays = {**safetensors.numpy.load_file(path), **change}
    path.write_bytes(safetensors.numpy.save({name: array for name, array in arrays.items() if array is not None}))


def put_a_folder(folder: Path) -> None:
    (folder / "cell.json").unlink()
    (folder / "cell.json").mkdir()


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


BF16_HEADER = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
KERNEL, BIAS = "basic_rnn_cell/kernel", "basic_rnn_cell/bias"

BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no cell.json": (lambda folder: (folder / "cell.json").unlink(), "m/1/cell.json: the file is missing"),
    "no weights": (
        lambda folder: (folder / "weights.safetensors").unlink(),
        "m/1/weights.safetensors: the file is mis",
    ),
    "a folder": (
        put_a_folder,
        "m/1/cell.json: the file cannot be read: Is a directory",
    ),
    "no JSON": (write("cell.json", b"{"), "m/1/cell.json: expected JSON; "),
    "no UTF-8": (write("cell.json", b'"\xff"'), "m/1/cell.json: expected JSON; "),
    "a list": (write("cell.json", b"[]"), "m/1/cell.json: expected an object; got list"),
    "deep JSON": (write("cell.json", b"[" * 500_000), "m/1/cell.json: expected JSON; "),
    "a key twice": (write("cell.json", b'{"model": {}, "model": {}}'), "a key stands twice in one object"),
    "a large cell.json": (write("cell.json", b" " * ((1 << 20) + 1)), "cell.json: expected at most 1048576 bytes"),
    "no model": (
        lambda f: set_cell(f, lambda c: {"format_version": 1, "description": ""}),
        "model: expected dict; got n",
    ),
    "no version": (
        lambda f: set_cell(f, lambda c: c.pop("format_version") and None),
        "format_version: expected int; got",
    ),
    "a later version": (lambda f: set_cell(f, lambda c: c.update(format_version=2)), "expected 1; got 2"),
    "a true version": (lambda f: set_cell(f, lambda c: c.update(format_version=True)), "expected int; got bool"),
    "an unknown key": (
        lambda f: set_cell(f, lambda c: c.update(extra=1)),
        "m/1/cell.json: expected .*; got also 'extra'",
    ),
    "an origin that is no object": (
        lambda f: set_cell(f, lambda c: c.update(imported=[])),
        "m/1/cell.json: imported: expected dict; got list",
    ),
    "another description than its weights'": (
        lambda f: set_cell(
            f, lambda c: c["model"]["layers"][0]["cell"]["basic_rnn_cell"].update(activation="ACTIVATION_RELU")
        ),
        r"m/1/weights.safetensors: expected the weights of the model in cell.json, .*: one of the files was changed",
    ),
    "a long text": (
        lambda f: set_cell(f, lambda c: c.update(description="x" * 1001)),
        "at most 1000 characters; got 1001",
    ),
    "a model's unknown key": (lambda f: set_cell(f, lambda c: c["model"].update(extra=1)), 'model: .*"extra"'),
    "an unknown activation": (
        lambda f: set_cell(f, lambda c: c["model"]["layers"][0]["cell"]["basic_rnn_cell"].update(activation="SOFT")),
        r"m/1/cell.json: model: ",
    ),
    "a cell of 0 units": (
        lambda f: set_cell(f, lambda c: c["model"]["layers"][0]["cell"]["basic_rnn_cell"].update(num_units="0")),
        r"m/1/cell.json: model.layers\[0\].cell.basic_rnn_cell: num_units: expected",
    ),
    "other outputs": (
        lambda f: set_cell(f, lambda c: c["model"]["outputs"][0].update(shape=["5"])),
        r"m/1/cell.json: model.outputs\[0\]: the last layer gives float32\[4\]; got float32\[5\]",
    ),
    "no safetensors": (
        write("weights.safetensors", b"x" * 100),
        "m/1/weights.safetensors: expected a safetensors file; ",
    ),
    "empty weights": (write("weights.safetensors", b""), "m/1/weights.safetensors: expected a safetensors file; "),
    "too large weights": (
        write("weights.safetensors", bytes((1 << 20) + 300)),
        "weights.safetensors: expected at most 104",
    ),
    "bfloat16": (
        write("weights.safetensors", len(BF16_HEADER).to_bytes(8, "little") + BF16_HEADER + b"xx"),
        "m/1/weights.safetensors: expected float32; got BF16",
    ),
    "a missing variable": (
        lambda f: set_weights(f, {BIAS: None}),
        f"m/1/weights.safetensors: weights: expected the 2 variables of the model; got 1: missing {BIAS}",
    ),
    "float64": (lambda f: set_weights(f, {BIAS: np.zeros(4)}), r"weights\[.*bias\]: expected float32; got float64"),
    "another shape": (
        lambda f: set_weights(f, {KERNEL: np.zeros((6, 4), np.float32)}),
        r"weights\[.*kernel\]: expected shape \[7, 4\]; got \[6, 4\]",
    ),
    "NaN": (lambda f: set_weights(f, {BIAS: np.full(4, np.nan, np.float32)}), "expected finite numbers; got nan"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_version_is_kept_with_its_error(
    models: ModelRepository, models_root: Path, damage: Callable[[Path], object], message: str
) -> None:
    put(models_root, "good", 1)
    damage(put(models_root, "m", 1))
    models.load_all()
    with pytest.raises(ModelBrokenError, match=message) as caught:
        models.resolve("default", "models/m")
    assert str(models_root) not in str(caught.value)
    assert models.resolve("default", "models/good").version == 1
    broken = models.get("default", "models/m/versions/1")
    assert isinstance(broken, BrokenModel)
    proto = broken.to_proto(LIMITS)
    assert proto.state == model_pb2.MODEL_STATE_BROKEN
    assert proto.error == broken.error
    assert not proto.HasField("spec")
    assert models.count_by_state() == {"ready": 1, "broken": 1}


def test_a_model_that_cannot_compute_is_broken(
    models: ModelRepository, models_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(models_root, "m", 1)

    def fail(*_: object) -> None:
        raise MemoryError(f"no room in {models_root}")

    monkeypatch.setattr("cellserve_server.models.loaded_model.build_network", fail)
    models.load_all()
    with pytest.raises(ModelBrokenError, match="m/versions/1: MemoryError while it was loaded; the server's log has"):
        models.resolve("default", "models/m")


def test_the_newest_ready_version_answers(models: ModelRepository, models_root: Path) -> None:
    put(models_root, "m", 1)
    (models_root / "m" / "2").mkdir()
    models.load_all()
    assert models.resolve("default", "models/m").version == 1
    assert models.get("default", "models/m").version == 1
    with pytest.raises(ModelBrokenError, match=r"models/m/versions/2: m/2/cell\.json: the file is missing"):
        models.resolve("default", "models/m/versions/2")


def test_writing_is_whole_or_not_at_all(models_root: Path) -> None:
    folder = models_root / "m" / "1"
    with pytest.raises(ShapeMismatchError):
        write_model(folder, "", RNN, {KERNEL: np.zeros((1, 1), np.float32), BIAS: np.zeros(4, np.float32)})
    assert not models_root.exists()
    write_model(folder, "", RNN, draw_weights(RNN, 0))
    assert sorted(path.name for path in folder.iterdir()) == ["cell.json", "weights.safetensors"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    with pytest.raises(FileExistsError, match="give the new weights a new version"):
        write_model(folder, "", RNN, draw_weights(RNN, 1))
    assert [path.name for path in (models_root / "m").iterdir()] == ["1"]


def test_what_is_written_is_what_is_read(models: ModelRepository, models_root: Path) -> None:
    put(models_root, "m", 1, classifier(), seed=5)
    content = json.loads((models_root / "m" / "1" / "cell.json").read_text())
    assert content["format_version"] == 1
    assert content["model"]["layers"][1]["cell"]["basic_lstm_cell"]["forget_bias"] == 1.0
    assert load(models, "models/m").digest == define(models, "default", classifier(), None, 5, None).digest
