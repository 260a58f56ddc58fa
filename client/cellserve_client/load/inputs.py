"""What the sessions of a test are stepped with: random arrays, or those of a file, round and round."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellserve.errors import FieldInvalidError
from cellserve.specs import ArraySpec
from cellserve.tensors import Array
from cellserve_client.arrays import Inputs
from cellserve_client.models import ModelInfo

RANDOM_STEPS = 512
MAX_FILE_BYTES = 1 << 30
# Files that hold one array, for models of one input.
_SINGLE = (".npy", ".csv")


class InputSource:
    """Steps that are played round.

    Args:
        specs: the model's inputs.
        arrays: ``[steps, ...]`` for each of them.
        is_random: whether sessions may begin anywhere; in a file they begin at its first step.
    """

    def __init__(self, specs: Sequence[ArraySpec], arrays: Sequence[Array], is_random: bool) -> None:
        self._names = [spec.name for spec in specs]
        self._arrays = [np.ascontiguousarray(array) for array in arrays]
        self._is_random = is_random
        self.steps = len(self._arrays[0])

    def first(self, random: np.random.Generator) -> int:
        """At which step a session begins."""
        return int(random.integers(self.steps)) if self._is_random else 0

    def step(self, number: int) -> Inputs:
        """The inputs of one step."""
        place = number % self.steps
        if len(self._arrays) == 1:
            return self._arrays[0][place, ...]
        return {name: array[place, ...] for name, array in zip(self._names, self._arrays, strict=True)}

    def sequence(self, number: int, length: int) -> Inputs:
        """The inputs of so many steps, ``[length, ...]``, from one on."""
        places = np.arange(number, number + length) % self.steps
        if len(self._arrays) == 1:
            return self._arrays[0][places]
        return {name: array[places] for name, array in zip(self._names, self._arrays, strict=True)}


def random_inputs(info: ModelInfo, random: np.random.Generator) -> InputSource:
    """Normal numbers, or ids where the model takes ids."""

    def draw(spec: ArraySpec) -> Array:
        shape = (RANDOM_STEPS, *spec.shape)
        if spec.dtype.kind == "i":
            return np.asarray(random.integers(0, info.vocabulary_size or 1, shape), spec.dtype)
        return np.asarray(random.standard_normal(shape), spec.dtype)

    return InputSource(info.inputs, [draw(spec) for spec in info.inputs], is_random=True)


def read_inputs(path: Path, info: ModelInfo) -> InputSource:
    """Reads ``.npy`` or ``.csv`` (a row for each step) for a model of one input, or ``.npz`` with an array for each.

    Raises:
        FieldInvalidError: the file cannot be read, or does not fit the model.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FieldInvalidError(f"inputs: expected a file of at most {MAX_FILE_BYTES} bytes; {path} has {size}")
        found = _read_arrays(path, info)
    except FieldInvalidError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FieldInvalidError(f"inputs: {path} cannot be read: {error}") from error
    names = [spec.name for spec in info.inputs]
    if set(found) != set(names):
        raise FieldInvalidError(
            f"inputs: expected an array for each of {', '.join(names)}, the inputs of {info.resource_name}; "
            f"{path} has {', '.join(found) or 'none'}"
        )
    arrays = [_fitting(found[spec.name], spec, info, path) for spec in info.inputs]
    if len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
        counts = ", ".join(str(len(array)) for array in arrays)
        raise FieldInvalidError(f"inputs: expected arrays of as many steps each, at least one; {path} has {counts}")
    return InputSource(info.inputs, arrays, is_random=False)


def _read_arrays(path: Path, info: ModelInfo) -> dict[str, Array]:
    suffix = path.suffix.lower()
    if suffix in _SINGLE and len(info.inputs) > 1:
        names = ", ".join(spec.name for spec in info.inputs)
        raise FieldInvalidError(f"inputs: expected a .npz with {names}; {path} has room for one input")
    if suffix == ".npy":
        return {info.inputs[0].name: np.asarray(np.load(path, allow_pickle=False))}
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    if suffix == ".csv":
        width = len(info.inputs[0].shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # That there is nothing in it: the caller refuses it.
            table = np.loadtxt(path, delimiter=",", comments="#", ndmin=1 if width == 0 else 2)
        return {info.inputs[0].name: table}
    raise FieldInvalidError(f"inputs: expected a file that ends in .npy, .npz or .csv; got {path}")


def _fitting(array: Array, spec: ArraySpec, info: ModelInfo, path: Path) -> Array:
    """The array in the type that the model takes, if it can be had without loss of meaning."""
    if array.ndim == 0 or array.shape[1:] != tuple(spec.shape):
        expected = ", ".join(["steps", *map(str, spec.shape)])
        raise FieldInvalidError(
            f"inputs: expected [{expected}] for {spec.name!r} of {info.resource_name}; {path} has {list(array.shape)}"
        )
    if array.dtype.kind not in "biuf":
        raise FieldInvalidError(f"inputs: expected numbers for {spec.name!r}; {path} has {array.dtype.name}")
    if spec.dtype.kind == "f":
        return array.astype(spec.dtype)
    highest = (info.vocabulary_size or np.iinfo(spec.dtype).max + 1) - 1
    if array.size and (np.any(array != np.trunc(array)) or array.min() < 0 or array.max() > highest):
        raise FieldInvalidError(f"inputs: expected ids, whole numbers from 0 to {highest}, for {spec.name!r} in {path}")
    return array.astype(spec.dtype)
