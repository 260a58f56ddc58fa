"""Stores that take their time, as long as a test wants."""

from __future__ import annotations

import asyncio
from typing import Any

from cellserve.errors import StoreUnavailableError
from cellserve_server.stores.base import Store
from tests.integration.durable.replicas import FaultyStore


class SlowStore(FaultyStore):
    """A store of which one operation waits until a test lets it go on. To be made in the servers' loop.

    Args:
        store: that does the work.
        slow: the operation's name.
        waits: whether it waits from the beginning.
        answers_late: whether it is done at once, and its answer waits; otherwise it is begun late.

    Attributes:
        reached: set when the operation was asked for, or done.
        goes_on: while it is set nothing waits.
    """

    def __init__(self, store: Store, slow: str, *, answers_late: bool = False, waits: bool = False) -> None:
        super().__init__(store)
        self.reached = asyncio.Event()
        self.goes_on = asyncio.Event()
        if not waits:
            self.goes_on.set()
        self._slow = slow
        self._answers_late = answers_late

    def __getattr__(self, name: str) -> Any:
        if name != self._slow:
            return super().__getattr__(name)
        operation = getattr(self.store, name)

        async def call(*arguments: Any) -> Any:
            if self._answers_late:
                result = await operation(*arguments)
                self.reached.set()
                await self.goes_on.wait()
                return result
            self.reached.set()
            await self.goes_on.wait()
            if name in self.failing:
                raise StoreUnavailableError(f"{name}: the test has it fail", retry_after_s=0.01)
            return await operation(*arguments)

        return call
