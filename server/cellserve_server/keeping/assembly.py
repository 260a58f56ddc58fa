"""Puts together how a server keeps its sessions, and runs what that takes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from cellserve.errors import StoreUnavailableError
from cellserve.v1 import session_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.engine.ownership import Ownership
from cellserve_server.engine.state_writer import StateWriter
from cellserve_server.keeping.departures import Departures
from cellserve_server.keeping.flusher import Flusher
from cellserve_server.keeping.keeper import Keeper, MemoryKeeper
from cellserve_server.keeping.model_finder import ModelFinder
from cellserve_server.keeping.peers import Peers
from cellserve_server.keeping.residents import Residents
from cellserve_server.keeping.store_keeper import StoreKeeper
from cellserve_server.keeping.store_watch import StoreWatch
from cellserve_server.keeping.stored_models import StoredModels
from cellserve_server.keeping.takeover import Takeover
from cellserve_server.metrics import Metrics
from cellserve_server.models.repository import ModelRepository
from cellserve_server.security.tls import PeerChannels
from cellserve_server.sessions.seats import DIRTY
from cellserve_server.stores.base import Store

SWEPT_AT_ONCE = 1000
SWEEP_S = 30.0
# Random and secret, which ids of sessions are not: see Peers.
PROCESS_ID_BYTES = 16


class Keeping:
    """How a server keeps its sessions.

    Args:
        config: the settings.
        store: where sessions are kept; a volatile one is not written to.
        residents: the sessions in memory.
        models: the models.
        metrics: told of what the store does.
        clock: unix seconds, never going back.
        new_id: makes uids.
        on_bug: called with an error after which the server is of no more use.
        on_store: told when the store does not answer any more, and when it does again.
        peer_channels: opens connections to other replicas.

    Attributes:
        keeper: finds, makes and ends sessions.
        stored: the same, where there is a store; None elsewhere.
        departures: sends sessions into the store; None: there is none.
        models: the defined models in the store; None: there is none.
        finder: finds models, those in the store too.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        residents: Residents,
        models: ModelRepository,
        metrics: Metrics,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        on_bug: Callable[[BaseException], None],
        on_store: Callable[[bool], Awaitable[None]],
        peer_channels: PeerChannels,
    ) -> None:
        self.stored: StoreKeeper | None = None
        self.departures: Departures | None = None
        self.models = None if store.is_volatile else StoredModels(store, models, residents.limits, clock)
        self.finder = ModelFinder(models, self.models)
        self._config = config
        self._store = store
        self._engine = residents.engine
        self._on_bug = on_bug
        self._watch = StoreWatch(store, metrics.stores, on_store)
        self._peers = Peers(
            config.takeover_timeout_ms / 1000, clock, secrets.token_hex(PROCESS_ID_BYTES), peer_channels
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("cellserve.keeping")
        if store.is_volatile:
            self.keeper: Keeper = MemoryKeeper(residents, metrics.sessions)
            return
        takeover = Takeover(
            store,
            residents,
            self.finder,
            self._peers,
            metrics.sessions,
            clock,
            tombstone_ttl_s=config.tombstone_ttl_s,
            loses_steps=config.durability == "async",
        )
        self.departures = departures = Departures(store, residents, self._peers, metrics.stores, self._watch, clock)
        self.keeper = self.stored = StoreKeeper(
            config, store, residents, takeover, departures, self._peers, metrics.sessions, self._watch, clock, new_id
        )
        self._engine.ownership = Ownership(departures.confirm, self._engine.finish, self._engine.fail)
        if config.durability == "sync":
            self._engine.writer = StateWriter(store, metrics.stores, departures.on_fenced, departures.on_doubt, on_bug)
        else:
            self._engine.lanes.moved = DIRTY
            departures.flusher = Flusher(
                store,
                self._engine,
                config.flush_interval_ms / 1000,
                clock,
                self._peers,
                metrics.stores,
                self._watch,
                departures.on_fenced,
            )
            self._engine.on_moved = departures.flusher.note_change
            residents.flush = departures.flusher.flush
            metrics.stores.watch(unwritten_s=departures.flusher.unwritten_s)

    async def start(self, own_address: str) -> None:
        """Opens the store.

        Args:
            own_address: by which clients and other replicas reach this server.

        Raises:
            StartError: the store cannot be used.
        """
        self._peers.own = own_address
        await self._store.open()
        self._log.info("store", store=self._store.url, **self._said())
        if self.departures is None:
            return
        if self.departures.flusher is not None:
            self._begin("flusher", self.departures.flusher.run())
        self._begin("store-upkeep", self._look_after_the_store())

    @property
    def durability(self) -> session_pb2.Durability:
        """What becomes of sessions when the server ends."""
        if self.departures is None:
            return session_pb2.DURABILITY_MEMORY
        return session_pb2.DURABILITY_SYNC if self.departures.flusher is None else session_pb2.DURABILITY_ASYNC

    def _said(self) -> dict[str, str]:
        """In one sentence, what a crash of this process loses."""
        if self.departures is None:
            return {"crash_loses": "all sessions: they are in the memory of this process and end with it"}
        if self.departures.flusher is not None:
            # Two writes may fail before steps are refused, and a write fails when it has no answer in time.
            lost_s = 2 * (self._config.flush_interval_ms + self._config.store_timeout_ms) / 1000
            interval_s = self._config.flush_interval_ms / 1000
            return {
                "durability": "async",
                "crash_loses": f"the steps of the last {interval_s:g} s, or {lost_s:g} s if the store fails too; the "
                "clients concerned are told",
            }
        if not self._store.url.startswith("sqlite:"):
            loses = "nothing when this process dies; what is lost when the store does is a matter of how it persists"
        elif self._config.store_fsync:
            loses = "nothing, neither when this process dies nor when the machine loses its power"
        else:
            loses = "nothing when this process dies; the last moments if the machine loses its power (--store-fsync)"
        return {"durability": "sync", "crash_loses": loses}

    async def release_all(self, timeout_s: float) -> bool:
        """The server stops, and nothing is under way: all is written and let go.

        Args:
            timeout_s: how long it may take.

        Returns:
            Whether all that was answered is in the store.
        """
        if self.departures is None:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self.departures.release_all()
        except (StoreUnavailableError, TimeoutError) as error:
            unwritten = self.departures.unwritten
            self._log.error("not_released", error=str(error) or "no time was left", sessions_unwritten=unwritten)
            return not unwritten
        return True

    async def stop(self) -> None:
        """Stops everything and closes the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._engine.writer is not None:
            await self._engine.writer.stop()
        await self._watch.stop()
        await self._peers.close()
        await self._store.close()

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"cellserve-{name}")
        task.add_done_callback(self._note_end)
        self._tasks.append(task)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(error)

    async def _look_after_the_store(self) -> None:
        """Removes what has expired, and keeps the models that sessions need."""
        assert self.models is not None, "a server with a store keeps models there"
        while True:
            await asyncio.sleep(SWEEP_S)
            with contextlib.suppress(StoreUnavailableError):  # Whoever needs the store is told; here it can wait.
                swept = SWEPT_AT_ONCE
                while swept >= SWEPT_AT_ONCE:
                    swept = await self._store.sweep(SWEPT_AT_ONCE)
            await self.models.renew()
