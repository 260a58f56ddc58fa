"""The files that PyTorch users have: ``.safetensors``, and ``.pt`` as ``torch.save`` writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import safetensors

from cellserve.tensors import Array
from cellserve_server.importers.archives import MAX_SOURCE_BYTES, Archive, member_names, require_source_file
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.pytorch_pickle import MAX_PICKLE_BYTES, StoredStorage, StoredTensor, read_pickle

_SAFETENSORS_FLOATS = MappingProxyType({"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"})
MAX_TENSORS = 100_000
Order: TypeAlias = Literal["<", ">"]
_MAX_HEADER_BYTES = 100 << 20  # safetensors' own limit
_ZIP_MAGIC = b"PK\x03\x04"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# The pickle of torch.save's magic number 0x1950a86a20f9469cfc6c, which files of PyTorch before 1.6 begin with.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a file: its dtype by numpy's name (or ``bfloat16``), its shape, and how to read it.

    Reading gives an array of the tensor's own dtype; of float32 for bfloat16, which holds the same numbers.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array]


def kind_of(source: Path) -> str:
    """``safetensors``, ``zip`` (torch.save's), ``legacy``, or nothing: by the first bytes and a zip's contents.

    A file of PyTorch's own suffixes that is nothing recognisable is taken by its suffix, for it must be damaged.
    """
    if not source.is_file():
        return ""
    with source.open("rb") as file:
        head = file.read(16)
    if head.startswith(_LEGACY_MAGIC):
        return "legacy"
    names = member_names(source) if head.startswith(_ZIP_MAGIC) else []
    if names:
        return "zip" if any(name.endswith("/data.pkl") for name in names) else ""
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES:
        return "safetensors"
    if head.startswith(_HDF5_MAGIC):
        return ""
    return {".safetensors": "safetensors", ".pt": "zip", ".pth": "zip"}.get(source.suffix.lower(), "")


def read_safetensors(source: Path) -> dict[str, FileTensor]:
    """The tensors of a ``.safetensors`` file.

    Raises:
        ImportRefusedError: it is damaged, or has a tensor of an unknown type.
    """
    require_source_file(source)
    try:
        deserialize: Any = safetensors.deserialize  # it has no types
        entries = deserialize(source.read_bytes())
    except safetensors.SafetensorError as error:
        raise ImportRefusedError(
            f"{source.name}: expected a safetensors file; it is damaged or cut short: {error}"
        ) from error
    if len(entries) > MAX_TENSORS:
        raise ImportRefusedError(f"{source.name}: expected at most {MAX_TENSORS} tensors; got {len(entries)}")
    # Sorted, for the library gives them in another order each time.
    return {name: _safetensor(name, entry) for name, entry in sorted(entries, key=lambda item: str(item[0]))}


def _safetensor(name: str, entry: Mapping[str, Any]) -> FileTensor:
    dtype, shape = _SAFETENSORS_FLOATS.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"])

    def read() -> Array:
        if entry["dtype"] not in _SAFETENSORS_FLOATS:
            raise ImportRefusedError(f"{name}: expected floating-point weights; got {dtype}")
        return _elements(bytes(entry["data"]), dtype, "<").reshape(shape)

    return FileTensor(dtype, shape, read)


@dataclass(frozen=True)
class Saved:
    """What ``torch.save`` saved: dicts, lists and plain values; and how to read the ``StoredTensor`` among them."""

    value: object
    tensor: Callable[[StoredTensor], FileTensor]


def read_torch_archive(source: Path) -> Saved:
    """Reads what ``torch.save`` saved.

    Raises:
        ImportRefusedError: the file is damaged, holds anything but tensors and plain values, or is a TorchScript
            program.
    """
    with Archive(source, stored_only=True) as archive:
        roots = [name.removesuffix("data.pkl") for name in archive.names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ImportRefusedError(
                f"{source.name}: expected one member data.pkl, as torch.save writes it; got {len(roots)}"
            )
        root = roots[0]
        if root + "constants.pkl" in archive.names:
            raise ImportRefusedError(
                f"{source.name}: it is a TorchScript program; expected the tensors of model.state_dict() alone"
            )
        order = archive.read(root + "byteorder", 16) if root + "byteorder" in archive.names else b"little"
        if order not in (b"little", b"big"):
            raise ImportRefusedError(f"{source.name}: byteorder: expected little or big; got {order!r}")
        data = archive.read(root + "data.pkl", MAX_PICKLE_BYTES)

    def storage_bytes(storage: StoredStorage) -> bytes:
        with Archive(source, stored_only=True) as again:
            return again.read(f"{root}data/{storage.key}", MAX_SOURCE_BYTES)

    value = read_pickle(BytesIO(data), f"{source.name}: data.pkl").value
    return Saved(value, _Storages(source.name, storage_bytes, "<" if order == b"little" else ">").tensor)


def read_legacy_file(source: Path) -> Saved:
    """Reads what ``torch.save`` of PyTorch before 1.6 saved; otherwise as ``read_torch_archive``.

    The file is five pickles (a magic number, a version, the machine's type sizes, the value, the storages' keys) and
    then each storage: its number of elements (int64), its elements.
    """
    require_source_file(source)
    stream = BytesIO(source.read_bytes())
    _, _, system, saved, keys = (read_pickle(stream, f"{source.name}: pickle {number}") for number in range(1, 6))
    little = isinstance(system.value, dict) and system.value.get("little_endian") is True
    if not little or not isinstance(keys.value, list):
        raise ImportRefusedError(f"{source.name}: expected a little-endian file and the keys of its storages")
    pieces: dict[str, bytes] = {}
    for key in keys.value:
        storage = saved.storages.get(key) if isinstance(key, str) else None
        if storage is None or int.from_bytes(stream.read(8), "little") != storage.elements:
            raise ImportRefusedError(f"{source.name}: a storage is missing or has another size than its tensors want")
        pieces[key] = stream.read(storage.elements * _item_size(storage.dtype))
    if saved.storages.keys() - pieces.keys():
        raise ImportRefusedError(f"{source.name}: a storage is missing at the end of the file")
    return Saved(saved.value, _Storages(source.name, lambda storage: pieces[storage.key], "<").tensor)


@dataclass(frozen=True)
class _Storages:
    """The storages of a file, and how to read one."""

    label: str
    read: Callable[[StoredStorage], bytes]
    order: Order

    def tensor(self, tensor: StoredTensor) -> FileTensor:
        """A tensor that can be read."""
        return FileTensor(tensor.storage.dtype, tensor.shape, partial(self._numbers, tensor))

    def _numbers(self, tensor: StoredTensor) -> Array:
        storage = tensor.storage
        elements = _elements(self.read(storage), storage.dtype, self.order)
        if len(elements) != storage.elements:
            raise ImportRefusedError(
                f"{self.label}: storage {storage.key}: expected {storage.elements} elements; got {len(elements)}"
            )
        # The offsets were checked against the storage when the pickle was read.
        strides = [step * elements.itemsize for step in tensor.stride]
        view = np.lib.stride_tricks.as_strided(elements[tensor.offset :], tensor.shape, strides, writeable=False)
        return np.ascontiguousarray(view)


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _elements(data: bytes, dtype: str, order: Order) -> Array:
    """The numbers of a piece of memory; bfloat16 is widened to the float32 that has the same value."""
    data = data[: len(data) // _item_size(dtype) * _item_size(dtype)]
    if dtype == "bfloat16":
        bits = np.frombuffer(data, np.dtype(np.uint16).newbyteorder(order))
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.dtype(dtype).newbyteorder(order))
