"""Files of Keras that are damaged, larger inside than outside, or hold what cannot be served."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import json
import sys
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cellserve.tensors import Array
from cellserve_server.importers import keras
from cellserve_server.importers.base import ImportRefusedError
from tests.golden_cases import GOLDEN_FOLDER
from tests.unit.importers.comparing import damaged, noise, settings
from tests.unit.importers.keras_files import (
    hdf5,
    inputs,
    layer,
    recurrent,
    save_keras,
    save_weights,
    sequential,
)

KERAS_FILE = GOLDEN_FOLDER / "keras_stacked_lstm_saved.keras"
WEIGHTS_FILE = GOLDEN_FOLDER / "keras_stacked_lstm_saved.weights.h5"
VARIABLES = recurrent("LSTM", 3, 4, "lstm")


def lstm(**config: Any) -> dict[str, Any]:
    return layer("LSTM", **{"name": "mine", "units": 4, "return_sequences": True, **config})


MODEL = sequential(inputs(None, None, 3), lstm())


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(ImportRefusedError) as refused:
        keras.read(path, settings(**options))
    return str(refused.value)


def refused(tmp_path: Path, config: object, variables: dict[str, Array] | None = None, version: str = "3.1") -> str:
    return refusal(save_keras(tmp_path / "model.keras", config, VARIABLES if variables is None else variables, version))


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [KERAS_FILE, WEIGHTS_FILE], ids=["keras", "weights"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path: Path, path: Path, share: float) -> None:
    data = path.read_bytes()
    cut = tmp_path / path.name
    cut.write_bytes(data[: int(len(data) * share)])
    assert keras.recognises(cut)
    assert "damaged or cut short" in refusal(cut)


@pytest.mark.parametrize("path", [KERAS_FILE, WEIGHTS_FILE], ids=["keras", "weights"])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 256)), min_size=1, max_size=8))
@hypothesis_settings(max_examples=100)
def test_any_damage_is_refused_or_harmless(path: Path, changes: list[tuple[float, int]]) -> None:
    with TemporaryDirectory() as folder:
        changed = Path(folder) / path.name
        changed.write_bytes(damaged(path.read_bytes(), changes))
        keras.recognises(changed)
        with suppress(ImportRefusedError):
            keras.read(changed, settings())


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_something_else_under_the_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"this is no model at all, but a text")
    assert keras.recognises(path)
    assert "damaged or cut short" in refusal(path)


def test_files_of_others_are_not_recognised(tmp_path: Path) -> None:
    for name in ("torch_lstm_3_layers.pt", "torch_gru.safetensors", "onnx_lstm.onnx", "torch_gru.npz"):
        assert not keras.recognises(GOLDEN_FOLDER / name)
    assert not keras.recognises(tmp_path)


def test_a_damaged_byte_is_found(tmp_path: Path) -> None:
    data = bytearray(KERAS_FILE.read_bytes())
    data[-3000] ^= 1
    path = tmp_path / "model.keras"
    path.write_bytes(data)
    assert "'model.weights.h5' is damaged: Bad CRC-32" in refusal(path)


@pytest.mark.parametrize("missing", ["config.json", "metadata.json", "model.weights.h5"])
def test_a_missing_member_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(KERAS_FILE) as whole, zipfile.ZipFile(path, "w") as archive:
        for name in whole.namelist():
            if name != missing:
                archive.writestr(name, whole.read(name))
    assert f"member '{missing}' is missing" in refusal(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.1"}))
        archive.writestr("config.json", b" " * 50_000_000)
    assert path.stat().st_size < 100_000
    assert "bytes that unpack to 50000000; expected at most 200 times as many" in refusal(path)


def test_a_member_larger_than_it_can_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(MODEL))
        archive.writestr("metadata.json", b" " * 2_000_000)
    assert "'metadata.json': expected at most 1048576 bytes; got 2000000" in refusal(path)


@pytest.mark.parametrize("name", ["../config.json", "/config.json", "a/../../b", "a\\..\\b", "C:\\config.json"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = save_keras(tmp_path / "model.keras", MODEL, VARIABLES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")
    assert "expected a path within the archive" in refusal(path)


@pytest.mark.parametrize("config", [[], "model", 3, None])
def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path, config: object) -> None:
    assert "config.json: expected an object" in refused(tmp_path, config)


def test_a_configuration_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", b"[" * 200_000)
    assert "config.json: expected JSON" in refusal(path)


@pytest.mark.parametrize("version", ["", "1.0", "4.0.0"])
def test_another_version_is_refused(tmp_path: Path, version: str) -> None:
    assert "expected a file of Keras 2 or 3" in refused(tmp_path, MODEL, version=version)


# --- HDF5 files that are not as Keras's -------------------------------------------------------------------------------


def changed(tmp_path: Path, change: str) -> Path:
    stream = BytesIO(hdf5(VARIABLES))
    with h5py.File(stream, "a") as file:
        vars_ = file["layers/lstm/cell/vars"]
        del vars_["1"]
        match change:
            case "external link":
                vars_["1"] = h5py.ExternalLink("/etc/passwd", "/x")
            case "soft link":
                vars_["1"] = h5py.SoftLink("/layers/lstm/cell/vars/0")
            case "compressed":
                vars_.create_dataset("1", data=np.zeros((4, 16), np.float32), compression="gzip")
            case "sparse":
                vars_.create_dataset("1", (1 << 20, 1 << 20), np.float32, chunks=(16, 16))
            case "text":
                vars_["1"] = np.array([b"weights"])
            case "shared":
                for number in (1, *range(3, 100)):
                    vars_[str(number)] = vars_["0"]
            case "loop":
                vars_["1"] = file["layers"]
    path = tmp_path / "model.weights.h5"
    path.write_bytes(stream.getvalue())
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("external link", "lstm/cell/vars/1: expected no links"),
        ("soft link", "lstm/cell/vars/1: expected no links"),
        ("compressed", "lstm/cell/vars/1: expected an array stored plainly"),
        ("sparse", "lstm/cell/vars/1: expected an array stored plainly"),
        ("text", "lstm/cell/vars/1: expected numbers"),
        ("shared", "its variables are more than the file's"),
        ("loop", "nested too deeply, or too many groups"),
    ],
)
def test_a_file_that_keras_does_not_write_is_refused(tmp_path: Path, change: str, message: str) -> None:
    assert message in refusal(changed(tmp_path, change))


def test_files_of_the_old_layouts_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["lstm"]
        file.create_group("lstm")
    assert "a file of Keras's old layout" in refusal(path)
    with h5py.File(path, "w") as file:
        file.create_group("encoder")
    assert "expected a group 'layers'" in refusal(path)


def test_without_h5py_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "needs the package h5py, which is not installed; it comes with cellserve-server[keras]" in refusal(
        WEIGHTS_FILE
    )


# --- weights that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "shape"), [(0, (4, 16)), (0, (3, 15)), (1, (5, 16)), (1, (4, 17)), (2, (15,)), (2, (2, 16))]
)
def test_a_shape_off_by_one_is_refused(tmp_path: Path, number: int, shape: tuple[int, ...]) -> None:
    message = refused(tmp_path, MODEL, VARIABLES | {f"lstm/cell/vars/{number}": noise(shape)})
    assert f"(lstm/cell/vars/{number}): expected shape " in message
    assert f"got {list(shape)}" in message


def test_a_missing_or_surplus_variable_is_refused(tmp_path: Path) -> None:
    less = {path: array for path, array in VARIABLES.items() if not path.endswith("2")}
    assert "mine: expected kernel, recurrent_kernel, bias as lstm/cell/vars/0, 1, ...; got 2" in refused(
        tmp_path, MODEL, less
    )
    assert "got 0 variables" in refused(tmp_path, MODEL, {})
    assert "got 4 variables" in refused(tmp_path, MODEL, VARIABLES | {"lstm/cell/vars/3": noise((2,))})


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    array = VARIABLES["lstm/cell/vars/1"].copy()
    array[2, 3] = bad
    variables = VARIABLES | {"lstm/cell/vars/1": array}
    want = f"lstm/cell/vars/1: expected finite numbers; got {bad} at [2, 3]"
    assert want in refused(tmp_path, MODEL, variables)
    assert want in refusal(save_weights(tmp_path / "model.weights.h5", variables))


def test_half_precision_needs_a_word(tmp_path: Path) -> None:
    half = {path: array.astype(np.float16) for path, array in VARIABLES.items()}
    assert "dtype=float32" in refused(tmp_path, MODEL, half)
    path = save_keras(
        tmp_path / "model.keras", sequential(inputs(None, None, 3), lstm(dtype="mixed_float16")), VARIABLES
    )
    assert "mixed_float16 (mine: its dtype)" in refusal(path)
    assert keras.read(path, settings(dtype="float32")).assumptions[0].given
