"""Checksums of inputs: equal for equal inputs, and different whenever anything differs."""

from __future__ import annotations

import numpy as np
import pytest

from cellserve.specs import ArraySpec
from cellserve_server.models.input_digests import InputDigests

FLOAT32, INT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.float64)
SPECS = {
    "even": [ArraySpec("x", FLOAT32, (4,))],
    "odd": [ArraySpec("x", FLOAT32, (5,))],
    "double": [ArraySpec("x", FLOAT64, (3,))],
    "ids": [ArraySpec("x", INT32, ())],
    "two inputs": [ArraySpec("x", FLOAT32, (3,)), ArraySpec("y", INT32, ())],
}


def draw(specs: list[ArraySpec], steps: int, rows: int, seed: int) -> list[np.ndarray[tuple[int, ...], np.dtype]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 1000, (steps, rows, *spec.shape)).astype(spec.dtype) for spec in specs]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", SPECS)
def test_equal_inputs_have_equal_digests_in_any_company(kind: str, rows: int) -> None:
    specs = SPECS[kind]
    digests = InputDigests(specs)
    inputs = draw(specs, 7, rows, seed=1)
    together = digests.of_steps(inputs, rows)
    assert together.shape == (7,)
    assert together.dtype == np.uint64
    for step in range(7):
        alone = digests.of_steps([array[step : step + 1] for array in inputs], rows)
        assert alone[0] == together[step]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", SPECS)
def test_every_element_counts(kind: str, rows: int) -> None:
    specs = SPECS[kind]
    digests = InputDigests(specs)
    inputs = draw(specs, 1, rows, seed=2)
    before = digests.of_steps(inputs, rows)[0]
    for array in inputs:
        for position in np.ndindex(array.shape):
            changed = array[position]
            array[position] += 1
            assert digests.of_steps(inputs, rows)[0] != before
            array[position] = changed
    assert digests.of_steps(inputs, rows)[0] == before


def test_the_order_of_rows_and_of_elements_counts() -> None:
    digests = InputDigests(SPECS["even"])
    inputs = draw(SPECS["even"], 1, 2, seed=3)[0]
    before = digests.of_steps([inputs], 2)[0]
    assert digests.of_steps([inputs[:, ::-1]], 2)[0] != before
    assert digests.of_steps([inputs[..., ::-1]], 2)[0] != before
