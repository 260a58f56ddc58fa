"""Kills replicas at random moments, drawn from a seed, and starts them again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from deploy.fleet import Fleet


@dataclass(frozen=True)
class Moments:
    """When things happen, in seconds; each is drawn evenly between the two.

    Attributes:
        up_s: from the moment at which steps go on to the next kill.
        down_s: from a kill to the start.
        starting_s: from a start to a kill during it.
        start_up_share: how many of the kills hit a replica that is starting.
    """

    up_s: tuple[float, float] = (0.1, 1.5)
    down_s: tuple[float, float] = (0.0, 0.4)
    starting_s: tuple[float, float] = (0.05, 0.8)
    start_up_share: float = 0.15


class Killer:
    """Kills replicas of a fleet (SIGKILL) and starts them again.

    Args:
        fleet: it runs.
        seed: of the moments and of who is hit.
        moments: how long things take.
        check: called before each kill; raises when there is no use in going on.
        until_steps_go_on: returns when a step is acknowledged: a kill is to hit a server that is at work.
        note: told how many kills there were.

    Attributes:
        killed_at: when, by the monotonic clock, a moment early.
    """

    def __init__(
        self,
        fleet: Fleet,
        seed: int,
        moments: Moments,
        check: Callable[[], None],
        until_steps_go_on: Callable[[], Awaitable[None]],
        note: Callable[[int], None],
    ) -> None:
        self.killed_at: list[float] = []
        self._fleet = fleet
        self._whims = np.random.default_rng([seed, 77])
        self._moments = moments
        self._check = check
        self._until_steps_go_on = until_steps_go_on
        self._note = note

    async def kill(self, times: int) -> None:
        """Kills so many times. All replicas run in the end."""
        while len(self.killed_at) < times:
            await self._until_steps_go_on()
            await self._wait(self._moments.up_s)
            index = int(self._whims.integers(len(self._fleet.replicas)))
            replica = self._fleet.replicas[index]
            await self._kill_once(index)
            await self._wait(self._moments.down_s)
            replica.launch()
            while len(self.killed_at) < times and self._whims.random() < self._moments.start_up_share:
                await self._wait(self._moments.starting_s)
                await self._kill_once(index)
                replica.launch()
            await asyncio.to_thread(replica.wait_ready)

    async def _kill_once(self, index: int) -> None:
        self._check()
        # The moment before: callers may hear of the loss sooner than this one of the end of the process.
        self.killed_at.append(time.monotonic())
        await asyncio.to_thread(self._fleet.kill, index)
        self._note(len(self.killed_at))

    async def _wait(self, between_s: tuple[float, float]) -> None:
        await asyncio.sleep(float(self._whims.uniform(*between_s)))
