"""What ``torch.save`` writes, and files that are damaged or larger inside than outside."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cellserve.tensors import Array
from cellserve_server.importers import pytorch
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.pytorch_checkpoint import read_state_dict
from tests.golden_cases import GOLDEN_FOLDER
from tests.unit.importers.comparing import assert_close, damaged, options_taken, run, save_safetensors, settings
from tests.unit.importers.torch_files import (
    Call,
    Named,
    Storage,
    ordered_dict,
    recurrent,
    save_legacy,
    save_torch,
    state_dict,
    tensor,
    write_pickle,
)

TORCH_FILE = GOLDEN_FOLDER / "torch_lstm_3_layers.pt"
SAFETENSORS_FILE = GOLDEN_FOLDER / "torch_lstm_3_layers.safetensors"


def refusal(path: Path, **options: str) -> ImportRefusedError:
    with pytest.raises(ImportRefusedError) as refused:
        pytorch.read(path, settings(**options))
    return refused.value


# --- what is read -----------------------------------------------------------------------------------------------------


def test_views_of_a_storage_are_read_with_their_strides(tmp_path: Path) -> None:
    arrays = recurrent(1, 3, 2)
    joined = Storage("0", np.concatenate([arrays["weight_ih_l0"].T.ravel(), arrays["weight_hh_l0"].ravel()]))
    zeros = Storage("1", np.zeros(2, np.float32))
    saved = {
        "weight_ih_l0": tensor(joined, (2, 3), (1, 2)),
        "weight_hh_l0": tensor(joined, (2, 2), offset=6),
        "bias_ih_l0": Call(Named("torch._utils", "_rebuild_parameter"), tensor(zeros, (2,)), True, ordered_dict()),
        "bias_hh_l0": tensor(zeros, (2,)),
    }
    model = pytorch.read(save_torch(tmp_path / "model.pt", saved, [joined, zeros]), settings())
    want = np.concatenate([arrays["weight_ih_l0"].T, arrays["weight_hh_l0"].T])
    assert_close(model.weights["basic_rnn_cell/kernel"], want)


def checkpoint(tmp_path: Path, **more: object) -> Path:
    state, storages = state_dict(recurrent(4, 3, 5))
    optimizer = {"state": {0: {"step": 3, "exp_avg": tensor(storages[0], (20, 3))}}, "param_groups": [{"lr": 1e-3}]}
    return save_torch(
        tmp_path / "checkpoint.pt",
        {
            "epoch": 7,
            "model": state,
            "optimizer": optimizer,
            "milestones": Call(Named("collections", "Counter"), {3: 1}),
            "loss": [0.5],
            **more,
        },
        storages,
    )


def test_a_checkpoint_gives_its_state_dict(tmp_path: Path) -> None:
    model = pytorch.read(checkpoint(tmp_path), settings())
    assert options_taken(model) == {"state_dict": "model"}
    assert model.ignored == tuple(
        f"{name}: another entry of the checkpoint" for name in ("epoch", "optimizer", "milestones", "loss")
    )


def test_a_checkpoint_with_two_asks_which(tmp_path: Path) -> None:
    other, _ = state_dict(recurrent(4, 3, 5))
    path = checkpoint(tmp_path, ema=other)
    assert refusal(path).option == "state_dict=model"
    assert options_taken(pytorch.read(path, settings(state_dict="ema"))) == {"state_dict": "ema"}
    assert "'optimizer'" in str(refusal(path, state_dict="epoch"))


def test_bfloat16_is_widened_when_asked(tmp_path: Path) -> None:
    arrays = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in recurrent(4, 3, 5).items()}
    path = save_torch(tmp_path / "model.pt", *state_dict(arrays, "BFloat16Storage"))
    assert refusal(path).option == "dtype=float32"
    model = pytorch.read(path, settings(dtype="float32"))
    want = (arrays["weight_hh_l0"].astype(np.uint32) << 16).view(np.float32)
    assert_close(model.weights["basic_lstm_cell/kernel"][3:, :5], want[:5].T)


def test_a_file_from_before_zip_files_is_read(tmp_path: Path) -> None:
    path = save_legacy(tmp_path / "old.pth", recurrent(3, 3, 5))
    assert pytorch.recognises(path)
    new = pytorch.read(save_safetensors(tmp_path / "new.safetensors", recurrent(3, 3, 5)), settings())
    inputs = np.ones((2, 3, 3), np.float32)
    assert_close(run(pytorch.read(path, settings()), inputs)[0], run(new, inputs)[0])


def test_a_cut_file_from_before_zip_files_is_refused(tmp_path: Path) -> None:
    assert "expected 15 elements; got 14" in str(refusal(save_legacy(tmp_path / "old.pth", recurrent(3, 3, 5), cut=3)))
    assert "a storage is missing" in str(refusal(save_legacy(tmp_path / "old.pth", recurrent(3, 3, 5), cut=100)))


# --- damaged and misleading files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [TORCH_FILE, SAFETENSORS_FILE], ids=["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path: Path, path: Path, share: float) -> None:
    data = path.read_bytes()
    cut = tmp_path / path.name
    cut.write_bytes(data[: int(len(data) * share)])
    assert pytorch.recognises(cut)
    assert "damaged or cut short" in str(refusal(cut))


@pytest.mark.parametrize("path", [TORCH_FILE, SAFETENSORS_FILE], ids=["pt", "safetensors"])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 256)), min_size=1, max_size=8))
@hypothesis_settings(max_examples=100)
def test_any_damage_is_refused_or_harmless(path: Path, changes: list[tuple[float, int]]) -> None:
    with TemporaryDirectory() as folder:
        changed = Path(folder) / path.name
        changed.write_bytes(damaged(path.read_bytes(), changes))
        pytorch.recognises(changed)
        with suppress(ImportRefusedError):
            pytorch.read(changed, settings())


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.safetensors"])
def test_something_else_under_the_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"this is no model at all, but a text")
    assert "damaged or cut short" in str(refusal(path))
    assert "expected a file" in str(refusal(tmp_path / "nothing.pt")) or "its first bytes" in str(
        refusal(tmp_path / "nothing.pt")
    )


def test_files_of_others_are_not_recognised(tmp_path: Path) -> None:
    assert not pytorch.recognises(GOLDEN_FOLDER / "keras_stacked_lstm_saved.keras")
    assert not pytorch.recognises(GOLDEN_FOLDER / "keras_stacked_lstm_saved.weights.h5")
    assert not pytorch.recognises(GOLDEN_FOLDER / "onnx_lstm.onnx")
    assert not pytorch.recognises(GOLDEN_FOLDER / "torch_gru.npz")
    assert not pytorch.recognises(tmp_path)


def test_a_damaged_byte_is_found(tmp_path: Path) -> None:
    data = bytearray(TORCH_FILE.read_bytes())
    data[data.index(b"/data/0") + 200] ^= 1
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    assert "data/0' is damaged: Bad CRC-32" in str(refusal(path))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "weight_ih_l0",
            (19, 3),
            r"weight_ih_l0: expected shape \[20, 3\], for nn.LSTM of hidden_size 5; got \[19, 3\]",
        ),
        ("weight_hh_l0", (20, 6), "weight_hh_l0: expected 1, 3 or 4 times as many rows as the hidden size, 6"),
        ("weight_hh_l0", (19, 5), "weight_hh_l0: expected 1, 3 or 4 times as many rows as the hidden size, 5"),
        ("weight_hh_l0", (20,), r"weight_hh_l0: expected a matrix; got shape \[20\]"),
        ("bias_hh_l0", (21,), r"bias_hh_l0: expected shape \[20\]"),
    ],
)
def test_a_shape_off_by_one_is_refused(tmp_path: Path, name: str, change: tuple[int, ...], message: str) -> None:
    arrays = recurrent(4, 3, 5) | {name: np.zeros(change, np.float32)}
    with pytest.raises(ImportRefusedError, match=message):
        pytorch.read(save_safetensors(tmp_path / "w.safetensors", arrays), settings())


@pytest.mark.parametrize("missing", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_a_missing_tensor_is_refused(tmp_path: Path, missing: str) -> None:
    arrays = recurrent(4, 3, 5)
    del arrays[missing]
    assert f"{missing} is missing" in str(refusal(save_safetensors(tmp_path / "w.safetensors", arrays)))


def test_a_missing_layer_is_refused(tmp_path: Path) -> None:
    arrays = recurrent(4, 3, 5) | recurrent(4, 5, 5, suffix="_l2")
    assert "expected layers numbered from 0" in str(refusal(save_safetensors(tmp_path / "w.safetensors", arrays)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    arrays = recurrent(4, 3, 5)
    arrays["weight_hh_l0"][2, 1] = bad
    path = save_safetensors(tmp_path / "w.safetensors", arrays)
    assert f"weight_hh_l0: expected finite numbers; got {bad} at [2, 1]" in str(refusal(path))


def test_no_recurrent_module_is_refused(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {"fc.weight": np.ones((2, 3), np.float32)}
    assert "the file has none" in str(refusal(save_safetensors(tmp_path / "w.safetensors", arrays)))
    state, storages = state_dict(arrays)
    assert "'fc.weight'" in str(refusal(save_torch(tmp_path / "w.pt", state, storages)))


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    small = Storage("0", np.zeros(4, np.float32))
    for shape, stride, offset in (((1 << 40,), (0,), 0), ((5,), (1,), 0), ((4,), (1,), 1), ((2, 2), (3, 1), 1)):
        path = save_torch(tmp_path / "w.pt", {"weight_hh_l0": tensor(small, shape, stride, offset)}, [small])
        assert "in a storage of 4 elements" in str(refusal(path))


def test_a_storage_of_another_size_or_none_is_refused(tmp_path: Path) -> None:
    state, storages = state_dict(recurrent(4, 3, 5))
    path = save_torch(tmp_path / "w.pt", state, storages[1:])
    assert "member 'archive/data/0' is missing" in str(refusal(path))
    short = [Storage("0", storages[0].values[:-1]), *storages[1:]]
    assert "storage 0: expected 60 elements; got 59" in str(refusal(save_torch(tmp_path / "w.pt", state, short)))


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    zeros = {"weight_hh_l0": np.zeros((4000, 1000), np.float32)}
    path = save_torch(tmp_path / "w.pt", *state_dict(zeros), compression=zipfile.ZIP_DEFLATED)
    assert "expected it uncompressed" in str(refusal(path))


@pytest.mark.parametrize("name", ["../data.pkl", "/data.pkl", "archive/../../data.pkl", "C:/data.pkl"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, write_pickle({}))
    assert "expected a path within the archive" in str(refusal(path))


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", write_pickle({}))
        archive.writestr("archive/data/0", bytes(4000))
        for number in range(1, 9):
            twin = zipfile.ZipInfo(f"archive/data/{number}")
            whole = archive.getinfo("archive/data/0")
            twin.file_size, twin.compress_size, twin.CRC = whole.file_size, whole.compress_size, whole.CRC
            twin.header_offset = whole.header_offset
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    assert "its members overlap" in str(refusal(path))


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    path = save_torch(tmp_path / "w.pt", {}, [])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", write_pickle(()))
    assert "TorchScript program" in str(refusal(path))


def test_a_state_dict_that_is_a_list_is_refused(tmp_path: Path) -> None:
    assert "expected a state dict" in str(refusal(save_torch(tmp_path / "w.pt", [1], [])))


def test_reading_leaves_nothing_open(tmp_path: Path) -> None:
    state = read_state_dict(TORCH_FILE, settings())
    assert state.tensors["weight_ih_l0"].read().shape == (32, 5)
