"""Running an imported model in the process, and writing the files that tests import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from cellserve.tensors import Array
from cellserve_server.cells import build_network
from cellserve_server.importers.base import ImportedModel, Settings

TOLERANCE = 1e-5


def settings(**values: str) -> Settings:
    """Options as a user gives them."""
    return Settings(values)


def run(
    model: ImportedModel, inputs: Array, lengths: Sequence[int] | None = None, leaves: Sequence[Array] | None = None
) -> tuple[Array, list[Array]]:
    """Outputs ``[batch, time, size]`` and final leaves, from zeros unless leaves are given."""
    network = build_network(model.description, model.weights)
    rows, time = inputs.shape[:2]
    if leaves is None:
        leaves = [np.zeros((rows, size), network.dtype) for size in network.leaf_sizes]
    every = np.full(rows, time) if lengths is None else np.array(lengths)
    (outputs,), after = network.run([inputs], every.astype(np.int64), leaves)
    return outputs, after


def assert_close(got: Array, want: Array) -> None:
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def save_safetensors(path: Path, arrays: Mapping[str, Array]) -> Path:
    """Writes arrays as PyTorch users' files are."""
    path.write_bytes(safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    return path


def options_taken(model: ImportedModel) -> dict[str, str]:
    """The assumptions' values by option."""
    return {assumption.option: assumption.value for assumption in model.assumptions}


def noise(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Numbers around 0, of float32."""
    return np.random.default_rng((seed, *shape)).normal(0, 0.5, shape).astype(np.float32)


def damaged(data: bytes, changes: Sequence[tuple[float, int]]) -> bytes:
    """Bytes with some of them overwritten, each at a share of the length; and cut there where the value is 256."""
    changed = bytearray(data)
    for share, value in changes:
        position = int(share * (len(changed) - 1))
        if value < 256:
            changed[position] = value
        else:
            del changed[position:]
            changed += b"\0"
    return bytes(changed)
