"""What is fed to sessions, drawn from a seed, and what an uninterrupted run makes of it, computed in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


class Alone:
    """The model in this process: no server, no store, no fault."""

    def __init__(self) -> None:
        description = describe(CELL, DEPTH, np.dtype("float32"))
        self._network = build_network(description, draw_weights(description, CELL_SEED))

    def zeros(self, rows: int) -> list[Array]:
        """The state that sessions begin with, ``[rows, UNITS]`` each."""
        return [np.zeros((rows, size), np.float32) for size in self._network.leaf_sizes]

    def step(self, inputs: Array, leaves: list[Array]) -> tuple[Array, list[Array]]:
        """The output of a step of so many sessions, and the state after it.

        Args:
            inputs: ``[rows, DEPTH]``.
            leaves: the state before it.
        """
        (output,), after = self._network.step([inputs], leaves)
        return output, after


def uninterrupted(inputs: Iterable[Array], rows: int) -> Iterator[tuple[Array, Array]]:
    """Steps so many sessions at once.

    Args:
        inputs: ``[rows, DEPTH]`` for each step.

    Yields:
        The output of each step ``[rows, UNITS]``, and the state after it, ``[rows, 2 * UNITS]``: c, then h.
    """
    alone = Alone()
    leaves = alone.zeros(rows)
    for given in inputs:
        output, leaves = alone.step(given, leaves)
        yield output, np.concatenate(leaves, axis=1)
