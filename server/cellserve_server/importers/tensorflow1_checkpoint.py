"""TensorFlow checkpoints (``.index`` and ``.data-00000-of-00001``), read without TensorFlow.

The index names every variable with its type, its shape and its place in a data file, whose bytes are the arrays as
they are in memory. Sources: ``tensor_bundle.proto`` and ``tensor_bundle.h`` of TensorFlow, and real files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from cellserve.tensors import Array
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.crc32c import masked_crc32c
from cellserve_server.importers.tensorflow1_table import DamagedError, ends_with_magic, read_table, varint

INDEX_SUFFIX = ".index"
CHECKPOINT_FILE = "checkpoint"
SAVED_MODEL_PREFIX = Path("variables", "variables")
MAX_CHECKPOINT_FILE_BYTES = 1 << 20
MAX_DIMENSIONS = 8
MAX_VARIABLE_BYTES = 1 << 32
MAX_SHARDS = 1 << 16
_DATA_NAME = re.compile(r"(?P<prefix>.+)\.data-\d{5}-of-\d{5}")
_NEWEST = re.compile(r'^\s*model_checkpoint_path\s*:\s*"(?P<path>[^"\\]*)"\s*$', re.MULTILINE)
_FLOATS = {1: "float32", 2: "float64", 19: "float16"}
# Of types.proto; what has no name here is called by its number.
_TYPE_NAMES = _FLOATS | {3: "int32", 7: "string", 9: "int64", 10: "bool", 14: "bfloat16", 20: "resource"}
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class StoredVariable:
    """Where a variable lies.

    Attributes:
        type_name: ``float32``, ``float64``, ``float16``, or another, which cannot be read.
        shape: its shape.
        shard: the number of the data file.
        offset: where it begins there, in bytes.
        size: its bytes.
        checksum: the masked CRC-32C of these bytes.
        sliced: whether it was partitioned and lies in several pieces, which cannot be read.
    """

    type_name: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


class Checkpoint:
    """The variables of a checkpoint.

    Args:
        prefix: the path that ``.index`` and ``.data-...`` are appended to.

    Attributes:
        variables: by name, in the order of the names.

    Raises:
        ImportRefusedError: the index is damaged or is no TensorFlow 1 checkpoint's.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        index = _with_suffix(prefix, INDEX_SUFFIX)
        entries = read_table(index)
        if b"" not in entries:
            raise ImportRefusedError(
                f"{index.name}: expected a header under the empty key; this is no checkpoint of a Saver (format V2)"
            )
        try:
            self._shards = _shard_count(entries.pop(b""))
            # A key that begins with a zero byte is a piece of a partitioned variable, whose whole is listed too.
            self.variables: Mapping[str, StoredVariable] = {
                key.decode(): _stored_variable(value) for key, value in entries.items() if not key.startswith(b"\0")
            }
        except (DamagedError, UnicodeDecodeError) as error:
            raise ImportRefusedError(f"{index.name}: {error}") from error
        if _OBJECT_GRAPH in self.variables:
            raise ImportRefusedError(
                f"{index.name}: an object-based checkpoint of TensorFlow 2 (it has {_OBJECT_GRAPH}), which does not "
                "name variables as tf.compat.v1.train.Saver does; from Keras save a .keras file instead"
            )

    def read(self, name: str) -> Array:
        """Reads a variable, checks its checksum, and copies it.

        Raises:
            ImportRefusedError: its type cannot be read, or its bytes are missing or damaged.
        """
        stored = self.variables[name]
        if stored.sliced:
            raise ImportRefusedError(f"{name}: it is partitioned and stored in pieces; save it as one variable")
        if stored.type_name not in _FLOATS.values():
            raise ImportRefusedError(f"{name}: expected floating-point weights; got {stored.type_name}")
        dtype = np.dtype(stored.type_name).newbyteorder("<")
        expected = math.prod(stored.shape) * dtype.itemsize
        if stored.size != expected:
            raise ImportRefusedError(
                f"{name}: expected {expected} bytes for {stored.type_name}{list(stored.shape)}; "
                f"the index says {stored.size}"
            )
        if stored.size > MAX_VARIABLE_BYTES:
            raise ImportRefusedError(f"{name}: expected at most {MAX_VARIABLE_BYTES} bytes; got {stored.size}")
        data = self._bytes(name, stored)
        return np.frombuffer(data, dtype).reshape(stored.shape).astype(stored.type_name)

    def _bytes(self, name: str, stored: StoredVariable) -> bytes:
        if not 0 <= stored.shard < self._shards:
            raise ImportRefusedError(
                f"{name}: expected a data file from 0 to {self._shards - 1}; the index says {stored.shard}"
            )
        path = _with_suffix(self._prefix, f".data-{stored.shard:05d}-of-{self._shards:05d}")
        try:
            with path.open("rb") as file:
                if file.seek(0, 2) < stored.offset + stored.size:
                    raise ImportRefusedError(
                        f"{path.name}: expected {name} at bytes {stored.offset} to {stored.offset + stored.size}; "
                        f"the file ends at {file.tell()}, it was cut off"
                    )
                file.seek(stored.offset)
                data = file.read(stored.size)
        except FileNotFoundError as error:
            raise ImportRefusedError(f"{path.name}: the file is missing; {name} is in it") from error
        if masked_crc32c(data) != stored.checksum:
            raise ImportRefusedError(f"{path.name}: the checksum of {name} is wrong: the file is damaged")
        return data


