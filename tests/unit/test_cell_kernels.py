"""Kernels in parts and panels, against plain products in float64; and the memory of temporaries."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cellserve.tensors import Array
from cellserve_server.cells.kernels import Affine, Kernel
from cellserve_server.cells.recurrent import joined_kernel
from cellserve_server.cells.workspace import MAX_ROWS, Memory, Workspace
from tests.unit.model_samples import FLOAT32, FLOAT64

# Widths without panels (a prime, one narrow enough), with shared ones, with copied ones; with halves and without.
WIDTHS = [1, 64, 100, 128, 131, 256, 297, 320, 512]
# With 700 inputs these stand on both sides of the limits of whole, panelled and half-panelled products.
ROWS = [0, 1, 2, 5, 15, 23, 24, 46, 47, 60]


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_a_product_is_that_of_each_part(width: int, rows: int) -> None:
    weights, x = noise(2, 700, width), noise(rows, 700, seed=1)
    out = np.full((2, rows, width), np.nan, np.float32)
    Kernel(weights).multiply(x, out)
    np.testing.assert_allclose(out, x.astype(np.float64) @ weights.astype(np.float64), rtol=0, atol=2e-4)


@pytest.mark.parametrize("width", [128, 320])
@pytest.mark.parametrize("rows", [1, 6, 40])
def test_some_inputs_and_parts_of_a_kernel_alone(width: int, rows: int) -> None:
    weights = noise(3, 900, width)
    kernel = Kernel(weights)
    x = noise(rows, 300, seed=1)
    # Out is a part of a longer block, as in sequences.
    block = np.full((2, rows + 3, width), np.nan, np.float32)
    kernel.rows(600).parts(1, 3).multiply(x, block[:, 2 : 2 + rows])
    np.testing.assert_allclose(block[:, 2 : 2 + rows], x @ weights[1:3, 600:], rtol=0, atol=2e-4)
    assert np.isnan(block[:, :2]).all()
    assert np.isnan(block[:, 2 + rows :]).all()


@pytest.mark.parametrize("rows", [1, 6, 40, 200])
def test_a_row_that_is_ill_stays_alone(rows: int) -> None:
    weights, x = noise(4, 257, 128), noise(rows, 257, seed=1)
    clean, out = (np.empty((4, rows, 128), np.float32) for _ in range(2))
    Kernel(weights).multiply(x, clean)
    x[rows // 2, 3] = np.nan
    Kernel(weights).multiply(x, out)
    others = np.arange(rows) != rows // 2
    np.testing.assert_array_equal(out[:, others], clean[:, others])
    assert np.isnan(out[:, rows // 2]).all()


@pytest.mark.parametrize("rows", [0, 1, 7, MAX_ROWS])
def test_the_bias_is_a_row_of_the_kernel(rows: int) -> None:
    kernel, bias, x = noise(5, 3 * 4), noise(3 * 4, seed=1), noise(rows, 5, seed=2)
    # In another order, and one of them scaled.
    sums = Affine(Kernel(joined_kernel(kernel, bias, 5, (2, 0, 1), (1, 0.5, 1))), 5, FLOAT32)
    out = np.empty((3, rows, 4), np.float32)
    sums.apply(x, out)
    first, second, third = np.split(x @ kernel + bias, 3, axis=1)
    np.testing.assert_allclose(out, np.stack([third, first / 2, second]), rtol=1e-5, atol=1e-5)


def test_joining_puts_the_bias_between_inputs_and_state() -> None:
    kernel, bias = noise(5, 6), noise(6, seed=1)
    joined = joined_kernel(kernel, bias, 3, (1, 0))
    np.testing.assert_array_equal(joined[0], np.vstack([kernel[:3, 3:], bias[3:], kernel[3:, 3:]]))
    np.testing.assert_array_equal(joined[1], np.vstack([kernel[:3, :3], bias[:3], kernel[3:, :3]]))


# --- Workspaces -------------------------------------------------------------------------------------------------------


def test_a_workspace_keeps_its_memory() -> None:
    workspace = Workspace(FLOAT64, lambda memory, rows: (memory.array(rows, 3), memory.array(2, rows)))
    large = workspace.for_rows(10)
    assert workspace.for_rows(10) is large
    small = workspace.for_rows(4)
    assert [array.shape for array in small] == [(4, 3), (2, 4)]
    for few, many in zip(small, large, strict=True):
        assert few.flags.c_contiguous
        assert np.shares_memory(few, many)
    assert not np.shares_memory(*small)
    assert all(np.shares_memory(*pair) for pair in zip(workspace.for_rows(10), large, strict=True))


def test_a_workspace_is_bounded() -> None:
    workspace = Workspace(FLOAT32, lambda memory, rows: memory.array(rows))
    assert len(workspace.for_rows(MAX_ROWS)) == MAX_ROWS
    with pytest.raises(AssertionError):
        workspace.for_rows(MAX_ROWS + 1)


def test_each_thread_has_its_own_workspace() -> None:
    workspace = Workspace(FLOAT32, lambda memory, rows: memory.array(rows))
    found: list[Array] = []
    thread = threading.Thread(target=lambda: found.append(workspace.for_rows(5)))
    thread.start()
    thread.join()
    assert not np.shares_memory(workspace.for_rows(5), found[0])


def test_memory_grows_to_what_is_asked_for() -> None:
    memory = Memory(FLOAT32)
    for rows in (2, 7, 3):
        memory.begin()
        first, second = memory.array(rows, 2), memory.array(rows)
        first[...], second[...] = 1, 2
        assert (first == 1).all()
        assert first.dtype == second.dtype == FLOAT32
