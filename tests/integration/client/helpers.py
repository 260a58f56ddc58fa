"""What the tests of both clients share: sizes, comparisons, and what a session has to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cellserve.tensors import Array
from cellserve_client import RetryPolicy, Server

UNITS, DEPTH, ROWS, STEPS = 4, 3, 2, 5
TOLERANCE = 1e-5
WAIT_S = 20.0
ONCE = RetryPolicy(max_attempts=1)
TWICE = RetryPolicy(max_attempts=2, first_delay_s=0.001, max_first_contact_attempts=2)
# Connects to an address, with the retries of the test's own where it says so.
Connect = Callable[..., Server]


def reference(cell: Any, frames: Array) -> tuple[Array, Any]:
    """The outputs and the last state of ``call`` after ``call``."""
    state, outputs = cell.zero_state(len(frames), np.float32), []
    for step in range(frames.shape[1]):
        output, state = cell.call(frames[:, step], state)
        outputs.append(output)
    return np.stack(outputs, axis=1), state


def assert_close(found: Any, expected: Any) -> None:
    """Compares arrays, or tuples of arrays of one shape."""
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
