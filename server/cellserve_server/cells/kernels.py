"""Kernels laid out for the products of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellserve.tensors import Array
from cellserve_server.cells.workspace import Memory, Workspace

# Up to this many multiplications OpenBLAS, on processors with AVX-512, multiplies the operands as they lie; beyond it
# repacks the whole kernel first, which for 2 to 15 rows costs two to five times the product (its
# sgemm_small_kernel_permit_skylakex.c). Elsewhere products that are cut to it cost about what they cost whole.
_SMALL_PRODUCT = 1_000_000
_PANEL_WIDTH = 64
# Panels of kernels up to this width are read where they are; of wider ones a row's next panel lies pages away, and a
# copy with each panel in one piece is worth its memory.
_WIDEST_SHARED = 256


class _Panels:
    """A kernel cut into panels of equal width: ``[parts, count, depth, width]``, or with more axes of counts."""

    def __init__(self, weights: Array) -> None:
        self.weights = weights
        self.width = int(weights.shape[-1])
        self._counts = weights.shape[1:-2]
        last = len(self._counts) + 2
        self._rows_inside = (0, *range(2, last), 1, last)

    def rows(self, start: int, stop: int) -> _Panels:
        """The panels of some inputs alone."""
        return _Panels(self.weights[..., start:stop, :])

    def parts(self, start: int, stop: int) -> _Panels:
        """The panels of some parts alone."""
        return _Panels(self.weights[start:stop])

    def multiply(self, x: Array, out: Array) -> None:
        """As ``Kernel.multiply``, panel by panel."""
        parts, rows, _ = out.shape
        cut = out.reshape(parts, rows, *self._counts, self.width).transpose(self._rows_inside)
        np.matmul(x, self.weights, out=cut)


class Kernel:
    """Several matrices of one shape, side by side in a checkpoint, here one after the other.

    Each of them gives a contiguous result (a gate), on which functions run two to four times as fast as on columns
    of a wider array.

    Args:
        weights: ``[parts, depth, width]``; kept, and not to be changed afterwards.
        panels: the same cut into panels; made here when None. Wide kernels are copied for it.
    """

    def __init__(self, weights: Array, panels: Sequence[_Panels] | None = None) -> None:
        self._weights = weights
        self._panels = tuple(_cut(weights) if panels is None else panels)

    def rows(self, start: int, stop: int | None = None) -> Kernel:
        """The kernel of inputs ``start`` to ``stop`` alone; it shares the memory."""
        stop = self._weights.shape[1] if stop is None else stop
        return Kernel(self._weights[:, start:stop], [panels.rows(start, stop) for panels in self._panels])

    def parts(self, start: int, stop: int) -> Kernel:
        """The kernel of parts ``start`` to ``stop`` alone; it shares the memory."""
        return Kernel(self._weights[start:stop], [panels.parts(start, stop) for panels in self._panels])

    def multiply(self, x: Array, out: Array) -> None:
        """Writes the product of ``x [rows, depth]`` and each part into ``out [parts, rows, width]``.

        The last axis of ``out`` is contiguous.
        """
        _, depth, width = self._weights.shape
        work = len(x) * depth
        # One row is a matrix-vector product, which repacks nothing.
        if len(x) > 1 and work * width > _SMALL_PRODUCT:
            for panels in self._panels:
                if work * panels.width <= _SMALL_PRODUCT:
                    panels.multiply(x, out)
                    return
        np.matmul(x, self._weights, out=out)


def _cut(weights: Array) -> list[_Panels]:
    """The panels of a kernel, the widest first; none where its width has no divisor that will do."""
    parts, depth, width = weights.shape
    widths = [size for size in range(_PANEL_WIDTH, _PANEL_WIDTH // 2, -1) if width % size == 0 and size < width]
    if not widths:
        return []
    panels = weights.reshape(parts, depth, -1, widths[0]).transpose(0, 2, 1, 3)
    if width > _WIDEST_SHARED:
        panels = np.ascontiguousarray(panels)
    found = [_Panels(panels)]
    if widths[0] % 2 == 0:
        halves = panels.reshape(*panels.shape[:3], 2, widths[0] // 2).transpose(0, 1, 3, 2, 4)
        found.append(_Panels(halves))
    return found


class Affine:
    """``x kernel + bias`` for each part: the bias is one more row of the kernel, and x has a column of ones for it.

    So the product adds it; numpy takes thrice as long for a bias that it has to stretch over the rows.

    Args:
        kernel: its last row is the bias.
        depth: the width of x.
    """

    def __init__(self, kernel: Kernel, depth: int, dtype: np.dtype[Any]) -> None:
        self._kernel = kernel
        self._depth = depth
        self._workspace = Workspace(dtype, self._lay_out)

    def apply(self, x: Array, out: Array) -> None:
        """Writes the sums of ``x [rows, depth]`` into ``out [parts, rows, width]``; up to ``MAX_ROWS`` rows."""
        values, with_one = self._workspace.for_rows(len(x))
        values[...] = x
        self._kernel.multiply(with_one, out)

    def _lay_out(self, memory: Memory, rows: int) -> tuple[Array, Array]:
        with_one = memory.array(rows, self._depth + 1)
        with_one[:, self._depth] = 1
        return with_one[:, : self._depth], with_one
