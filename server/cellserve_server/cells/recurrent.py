"""What recurrent cells have in common: a part that looks at the inputs alone, and the step that follows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from cellserve.tensors import Array
from cellserve_server.cells.kernels import Affine, Kernel
from cellserve_server.cells.sequences import BeforeStep, Packing
from cellserve_server.cells.workspace import MAX_ROWS, Memory, Workspace

# How many rows of inputs, of one step or of several, are projected at once; of one step all are. More is no faster, and
# up to about here each product of common sizes is a small one (``kernels.py``): 7 % faster than of twice the rows.
_PROJECTED_ROWS = 128


class RecurrentCell(ABC):
    """A cell in two parts: ``project`` takes the inputs of many steps at once, ``advance`` moves the state one step on.

    Its output is the last leaf of its new state.

    Args:
        leaf_sizes: as in ``Cell``.
        projected: how many parts ``project`` gives, and how wide they are.
        weights: any array of the cell, for the dtype.
    """

    def __init__(self, leaf_sizes: tuple[int, ...], projected: tuple[int, int], weights: Array) -> None:
        self.leaf_sizes = leaf_sizes
        self.output_size = leaf_sizes[-1]
        self._dtype = weights.dtype
        parts, width = projected
        self._block = Workspace(self._dtype, lambda memory, rows: memory.array(parts, rows, width))

    @abstractmethod
    def project(self, inputs: Array, out: Array) -> None:
        """Writes what the inputs alone decide.

        Args:
            inputs: ``[rows, depth]``, of any steps; up to ``MAX_ROWS`` rows.
            out: ``[parts, rows, width]``.
        """

    @abstractmethod
    def advance(self, projected: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
        """One step.

        Args:
            projected: what ``project`` gave for the step's inputs, ``[parts, rows, width]``; may be overwritten.
            before: the leaves, ``[rows, size]`` each.
            after: where the new leaves go; ``before`` itself will do.
        """

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        """As ``Cell.step``."""
        rows = len(inputs)
        after = [np.empty((rows, size), self._dtype) for size in self.leaf_sizes]
        if rows <= MAX_ROWS:
            self._step(inputs, leaves, after)
        else:
            for start in range(0, rows, MAX_ROWS):
                part = slice(start, start + MAX_ROWS)
                self._step(inputs[part], [leaf[part] for leaf in leaves], [leaf[part] for leaf in after])
        return after[-1], after

    def run(
        self, packed: Array, packing: Packing, leaves: Sequence[Array], before_step: BeforeStep
    ) -> tuple[Array, list[Array]]:
        """As ``run_cell``; for up to ``MAX_ROWS`` sequences."""
        after = [leaf.copy() for leaf in leaves]
        outputs = np.empty((len(packed), self.output_size), self._dtype)
        bounds = packing.bounds
        active = after
        for steps in packing.blocks(_PROJECTED_ROWS):
            first, last = bounds[steps.start], bounds[steps.stop]
            projected = self._block.for_rows(last - first)
            self.project(packed[first:last], projected)
            for step in steps:
                before_step()
                start, stop = bounds[step], bounds[step + 1]
                if stop - start < len(active[0]):
                    active = [leaf[: stop - start] for leaf in after]
                self.advance(projected[:, start - first : stop - first], active, active)
                outputs[start:stop] = active[-1]
        return outputs, after

    def _step(self, inputs: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
        """One step of up to ``MAX_ROWS`` rows; ``after`` is freshly made."""
        projected = self._block.for_rows(len(inputs))
        self.project(inputs, projected)
        self.advance(projected, before, after)


class Sums:
    """What is multiplied in a step and what comes of it, for some rows.

    Attributes:
        x, h: where inputs and state go.
        joined: ``[rows, depth + 1 + h]``: x, a one for the bias, and h.
        all: the sums, ``[parts, rows, width]``.
        parts: the same, part by part.
    """

    def __init__(self, memory: Memory, rows: int, sizes: tuple[int, int], parts: tuple[int, int]) -> None:
        depth, hidden = sizes
        self.joined = memory.array(rows, depth + 1 + hidden)
        self.joined[:, depth] = 1
        self.x, self.h = self.joined[:, :depth], self.joined[:, depth + 1 :]
        self.all = memory.array(parts[0], rows, parts[1])
        self.parts = tuple(self.all)


class JoinedCell(RecurrentCell):
    """A cell that begins with ``[x, h] kernel + bias``, where h is its last leaf, and goes on element by element.

    Args:
        leaf_sizes: as in ``Cell``.
        kernel: ``[depth + h, parts * width]``, the parts side by side.
        bias: ``[parts * width]``.
        parts: how many parts there are.
        order: in which order ``finish`` wants them.
        scales: what each of them, in that order, is multiplied by; see ``HALF_FOR_SIGMOID``.
    """

    def __init__(
        self,
        leaf_sizes: tuple[int, ...],
        kernel: Array,
        bias: Array,
        order: Sequence[int] = (0,),
        scales: Sequence[float] | None = None,
    ) -> None:
        hidden, parts = leaf_sizes[-1], len(order)
        depth, width = len(kernel) - hidden, len(bias) // parts
        super().__init__(leaf_sizes, (parts, width), kernel)
        self._joined = Kernel(joined_kernel(kernel, bias, depth, order, scales))
        self._inputs = Affine(self._joined.rows(0, depth + 1), depth, kernel.dtype)
        self._hidden = self._joined.rows(depth + 1)
        self._sums = Workspace(kernel.dtype, lambda memory, rows: Sums(memory, rows, (depth, hidden), (parts, width)))

    @abstractmethod
    def finish(self, sums: Sums, before: Sequence[Array], after: Sequence[Array]) -> None:
        """What follows the sums. They may be overwritten; ``before`` and ``after`` as in ``advance``."""

    def project(self, inputs: Array, out: Array) -> None:
        """As ``RecurrentCell.project``."""
        self._inputs.apply(inputs, out)

    def advance(self, projected: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
        """As ``RecurrentCell.advance``."""
        sums = self._sums.for_rows(projected.shape[1])
        self._hidden.multiply(before[-1], sums.all)
        np.add(sums.all, projected, sums.all)
        self.finish(sums, before, after)

    def _step(self, inputs: Array, before: Sequence[Array], after: Sequence[Array]) -> None:
        # A lone step joins x and h: one product of both is some 5 % faster than one of each.
        sums = self._sums.for_rows(len(inputs))
        sums.x[...] = inputs
        sums.h[...] = before[-1]
        self._joined.multiply(sums.joined, sums.all)
        self.finish(sums, before, after)


def joined_kernel(
    kernel: Array, bias: Array, depth: int, order: Sequence[int], scales: Sequence[float] | None = None
) -> Array:
    """Lays out a kernel and its bias part by part.

    Args:
        kernel: ``[depth + h, parts * width]``, the parts side by side; h may be 0.
        bias: ``[parts * width]``.
        depth: the width of x.
        order: which part comes first, second and so on; some may be left out.
        scales: what each part, in that order, is multiplied by.

    Returns:
        ``[parts, depth + 1 + h, width]``; the bias is the row between those of x and of h.
    """
    rows = np.concatenate((kernel[:depth], bias[np.newaxis], kernel[depth:]))
    width = rows.shape[1] // (max(order) + 1)
    parts = np.stack([rows[:, part * width : (part + 1) * width] for part in order])
    if scales is not None:
        parts *= np.array(scales, parts.dtype)[:, np.newaxis, np.newaxis]
    return parts
