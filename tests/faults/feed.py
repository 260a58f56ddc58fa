"""What is fed to sessions, drawn from a seed, and what an uninterrupted run makes of it, computed in this process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cellserve.cells import BasicLSTMCell
from cellserve.specs import describe
from cellserve.tensors import Array
from cellserve_server.cells import build_network, draw_weights

UNITS, DEPTH = 8, 4
CELL = BasicLSTMCell(UNITS)
CELL_SEED = 5
BLOCK = 256  # inputs that are drawn together


class Feed:
    """The inputs of every step of every session.

    Args:
        seed: of all of them.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._blocks: dict[tuple[int, int], Array] = {}

    def at(self, session: int, step: int) -> Array:
        """The input of a session's step, ``[DEPTH]``."""
        key = session, step // BLOCK
        if key not in self._blocks:
            # One block a session: a session that is rolled back over a block's edge draws the one before again.
            for other in [other for other in self._blocks if other[0] == session]:
                del self._blocks[other]
            self._blocks[key] = self._draw(*key)
        block = self._blocks[key]
        given: Array = block[step % BLOCK]
        return given

    def of(self, session: int, start: int, stop: int) -> Array:
        """Those of a session's steps from ``start`` to ``stop``, ``[steps, DEPTH]``."""
        first, last = start // BLOCK, (stop + BLOCK - 1) // BLOCK
        drawn = [self._draw(session, block) for block in range(first, last)]
        return np.concatenate(drawn)[start - first * BLOCK : stop - first * BLOCK]

    def _draw(self, session: int, block: int) -> Array:
        generator = np.random.default_rng([self._seed, session, block])
        return generator.standard_normal((BLOCK, DEPTH), np.float32)


def uninterrupted(inputs: Iterator[Array], rows: int) -> Iterator[tuple[Array, Array]]:
    """Steps so many sessions at once, alone in this process: no server, no store, no fault.

    Args:
        inputs: ``[rows, DEPTH]`` for each step.

    Yields:
        The output of each step ``[rows, UNITS]``, and the state after it, ``[rows, 2 * UNITS]``: c, then h.
    """
    description = describe(CELL, DEPTH, np.dtype("float32"))
    network = build_network(description, draw_weights(description, CELL_SEED))
    leaves: list[Array] = [np.zeros((rows, size), np.float32) for size in network.leaf_sizes]
    for given in inputs:
        (output,), leaves = network.step([given], leaves)
        yield output, np.concatenate(leaves, axis=1)
