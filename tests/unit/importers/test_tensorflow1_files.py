"""The files of TensorFlow checkpoints: how they are found, read, and refused when they are damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cellserve_server.importers import tensorflow1
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.crc32c import crc32c
from cellserve_server.importers.tensorflow1_checkpoint import Checkpoint, find_prefix
from tests.golden_cases import GOLDEN_FOLDER
from tests.unit.importers import checkpoint_files as files
from tests.unit.importers.checkpoint_files import save_checkpoint
from tests.unit.importers.comparing import noise, settings

GOLDEN = GOLDEN_FOLDER / "tf1_checkpoint_2_basic_lstm"
PREFIX = "model.ckpt-1234"
INDEX, DATA = f"{PREFIX}.index", f"{PREFIX}.data-00000-of-00001"
LSTM = {"rnn/basic_lstm_cell/kernel": noise((8, 20)), "rnn/basic_lstm_cell/bias": noise((20,))}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The golden checkpoint, to be damaged."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in GOLDEN.iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


# --- CRC-32C ----------------------------------------------------------------------------------------------------------


def slow_crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_gives_the_vectors_of_rfc_3720(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


@pytest.mark.parametrize("size", [*range(1, 20), 2047, 2048, 2049, 4096, 6001, 8192, 20_000])
def test_crc32c_of_any_size_is_that_of_the_definition(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == slow_crc32c(data)


@pytest.mark.parametrize("size", [4095, 4096, 4097, 12_288, 20_001])
def test_crc32c_goes_over_several_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("cellserve_server.importers.crc32c._BLOCK_BYTES", 4096)
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == slow_crc32c(data)


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", PREFIX, INDEX, DATA, "checkpoint"])
def test_a_checkpoint_is_found_by_its_folder_its_prefix_and_its_files(part: str) -> None:
    source = GOLDEN / part if part else GOLDEN
    assert tensorflow1.recognises(source)
    assert find_prefix(source) == GOLDEN / PREFIX


def test_a_folder_with_one_index_needs_no_checkpoint_file(copy: Path) -> None:
    (copy / "checkpoint").unlink()
    assert find_prefix(copy) == copy / PREFIX
    shutil.copyfile(copy / INDEX, copy / "other.index")
    with pytest.raises(ImportRefusedError, match=r"several checkpoints .*name one: model.ckpt-1234, other"):
        find_prefix(copy)


def test_a_saved_models_variables_are_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "variables", LSTM, name="variables")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert find_prefix(tmp_path) == tmp_path / "variables" / "variables"


def test_other_files_are_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no checkpoint")
    assert not tensorflow1.recognises(tmp_path / "notes.txt")
    assert not tensorflow1.recognises(tmp_path)
    assert not tensorflow1.recognises(tmp_path / "missing")


def test_an_absolute_path_in_the_checkpoint_file_counts_by_its_name_alone(copy: Path) -> None:
    (copy / "checkpoint").write_text(f'model_checkpoint_path: "/home/of/somebody/else/{PREFIX}"\n')
    assert find_prefix(copy) == copy / PREFIX


@pytest.mark.parametrize("path", ["../model.ckpt-1234", "sub/model.ckpt-1234", "..", "", "/", "/a/../model.ckpt-1234"])
def test_a_checkpoint_file_leads_nowhere_else(copy: Path, path: str) -> None:
    shutil.copyfile(copy / INDEX, copy.parent / INDEX)
    (copy / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
    assert tensorflow1.recognises(copy)
    with pytest.raises(
        ImportRefusedError, match="expected model_checkpoint_path to name a checkpoint beside this file"
    ):
        tensorflow1.read(copy, settings())


def test_a_checkpoint_file_that_says_nothing_is_refused(copy: Path) -> None:
    (copy / "checkpoint").write_bytes(b"\xff\0nothing")
    with pytest.raises(ImportRefusedError, match="expected a line like model_checkpoint_path"):
        tensorflow1.read(copy, settings())
    (copy / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-9"\n')
    with pytest.raises(ImportRefusedError, match=r"it names 'model.ckpt-9', and model.ckpt-9.index is missing"):
        tensorflow1.read(copy, settings())


def test_the_first_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt-1"
    path.write_bytes(files.table({b"": b"", b"x": b"y"}))
    assert tensorflow1.recognises(path)
    with pytest.raises(ImportRefusedError, match="a checkpoint of the first format"):
        tensorflow1.read(path, settings())


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_what_was_saved_is_read(tmp_path: Path, shards: int) -> None:
    arrays = {f"scope/{i}/variable_{i % 7}": noise((i % 5 + 1, i % 3 + 1), i) for i in range(40)}
    arrays |= {"double": noise((3,)).astype(np.float64), "half": noise((3,)).astype(np.float16), "empty": noise((0, 3))}
    arrays |= {"scalar": np.array(1.5, np.float32), "large": noise((300, 100))}
    checkpoint = Checkpoint(save_checkpoint(tmp_path, arrays, shards=shards))
    assert sorted(checkpoint.variables) == sorted(arrays)
    for name, array in arrays.items():
        read = checkpoint.read(name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_the_golden_checkpoint_holds_the_golden_arrays() -> None:
    checkpoint = Checkpoint(GOLDEN / PREFIX)
    with np.load(GOLDEN_FOLDER / "tf1_checkpoint_2_basic_lstm.npz") as arrays:
        for name, stored in checkpoint.variables.items():
            if stored.type_name == "float32":
                np.testing.assert_array_equal(checkpoint.read(name), arrays[name])
    assert checkpoint.variables["global_step"].type_name == "int64"


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def change(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes()))


def flip(position: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def index_of(entries: dict[bytes, bytes], compression: int = 0) -> Callable[[Path], object]:
    return write(INDEX, files.table(entries, compression=compression))


ONE_FLOAT = files.number(1, 1) + files.record(2, files.record(2, files.number(1, 1))) + files.number(5, 4)
WRONG_SIZE = files.number(1, 1) + files.record(2, files.record(2, files.number(1, 9))) + files.number(5, 4)
BIAS = b"rnn/basic_rnn_cell/bias"
KERNEL = b"rnn/basic_rnn_cell/kernel"


def with_bias(entry: bytes) -> dict[bytes, bytes]:
    kernel = files.entry(1, (4, 1), 0, 0, bytes(16))
    return {b"": files.header(1), KERNEL: kernel, BIAS: entry}


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (change(INDEX, lambda data: data[:-20]), "expected the magic number .*db4775248b80fb57"),
    "almost nothing": (write(INDEX, b"abc"), "expected a footer of 48 bytes; the file has 3, it was cut off"),
    "empty": (write(INDEX, b""), "expected a footer of 48 bytes; the file has 0"),
    "another magic": (change(INDEX, flip(-1 + 303)), "expected the magic number"),
    "a bit of a block": (change(INDEX, flip(10)), "the checksum of the block at byte 0 is wrong: the file is damaged"),
    "a block elsewhere": (
        write(
            INDEX,
            (files.varint(1) * 2 + files.varint(1 << 30) * 2).ljust(40, b"\0") + files.MAGIC.to_bytes(8, "little"),
        ),
        "expected a block at bytes 1073741824 to",
    ),
    "compressed": (index_of({b"": files.header(1)}, compression=1), r"compressed \(snappy\)"),
    "no header": (index_of({b"a": b""}), "expected a header under the empty key"),
    "big-endian": (index_of({b"": files.header(1, big_endian=True)}), "big-endian"),
    "no data files": (index_of({b"": files.header(0)}), "expected 1 to 65536 data files; the header says 0"),
    "a name in no code": (index_of({b"": files.header(1), b"\xff": b""}), "'utf-8' codec"),
    "a record cut off": (index_of({b"": files.header(1), b"x": b"\x12\x7f"}), "reaches past the record's end"),
    "a record of nonsense": (index_of({b"": files.header(1), b"x": b"\x0b"}), "field of the unknown kind 3"),
    "an endless number": (index_of({b"": files.header(1), b"x": b"\x08" + b"\xff" * 12}), "of at most 10 bytes"),
    "bytes for a number": (index_of({b"": files.header(1), b"x": b"\x0a\x01a"}), "bytes where a number is due"),
    "TensorFlow 2": (
        index_of({b"": files.header(1), b"_CHECKPOINTABLE_OBJECT_GRAPH": b""}),
        "an object-based checkpoint of TensorFlow 2",
    ),
    "no data": (lambda folder: (folder / DATA).unlink(), f"{DATA}: the file is missing"),
    "data cut off": (change(DATA, lambda data: data[:-1]), "the file ends at 24711, it was cut off"),
    "a size that is not the shape's": (
        index_of(with_bias(ONE_FLOAT + files.number(5, 8))),
        r"expected 4 bytes for float32\[1\]; the index says 8",
    ),
    "a bit of the data": (change(DATA, flip(1000)), "the checksum of rnn/multi_rnn_cell/cell_0/.*/kernel is wrong"),
    "a size off by one": (index_of(with_bias(WRONG_SIZE)), r"bias: expected shape \[1\]; got \[9\]"),
    "an array far away": (
        index_of(with_bias(ONE_FLOAT + files.number(4, 1 << 40))),
        "the file ends at 24712",
    ),
    "another data file": (
        index_of(with_bias(ONE_FLOAT + files.number(3, 5))),
        "expected a data file from 0 to 0; the index says 5",
    ),
    "pieces": (
        index_of(with_bias(ONE_FLOAT + files.record(7, b""))),
        "it is partitioned and stored in pieces",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_refused_by_what_it_is(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(ImportRefusedError, match=message):
        tensorflow1.read(copy / PREFIX, settings())


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_no_damage_gives_another_error_or_other_weights(copy: Path, name: str) -> None:
    """Whatever byte is changed: either it is refused, or it is not part of what is read and nothing is different."""
    whole = (copy / name).read_bytes()
    wanted = tensorflow1.read(copy / PREFIX, settings())
    random = np.random.default_rng(0)
    for _ in range(150):
        position = int(random.integers(len(whole)))
        changed = bytearray(whole)
        changed[position] ^= int(random.integers(1, 256))
        (copy / name).write_bytes(bytes(changed[: int(random.integers(len(whole) // 2, 2 * len(whole)))]))
        try:
            read = tensorflow1.read(copy / PREFIX, settings())
        except ImportRefusedError:
            continue
        assert all(np.array_equal(read.weights[key], array) for key, array in wanted.weights.items())


def test_a_fifo_or_a_folder_in_a_files_place_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.ckpt.index")
    (tmp_path / "folder.index").mkdir()
    assert not tensorflow1.recognises(tmp_path / "model.ckpt")
    assert not tensorflow1.recognises(tmp_path / "folder")
