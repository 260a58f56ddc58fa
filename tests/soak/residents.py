"""Sessions that are there from the first moment to the last: all that happens beside them is nothing to them."""

from __future__ import annotations

import asyncio

import numpy as np

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_client import aio
from cellserve_server.cells import build_network, draw_weights
from tests.soak.premises import DEPTH, RESIDENT, RESIDENT_MODEL, RESIDENT_SEED

SINGLES, GROUP = 8, 24
PAUSE_S = 0.2
TOLERANCE = 1e-4


class Residents:
    """Sessions over one connection, stepped now and then, whose outputs are known.

    Args:
        server: the connection.
    """

    def __init__(self, server: aio.Server) -> None:
        self._server = server
        self._singles: list[aio.Session] = []
        self._group: aio.SessionGroup | None = None
        self._network = build_network(RESIDENT_MODEL, draw_weights(RESIDENT_MODEL, RESIDENT_SEED))
        self._leaves = [np.zeros((1, size), np.float32) for size in self._network.leaf_sizes]
        self._random = np.random.default_rng(RESIDENT_SEED)

    async def move_in(self) -> None:
        """Makes the sessions."""
        self._singles = [await self._server.session(RESIDENT) for _ in range(SINGLES)]
        self._group = await self._server.session_group(RESIDENT, GROUP)

    async def step(self) -> None:
        """One step of each.

        Raises:
            AssertionError: an output is another than the cell's beside the server.
        """
        assert self._group is not None, "they have moved in"
        inputs = self._random.standard_normal(DEPTH).astype(np.float32)
        (expected,), self._leaves = self._network.step([inputs[np.newaxis]], self._leaves)
        answers = await asyncio.gather(
            self._group.step(np.tile(inputs, (GROUP, 1))), *(session.step(inputs) for session in self._singles)
        )
        found: Array = np.vstack([np.atleast_2d(answer) for answer in answers])
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=TOLERANCE, atol=TOLERANCE)

    async def live(self, until: asyncio.Event, errors: list[str]) -> None:
        """Steps them now and then, until the event is set or a step fails, which is told."""
        while not until.is_set():
            try:
                await self.step()
            except (AssertionError, CellServeError) as error:
                errors.append(f"residents: {type(error).__name__}: {error}")
                return
            await asyncio.sleep(PAUSE_S)
