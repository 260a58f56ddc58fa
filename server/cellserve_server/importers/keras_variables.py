"""The variables in a HDF5 file of Keras's, by path: ``lstm_1/cell/vars/0``. h5py is imported here alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from cellserve.tensors import Array
from cellserve_server.importers.base import ImportRefusedError

MAX_VARIABLES = 20_000
MAX_DEPTH = 12
MAX_PATH_CHARS = 500
# What holds the layers; the second name is that of files of TensorFlow 2.12.
_ROOTS = ("layers", "_layer_checkpoint_dependencies")


@dataclass(frozen=True)
class Variable:
    """A variable: its dtype by numpy's name (or ``bfloat16``) and its values; of float32 for bfloat16."""

    dtype: str
    values: Array


@dataclass(frozen=True)
class Variables:
    """The variables of a model's layers.

    Attributes:
        label: what the file is called in messages.
        by_path: each variable by its path within the layers.
        groups: the layers' groups, those without variables too, sorted.
        others: what else the file has: ``optimizer``.
    """

    label: str
    by_path: Mapping[str, Variable]
    groups: tuple[str, ...]
    others: tuple[str, ...]

    def of(self, path: str) -> list[str]:
        """The paths of the variables ``<path>/vars/0``, ``1``, ... in that order."""
        found: list[str] = []
        while f"{path}/vars/{len(found)}" in self.by_path:
            found.append(f"{path}/vars/{len(found)}")
        return found


def read_variables(data: bytes, label: str) -> Variables:
    """Reads all variables of the layers.

    Args:
        data: a whole HDF5 file.
        label: what it is called in messages.

    Raises:
        ImportRefusedError: h5py is not installed; or the file is damaged, is of another layout, leads to other files,
            or holds arrays that are larger than what is stored.
    """
    try:
        h5py: Any = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise ImportRefusedError(
            "reading files of Keras needs the package h5py, which is not installed; it comes with "
            "cellserve-server[keras]"
        ) from error
    try:
        with h5py.File(BytesIO(data), "r") as file:
            return _read(h5py, file, label, len(data))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ImportRefusedError(
            f"{label}: expected a HDF5 file; it is damaged or cut short: {str(error)[:300]}"
        ) from error


def _read(h5py: Any, file: Any, label: str, file_bytes: int) -> Variables:
    root = next((name for name in _ROOTS if name in file), None)
    if root is None:
        if {"layer_names", "model_config"} & set(file.attrs) or "model_weights" in file:
            raise ImportRefusedError(
                f"{label}: a file of Keras's old layout (model.save to .h5, save_weights before Keras 3); load it in "
                "Keras and save it as .keras"
            )
        raise ImportRefusedError(
            f"{label}: expected a group 'layers', as a Sequential or Functional model is saved; got "
            f"{', '.join(sorted(file))[:300] or 'nothing'}"
        )
    variables: dict[str, Variable] = {}
    stored = 0
    for path, dataset in _datasets(h5py, file[root], label):
        variable = _variable(dataset, f"{label}: {path}")
        stored += dataset.nbytes
        if len(variables) >= MAX_VARIABLES or stored > file_bytes:
            raise ImportRefusedError(f"{label}: its variables are more than the file's {file_bytes} bytes can hold")
        variables[path] = variable
    others = tuple(sorted(name for name in file if name not in (root, "vars")))
    return Variables(label, variables, tuple(sorted(file[root])), others)


def _datasets(h5py: Any, root: Any, label: str) -> Iterator[tuple[str, Any]]:
    """All datasets below a group, by hard links alone, so that no other file is ever opened."""
    waiting = [("", root, 0)]
    seen = 0
    while waiting:
        prefix, group, depth = waiting.pop()
        for name in group:
            seen += 1
            path = f"{prefix}{name}"
            if depth >= MAX_DEPTH or len(path) > MAX_PATH_CHARS or seen > 10 * MAX_VARIABLES:
                raise ImportRefusedError(f"{label}: {path[:MAX_PATH_CHARS]}: nested too deeply, or too many groups")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ImportRefusedError(f"{label}: {path}: expected no links")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                yield path, item
            else:
                waiting.append((f"{path}/", item, depth + 1))


def _variable(dataset: Any, name: str) -> Variable:
    """A variable that is stored as Keras stores it: plainly, one byte in the file for one in memory."""
    plain = dataset.chunks is None and dataset.external is None and not dataset.is_virtual
    if not plain or dataset.id.get_storage_size() != dataset.nbytes:
        raise ImportRefusedError(f"{name}: expected an array stored plainly, as Keras stores it")
    if dataset.attrs.get("dtype") == "bfloat16" and dataset.dtype.itemsize == 2:
        bits = np.frombuffer(np.ascontiguousarray(dataset[()]).tobytes(), np.uint16)
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        return Variable("bfloat16", values.reshape(dataset.shape))
    if dataset.dtype.kind not in "fiub":
        raise ImportRefusedError(f"{name}: expected numbers; got {dataset.dtype}")
    return Variable(dataset.dtype.name, np.asarray(dataset[()]))
