"""Whole sequences with one length per row: the meaning of TF1's ``dynamic_rnn``.

Rows that are past their length are never computed: what stands in their padding, NaN say, reaches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cellserve.tensors import Array
from cellserve_server.cells.cell import Cell


def go_on() -> None:
    """What is asked before each step when nobody wants to stop a sequence."""


def run_steps(
    cell: Cell, sequence: Array, lengths: Array, leaves: Sequence[Array], before_step: Callable[[], None] = go_on
) -> tuple[Array, list[Array]]:
    """Runs a cell over sequences.

    Args:
        cell: the cell.
        sequence: ``[batch, time, depth]`` (``[batch, time]`` ids for an embedding).
        lengths: int64 ``[batch]``, each from 0 to time.
        leaves: the state, ``[batch, size]`` each.
        before_step: called before each step; what it raises ends the sequence.

    Returns:
        Outputs ``[batch, time, output_size]``, exactly 0 past each row's length, and the leaves as each row's own last
        step left them (a row of length 0 keeps its own). All are freshly made.
    """
    rows, steps = sequence.shape[:2]
    assert rows == 0 or (lengths.min() >= 0 and lengths.max() <= steps), "lengths are clipped before they come here"
    current = [leaf.copy() for leaf in leaves]
    dtype = current[0].dtype
    outputs = np.zeros((rows, steps, cell.output_size), dtype)
    for step in range(int(lengths.max(initial=0))):
        before_step()
        alive = np.flatnonzero(lengths > step)
        if len(alive) == rows:
            outputs[:, step], current = cell.step(sequence[:, step], current)
            continue
        output, after = cell.step(sequence[alive, step], [leaf[alive] for leaf in current])
        outputs[alive, step] = output
        for leaf, values in zip(current, after, strict=True):
            leaf[alive] = values
    return outputs, current


def reverse_rows(sequence: Array, lengths: Array) -> Array:
    """A copy with each row reversed within its own length; the padding stays where it is (``tf.reverse_sequence``)."""
    steps = np.arange(sequence.shape[1])
    ends = lengths[:, np.newaxis]
    order = np.where(steps < ends, ends - 1 - steps, steps)
    reversed_rows: Array = sequence[np.arange(sequence.shape[0])[:, np.newaxis], order]
    return reversed_rows


def zero_padding(sequence: Array, lengths: Array) -> None:
    """Sets ``[batch, time, ...]`` to exactly 0 past each row's length, in place."""
    sequence[np.arange(sequence.shape[1]) >= lengths[:, np.newaxis]] = 0
