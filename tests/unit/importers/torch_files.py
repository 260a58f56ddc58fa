"""Files as ``torch.save`` writes them, made without PyTorch; and files as nobody should write them."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cellserve.tensors import Array
from tests.unit.importers.comparing import noise


class Named(NamedTuple):
    """A global of a pickle. Nothing of that name is needed to write it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Call:
    """A call of a global with arguments, to be made when the pickle is read."""

    def __init__(self, function: Named, *arguments: object) -> None:
        self.function, self.arguments = function, arguments


class Storage(NamedTuple):
    """A storage under a key."""

    key: str
    values: Array
    kind: str = "FloatStorage"


def write_pickle(value: object, view: bool = False) -> bytes:
    """A pickle of protocol 2.

    Args:
        value: dicts, lists, tuples, strings, numbers, and what this module has.
        view: give storages the sixth field that they had before 1.6.
    """
    return b"\x80\x02" + _instructions(value, view) + b"."


def _instructions(value: object, view: bool) -> bytes:
    def each(values: Sequence[object]) -> bytes:
        return b"".join(_instructions(inner, view) for inner in values)

    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case Named(module, name):
            return f"c{module}\n{name}\n".encode()
        case Storage(key, values, kind):
            identifier = ("storage", Named("torch", kind), key, "cpu", len(values))
            return each([(*identifier, None) if view else identifier]) + b"Q"
        case Call():
            return each([value.function, value.arguments]) + b"R"
        case tuple():
            return b"(" + each(value) + b"t"
        case list():
            return b"](" + each(value) + b"e"
        case dict():
            return b"}(" + each([part for pair in value.items() for part in pair]) + b"u"
    raise TypeError(f"no pickle of a {type(value).__name__} is written here")


def ordered_dict() -> Call:
    """An empty ``OrderedDict``."""
    return Call(Named("collections", "OrderedDict"))


def tensor(storage: Storage, shape: tuple[int, ...], stride: tuple[int, ...] | None = None, offset: int = 0) -> Call:
    """A tensor; contiguous unless strides are given."""
    if stride is None:
        stride = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    function = Named("torch._utils", "_rebuild_tensor_v2")
    return Call(function, storage, offset, shape, stride, False, ordered_dict())


def state_dict(arrays: Mapping[str, Array], kind: str = "FloatStorage") -> tuple[dict[str, Call], list[Storage]]:
    """Tensors, and the storages that they are in."""
    storages = [Storage(str(number), array.ravel(), kind) for number, array in enumerate(arrays.values())]
    pairs = zip(arrays.items(), storages, strict=True)
    return {name: tensor(storage, array.shape) for (name, array), storage in pairs}, storages


def save_torch(path: Path, value: object, storages: Sequence[Storage], compression: int = zipfile.ZIP_STORED) -> Path:
    """A file of ``torch.save``."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", write_pickle(value))
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
    return path


def save_legacy(path: Path, arrays: Mapping[str, Array], cut: int = 0) -> Path:
    """A file of ``torch.save`` before 1.6, without its last ``cut`` bytes."""
    state, storages = state_dict(arrays)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    pickles = (0x1950A86A20F9469CFC6C, 1001, system, state, [storage.key for storage in storages])
    data = b"".join(write_pickle(value, view=True) for value in pickles)
    for storage in storages:
        data += len(storage.values).to_bytes(8, "little") + storage.values.tobytes()
    path.write_bytes(data[: len(data) - cut])
    return path


def recurrent(
    gates: int, depth: int, units: int, prefix: str = "", suffix: str = "_l0", bias: bool = True
) -> dict[str, Array]:
    """The tensors of one cell of a module: RNN (1 gate), GRU (3) or LSTM (4)."""
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates * units, depth), "weight_hh": (gates * units, units)}
    if bias:
        shapes |= {"bias_ih": (gates * units,), "bias_hh": (gates * units,)}
    return {f"{prefix}{name}{suffix}": noise(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


def matrix(rows: int, columns: int, name: str, bias: bool = True) -> dict[str, Array]:
    """The tensors of an ``nn.Linear``, or without a bias of an ``nn.Embedding``."""
    return {f"{name}.weight": noise((rows, columns))} | ({f"{name}.bias": noise((rows,))} if bias else {})
