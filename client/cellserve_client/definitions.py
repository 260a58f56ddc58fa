"""Making a model of a cell that the client describes: DefineModel, with weights in chunks or a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration

from cellserve.cells import CellDescription, ResidualWrapper, Variable
from cellserve.errors import DtypeMismatchError, FieldInvalidError, ShapeMismatchError
from cellserve.specs import describe, model_to_proto
from cellserve.tensors import Array, tensor_from_array, tensor_spec_of
from cellserve.v1 import model_service_pb2
from cellserve_client.arrays import as_array

# With the message's own fields it stays below 1 MiB, far from every usual limit.
CHUNK_BYTES = 1_000_000
MAX_SEED = (1 << 64) - 1
# Ids are scalars: nothing in a cell depends on this width.
WIDTH_OF_IDS = 0
Weights = Mapping[str, npt.ArrayLike]


class Definition:
    """A cell with its weights or its seed, ready to be defined for an input width.

    Args:
        cell: what it is.
        seed: the server draws the weights from it; None with ``weights``, 0 when neither is given.
        weights: arrays under TensorFlow's variable names.
        dtype: float32 or float64; None: that of the weights, float32 without.
        ttl_s: how long the model stays unused, in seconds; None: the server's default.

    Raises:
        InvalidArgumentError: seed and weights together, or a value out of its range or of the wrong type.
    """

    def __init__(
        self,
        cell: CellDescription,
        *,
        seed: int | None,
        weights: Weights | None,
        dtype: npt.DTypeLike | None,
        ttl_s: float | None,
    ) -> None:
        if not isinstance(cell, CellDescription):
            raise FieldInvalidError(f"cell: expected a cell, such as rnn.BasicLSTMCell(128); got {cell!r}")
        if seed is not None and weights is not None:
            raise FieldInvalidError("seed: expected none together with weights; give one of the two")
        if weights is not None and (not isinstance(weights, Mapping) or not weights):
            raise FieldInvalidError("weights: expected a mapping from TensorFlow's variable names to arrays")
        self.cell = cell
        self.seed = 0 if seed is None else _checked_seed(seed)
        self.dtype = _model_dtype(dtype, weights)
        self.ttl = duration(ttl_s, "ttl_s")
        self.weights = None if weights is None else _checked_weights(weights, self.dtype)

    def input_size(self) -> int | None:
        """The input width that the weights were made for, 0 for a cell on ids; None without weights.

        Raises:
            InvalidArgumentError: the kernel that tells it is missing or has another shape.
        """
        return None if self.weights is None else input_size_of(self.cell, self.weights)

    def requests(self, input_size: int) -> Iterator[model_service_pb2.DefineModelRequest]:
        """The messages of one DefineModel: the header, then the weights in chunks."""
        header = model_service_pb2.DefineModelHeader(
            spec=model_to_proto(describe(self.cell, input_size, self.dtype)), ttl=self.ttl
        )
        if self.weights is None:
            header.seed = self.seed
        else:
            header.listed.SetInParent()
            header.listed.variables.extend(tensor_spec_of(name, array) for name, array in self.weights.items())
        yield model_service_pb2.DefineModelRequest(header=header)
        for name, array in (self.weights or {}).items():
            data = tensor_from_array(array, name).data
            for start in range(0, len(data), CHUNK_BYTES):
                chunk = model_service_pb2.WeightChunk(variable=name, data=data[start : start + CHUNK_BYTES])
                yield model_service_pb2.DefineModelRequest(chunk=chunk)


def input_size_of(cell: CellDescription, weights: Mapping[str, Array]) -> int:
    """Reads the input width off the first kernel: a kernel has a row for every input and some that the cell adds.

    It is 0 for a cell on ids.

    Raises:
        FieldInvalidError: the kernel is missing. ShapeMismatchError: it is no matrix, or has too few rows.
    """
    if cell.takes_ids():
        return WIDTH_OF_IDS
    scope = f"{cell.scope()}/" if cell.scope() else ""
    while (kernel := _kernel_on_inputs(cell)) is None:
        # A residual cell says itself how wide its inputs are, and gives out its inner cell for no other width.
        use = next(cell.inner_uses(cell.output_size if isinstance(cell, ResidualWrapper) else 1, scope))
        cell = use.cell
        scope = f"{use.prefix}{cell.scope()}/" if cell.scope() else use.prefix
    name, added_rows = scope + kernel.name, kernel.shape[0] - 1
    # A common scope may stand in front of all names, as dynamic_rnn's `rnn/`.
    found = next((array for key, array in weights.items() if key == name or key.endswith(f"/{name}")), None)
    if found is None:
        raise FieldInvalidError(f"weights: expected a variable {name!r}; got {sorted(weights)}")
    if found.ndim != 2 or found.shape[0] <= added_rows:
        raise ShapeMismatchError(
            f"weights[{name!r}]: expected shape [input_size + {added_rows}, {kernel.shape[1]}]; got {list(found.shape)}"
        )
    return int(found.shape[0]) - added_rows


def _kernel_on_inputs(cell: CellDescription) -> Variable | None:
    """The first variable of a cell itself that grows with the inputs' width, as it is for width 1."""
    narrow, wide = cell.own_variables(1), cell.own_variables(2)
    return next((one for one, two in zip(narrow, wide, strict=True) if one.shape != two.shape), None)


def duration(seconds: float | None, field: str) -> Duration | None:
    """Packs seconds; None stays None.

    Raises:
        FieldInvalidError: not a number of seconds above 0.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 3.15e11:
        raise FieldInvalidError(f"{field}: expected seconds above 0; got {seconds!r}")
    packed = Duration()
    packed.FromNanoseconds(round(seconds * 1e9))
    return packed


def _model_dtype(dtype: npt.DTypeLike | None, weights: Weights | None) -> np.dtype[Any]:
    if dtype is None:
        arrays = [value for value in (weights or {}).values() if isinstance(value, (np.ndarray, np.generic))]
        dtype = arrays[0].dtype if arrays else np.float32
    found = np.dtype(dtype)
    if found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise DtypeMismatchError(f"dtype: expected float32 or float64; got {found.name}")
    return found.newbyteorder("=")


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= MAX_SEED:
        raise FieldInvalidError(f"seed: expected an integer from 0 to 2**64 - 1; got {seed!r}")
    return int(seed)


def _checked_weights(weights: Weights, dtype: np.dtype[Any]) -> dict[str, Array]:
    # Copies: the model is made later, and perhaps again, of the values that it was described with.
    return {str(name): as_array(value, dtype, f"weights[{name!r}]").copy() for name, value in weights.items()}
