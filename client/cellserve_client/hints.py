"""What to do about a refused array, where the client knows it: words that are added to the errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from cellserve.errors import DtypeMismatchError, ShapeMismatchError
from cellserve.specs import ArraySpec
from cellserve.tensors import Array, require_dtype


def require_dtype_or_say_how(array: Array, dtype: npt.DTypeLike, field: str) -> None:
    """As ``require_dtype``; where a conversion keeps the meaning of the numbers the error says how to convert.

    Raises:
        DtypeMismatchError: the array has another element type.
    """
    due = np.dtype(dtype)
    try:
        require_dtype(array, due, field)
    except DtypeMismatchError as error:
        # Fractions become ids only by somebody's mistake.
        if array.dtype.kind in ("iu" if due.kind == "i" else "iuf"):
            raise DtypeMismatchError(f"{error.message}; use .astype(np.{due.name})", metadata=error.metadata) from None
        raise


@contextmanager
def batch_size_explained(
    batch_size: int | None, arrays: Sequence[Array], specs: Sequence[ArraySpec], leading: int
) -> Iterator[None]:
    """Within it, a shape that is refused for a batch dimension in a session without a batch size says so.

    Args:
        batch_size: the session's.
        arrays: what is given to it.
        specs: what a step of a row is.
        leading: how many dimensions stand in front of a step's own, without a batch dimension.
    """
    try:
        yield
    except ShapeMismatchError as error:
        extra = all(array.ndim == leading + 1 + len(spec.shape) for array, spec in zip(arrays, specs, strict=True))
        if batch_size is not None or not extra:
            raise
        raise ShapeMismatchError(
            f"{error.message}; this session was made without batch_size: its inputs have no batch dimension",
            metadata=error.metadata,
        ) from error