def find_prefix(source: Path) -> Path | None:
    """The prefix of the checkpoint that a source means; None: it means none.

    Args:
        source: the prefix, one of its files, a folder with a ``checkpoint`` file, or a folder of a SavedModel.

    Raises:
        ImportRefusedError: the source is a checkpoint of the first format, or a ``checkpoint`` file or a folder that
            names none, or one outside.
    """
    if source.is_dir():
        return _prefix_in(source)
    if _with_suffix(source, INDEX_SUFFIX).is_file():
        return source
    if source.name == CHECKPOINT_FILE and source.is_file():
        return _newest(source)
    if source.name.endswith(INDEX_SUFFIX) and source.is_file():
        return source.with_name(source.name.removesuffix(INDEX_SUFFIX))
    match = _DATA_NAME.fullmatch(source.name)
    if match is not None:
        return source.with_name(match["prefix"])
    if source.is_file() and ends_with_magic(source):
        raise ImportRefusedError(
            f"{source.name}: a checkpoint of the first format, in one file; restore it in TensorFlow and save it with "
            "Saver(write_version=tf.train.SaverDef.V2)"
        )
    return None


def _prefix_in(folder: Path) -> Path | None:
    if (folder / CHECKPOINT_FILE).is_file():
        return _newest(folder / CHECKPOINT_FILE)
    if _with_suffix(folder / SAVED_MODEL_PREFIX, INDEX_SUFFIX).is_file():
        return folder / SAVED_MODEL_PREFIX
    named = [path for path in folder.iterdir() if path.name.endswith(INDEX_SUFFIX) and path.is_file()]
    indexes = sorted(path for path in named if ends_with_magic(path))
    if len(indexes) > 1:
        names = ", ".join(path.name.removesuffix(INDEX_SUFFIX) for path in indexes[:5])
        raise ImportRefusedError(
            f"{folder.name}: several checkpoints and no file {CHECKPOINT_FILE!r}; name one: {names}"
        )
    return indexes[0].with_name(indexes[0].name.removesuffix(INDEX_SUFFIX)) if indexes else None


