"""Sequences turned round for a cell that reads them from their ends, each row within its own length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cellserve.errors import InvalidArgumentError
from cellserve.tensors import Array
from cellserve_client.arrays import as_lengths


def reversed_rows(array: Array, lengths: Array | None) -> Array:
    """Reverses the first ``lengths[row]`` steps of each row and leaves the others: ``tf.reverse_sequence``.

    Done twice it gives the array again.

    Args:
        array: ``[batch, time, ...]``.
        lengths: int64 ``[batch]``, each 0 to time; None: all steps.
    """
    if lengths is None:
        return array[:, ::-1]
    rows, steps = array.shape[:2]
    time = np.arange(steps)
    source = np.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    turned: Array = array[np.arange(rows)[:, None], source]
    return turned


def lengths_to_reverse(value: npt.ArrayLike, rows: int, steps: int) -> Array:
    """Lengths as int64 ``[rows]``; unlike those of dynamic_rnn each has to be 0 to ``steps``, as in TensorFlow.

    Raises:
        InvalidArgumentError: not a vector of numbers, one for each row, or one out of this range.
    """
    lengths = as_lengths(value, rows, steps, negative_is_zero=False, field="sequence_length")
    whole = np.trunc(np.asarray(value))
    if np.any(whole > steps):
        row = int(np.argmax(whole > steps))
        raise InvalidArgumentError(
            f"sequence_length[{row}]: expected at most {steps}, the number of steps; got {whole[row]:g}"
        )
    return lengths
