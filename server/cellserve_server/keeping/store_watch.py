"""Whether the store answers: a replica that is cut off from it says so in its health, and others are asked instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from cellserve.errors import StoreUnavailableError
from cellserve_server.keys import SessionKey
from cellserve_server.metrics import StoreMetrics
from cellserve_server.stores.base import Store

PROBE_S = 0.5
# No session's: ids have other letters.
PROBED = SessionKey("", "/")

T = TypeVar("T")


class StoreWatch:
    """Looks at a store that has failed, until it answers again. While all is well it does nothing.

    Args:
        store: the store.
        metrics: told how long operations take, and of those that fail.
        on_change: told whether it answers, when that changes.
    """

    def __init__(self, store: Store, metrics: StoreMetrics, on_change: Callable[[bool], Awaitable[None]]) -> None:
        self._store = store
        self._metrics = metrics
        self._on_change = on_change
        self._probing: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("cellserve.store_watch")

    async def watched(self, operation: str, do: Callable[[], Awaitable[T]], keys: Sequence[SessionKey]) -> T:
        """Does an operation of the store that is about these keys, counted and, if it fails, logged."""
        started = time.perf_counter()
        try:
            result = await do()
        except StoreUnavailableError as error:
            self._metrics.store_failed(operation)
            self.note_failure()
            self._log.warning("store_failed", operation=operation, sessions=len(keys), error=error.message)
            raise
        self._metrics.store_seconds(operation, time.perf_counter() - started)
        return result

    def note_failure(self) -> None:
        """An operation has failed."""
        if self._probing is None:
            self._probing = asyncio.get_running_loop().create_task(self._probe(), name="cellserve-store-watch")

    async def stop(self) -> None:
        """Stops looking."""
        probing, self._probing = self._probing, None
        if probing is not None:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    async def _probe(self) -> None:
        is_away = False
        while (error := await self._failure()) is not None:
            if not is_away:
                is_away = True
                self._log.error("store_away", error=error.message)
                await self._on_change(False)
            await asyncio.sleep(PROBE_S)
        self._probing = None
        if is_away:
            self._log.info("store_answers")
            await self._on_change(True)

    async def _failure(self) -> StoreUnavailableError | None:
        """Why it does not answer; None: it does."""
        try:
            await self._store.look([PROBED])
        except StoreUnavailableError as error:
            return error
        return None
