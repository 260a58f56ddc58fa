"""A session's state in numbers that fit on a line: for each part its size, its spread, and how its values lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cellserve.states import LSTMStateTuple, NestedState
from cellserve.tensors import Array

HISTOGRAM_BINS = 24


@dataclass(frozen=True)
class StatePart:
    """One array of a state.

    Attributes:
        name: ``c`` and ``h`` of an LSTM, ``state`` of another cell; with the number of its layer in front in a stack.
        shape: ``(rows, units)``.
        norm: the Euclidean norm of all values that are finite.
        minimum, mean, maximum: of these; 0 when there is none.
        unusable: how many are not finite.
        histogram: how many of them lie in each of equal ranges from the minimum to the maximum.
    """

    name: str
    shape: tuple[int, ...]
    norm: float
    minimum: float
    mean: float
    maximum: float
    unusable: int
    histogram: tuple[int, ...]


def parts_of(state: NestedState) -> Iterator[StatePart]:
    """The parts of a state, in the order of its layers."""
    for name, array in _named(state, ""):
        values = array.astype(np.float64)
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        # Of shares of the greatest: squares and differences of huge values would be infinite.
        greatest = max(abs(low), abs(high)) or 1.0
        shares = finite / greatest
        yield StatePart(
            name,
            array.shape,
            norm=greatest * float(np.sqrt(np.square(shares).sum())),
            minimum=low,
            mean=greatest * float(shares.mean()) if finite.size else 0.0,
            maximum=high,
            unusable=int(values.size - finite.size),
            histogram=_histogram(shares, low / greatest, high / greatest),
        )


def _histogram(values: Array, low: float, high: float) -> tuple[int, ...]:
    # numpy's own refuses values that are hardly apart, as those of a cell that is saturated.
    span = high - low or 1.0
    ranges = np.minimum((values - low) / span * HISTOGRAM_BINS, HISTOGRAM_BINS - 1).astype(np.int64)
    return tuple(np.bincount(ranges, minlength=HISTOGRAM_BINS).tolist())


def _named(state: NestedState, prefix: str) -> Iterator[tuple[str, Array]]:
    if isinstance(state, LSTMStateTuple):
        for name, part in zip(("c", "h"), state, strict=True):
            yield from _named(part, f"{prefix}{name}.")
    elif isinstance(state, tuple):
        for index, part in enumerate(state):
            yield from _named(part, f"{prefix}{index}.")
    else:
        yield prefix.rstrip(".") or "state", state