def _newest(path: Path) -> Path:
    """The prefix that a ``checkpoint`` file names: always one beside the file."""
    label = f"{path.parent.name}/{path.name}"
    with path.open("rb") as file:
        data = file.read(MAX_CHECKPOINT_FILE_BYTES + 1)
    if len(data) > MAX_CHECKPOINT_FILE_BYTES:
        raise ImportRefusedError(f"{label}: expected at most {MAX_CHECKPOINT_FILE_BYTES} bytes; got more")
    match = _NEWEST.search(data.decode(errors="replace"))
    if match is None:
        raise ImportRefusedError(f'{label}: expected a line like model_checkpoint_path: "model.ckpt-1234"; got none')
    given = PurePosixPath(match["path"])
    # A Saver that was given an absolute path writes that one down. Only its name counts: the folder may have been
    # moved, and nothing outside it is looked at.
    name = given.name if given.is_absolute() else match["path"]
    if not name or ".." in given.parts or re.search(r"[/\\\0]", name):
        raise ImportRefusedError(
            f"{label}: expected model_checkpoint_path to name a checkpoint beside this file; got {match['path']!r}; "
            "give the checkpoint itself as SOURCE"
        )
    prefix = path.with_name(name)
    if not _with_suffix(prefix, INDEX_SUFFIX).is_file():
        raise ImportRefusedError(f"{label}: it names {name!r}, and {name}{INDEX_SUFFIX} is missing")
    return prefix


def _with_suffix(prefix: Path, suffix: str) -> Path:
    # Not Path.with_suffix, which would replace the ".ckpt" of model.ckpt.
    return prefix.with_name(prefix.name + suffix) if prefix.name else prefix


def _shard_count(header: bytes) -> int:
    """``BundleHeaderProto``: 1 the number of data files, 2 the byte order (0: little)."""
    fields = _fields(header)
    if _number(fields.get(2)):
        raise DamagedError("the checkpoint is in big-endian byte order, which cannot be read")
    shards = _number(fields.get(1))
    if not 1 <= shards <= MAX_SHARDS:
        raise DamagedError(f"expected 1 to {MAX_SHARDS} data files; the header says {shards}")
    return shards


def _stored_variable(entry: bytes) -> StoredVariable:
    """``BundleEntryProto``: 1 type, 2 shape, 3 data file, 4 offset, 5 size, 6 checksum, 7 slices."""
    fields = _fields(entry)
    number = _number(fields.get(1))
    return StoredVariable(
        type_name=_TYPE_NAMES.get(number, f"type number {number}"),
        shape=_shape(_record(fields.get(2))),
        shard=_number(fields.get(3)),
        offset=_number(fields.get(4)),
        size=_number(fields.get(5)),
        checksum=_number(fields.get(6)),
        sliced=7 in fields,
    )


def _shape(record: bytes) -> tuple[int, ...]:
    """``TensorShapeProto``: 2 the dimensions, each with 1 its size."""
    lengths = [_number(_fields(_record(dimension)).get(1)) for dimension in _fields(record).get(2, [])]
    if len(lengths) > MAX_DIMENSIONS or any(length >= 1 << 40 for length in lengths):
        raise DamagedError(f"expected at most {MAX_DIMENSIONS} dimensions of a positive size; got {lengths[:9]}")
    return tuple(lengths)


def _fields(record: bytes) -> dict[int, list[int | bytes]]:
    """A protobuf record's fields by number; unknown ones too, as TensorFlow may add some."""
    fields: dict[int, list[int | bytes]] = {}
    position = 0
    while position < len(record):
        tag, position = varint(record, position)
        value: int | bytes
        kind = tag & 7
        if kind == _VARINT:
            value, position = varint(record, position)
        elif kind in (_FIXED32, _FIXED64, _BYTES):
            size = {_FIXED32: 4, _FIXED64: 8}.get(kind, 0)
            if kind == _BYTES:
                size, position = varint(record, position)
            if position + size > len(record):
                raise DamagedError("a field of a record reaches past the record's end")
            piece = record[position : position + size]
            value = piece if kind == _BYTES else int.from_bytes(piece, "little")
            position += size
        else:
            raise DamagedError(f"a record has a field of the unknown kind {kind}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(values: list[int | bytes] | int | bytes | None) -> int:
    value = values[-1] if isinstance(values, list) else values
    if isinstance(value, bytes):
        raise DamagedError("a record has bytes where a number is due")
    return value or 0


def _record(value: list[int | bytes] | int | bytes | None) -> bytes:
    value = value[-1] if isinstance(value, list) else value
    if isinstance(value, int):
        raise DamagedError("a record has a number where bytes are due")
    return value or b""
