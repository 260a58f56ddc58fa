"""Whole sequences with one length per row: the meaning of TF1's ``dynamic_rnn``.

Rows that are past their length are never computed: what stands in their padding, NaN say, reaches nothing. For that
sequences are *packed*, step after step without the padding, the longest rows first (as PyTorch's ``PackedSequence``).
The rows of a step that go on are then always the first ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from cellserve.tensors import Array
from cellserve_server.cells.cell import Cell

BeforeStep: TypeAlias = Callable[[], None]


def go_on() -> None:
    """What is asked before each step when nobody wants to stop a sequence."""


class Packing:
    """Where each step of each row stands in packed sequences.

    Args:
        lengths: int64 ``[batch]``, none negative.

    Attributes:
        order: the rows of the batch in the order of the packed rows, ``[batch]``: the longest first.
        bounds: where each step begins, and the end: ``bounds[t]`` to ``bounds[t + 1]`` are the rows of step t.
    """

    def __init__(self, lengths: Array) -> None:
        assert lengths.min(initial=0) >= 0, "lengths are clipped before they come here"
        self.order: Array = np.argsort(-lengths, kind="stable")
        self._lengths: Array = lengths[self.order]
        self._steps = int(lengths.max(initial=0))
        # Row r goes on at step t while its length is more than t; so many rows, of the sorted ones, are first.
        self._sizes: Array = len(lengths) - np.searchsorted(self._lengths[::-1], np.arange(self._steps), side="right")
        self.bounds: list[int] = [0, *np.cumsum(self._sizes).tolist()]

    def pack(self, sequences: Array) -> Array:
        """``[batch, time, ...]`` packed: ``[total, ...]``. It may share memory with the sequences."""
        if self._is_full:
            turned = sequences[:, : self._steps].swapaxes(0, 1)
            return turned.reshape(self.bounds[-1], *sequences.shape[2:])
        return sequences[self._rows, self._times]

    def unpack(self, packed: Array, time: int) -> Array:
        """Sequences ``[batch, time, ...]`` of packed ones, freshly made; exactly 0 past each row's length."""
        rows = len(self.order)
        sequences = np.zeros((rows, time, *packed.shape[1:]), packed.dtype)
        if self._is_full:
            sequences[:, : self._steps] = packed.reshape(self._steps, rows, *packed.shape[1:]).swapaxes(0, 1)
        else:
            sequences[self._rows, self._times] = packed
        return sequences

    @cached_property
    def reversal(self) -> Array:
        """Where in the packed rows each step of the row reversed within its own length is (``tf.reverse_sequence``)."""
        starts = np.array(self.bounds[:-1], np.intp)
        mirrored = self._lengths[self._positions] - 1 - self._times
        index: Array = starts[mirrored] + self._positions
        return index

    def blocks(self, rows: int) -> Iterator[range]:
        """The steps cut into ranges of at most so many packed rows, but of one step at least."""
        first = 0
        for step in range(1, self._steps + 1):
            if step == self._steps or self.bounds[step + 1] - self.bounds[first] > rows:
                yield range(first, step)
                first = step

    @cached_property
    def _is_full(self) -> bool:
        """Whether all rows have the same length; they are then packed in their own order."""
        return len(self.order) > 0 and self.bounds[-1] == self._steps * len(self.order)

    @cached_property
    def _times(self) -> Array:
        """The step of each packed row."""
        return np.repeat(np.arange(self._steps), self._sizes)

    @cached_property
    def _positions(self) -> Array:
        """For each packed row, which of the sorted rows it is of."""
        return np.arange(self.bounds[-1]) - np.repeat(np.array(self.bounds[:-1], np.intp), self._sizes)

    @property
    def _rows(self) -> Array:
        """The row of the batch that each packed row is of."""
        rows: Array = self.order[self._positions]
        return rows


@runtime_checkable
class SequenceRunner(Protocol):
    """A cell with a way of its own over many steps, faster than step after step."""

    def run(
        self, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """As ``run_cell``."""
        ...


def run_cell(
    cell: Cell, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
) -> tuple[Array, list[Array]]:
    """Runs a cell over packed sequences.

    Args:
        cell: the cell; a ``SequenceRunner`` goes its own way, any other step after step.
        packed: the inputs, ``[total, depth]`` (``[total]`` ids for an embedding).
        packing: where each row's steps are.
        leaves: the state, ``[batch, size]`` each, in the packing's order of rows.
        before_step: called before each step; what it raises ends the run.

    Returns:
        Outputs ``[total, output_size]`` and the leaves as each row's own last step left them (a row of length 0 keeps
        its own). All are freshly made.
    """
    if isinstance(cell, SequenceRunner):
        return cell.run(packed, packing, leaves, before_step)
    after = [leaf.copy() for leaf in leaves]
    outputs = np.empty((len(packed), cell.output_size), after[0].dtype)
    for start, stop in zip(packing.bounds, packing.bounds[1:], strict=False):
        before_step()
        active = [leaf[: stop - start] for leaf in after]
        outputs[start:stop], new_leaves = cell.step(packed[start:stop], active)
        for leaf, values in zip(active, new_leaves, strict=True):
            leaf[...] = values
    return outputs, after
