"""Callers that do random things with sessions of several replicas, and know what has to come of each.

All of it, servers too, runs on one event loop without RPCs, so that a seed says what happens. A caller sends again what
was not answered, as clients do: to any replica, until it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import TypeVar

import numpy as np

from cellserve.errors import (
    QuotaExceededError,
    SessionMovedError,
    SessionNotFoundError,
    StoreUnavailableError,
    UnavailableError,
)
from cellserve.tensors import Array
from cellserve_server.app import App
from cellserve_server.engine.runs import Run
from cellserve_server.keeping.peers import address_of
from cellserve_server.keys import SessionKey
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.session import Origin, SessionSnapshot
from tests.clocks import ManualClock
from tests.integration.durable.replicas import DEPTH, FaultyStore

T = TypeVar("T")
TOLERANCE = 1e-5
OPERATIONS = ("look", "claim", "create", "write", "rewrite", "bury")
MAX_TRIES = 2000
PASSING = (UnavailableError, SessionMovedError, QuotaExceededError)


class World:
    """The replicas, each with a store of its own that fails now and then.

    Args:
        seed: says what happens.
        apps: the replicas.
        stores: theirs.
        clock: theirs.
        may_cut: whether replicas are cut off from each other now and then, which may lose steps that are not written.
    """

    def __init__(
        self, seed: int, apps: Sequence[App], stores: Sequence[FaultyStore], clock: ManualClock, *, may_cut: bool
    ) -> None:
        self.apps = apps
        self.is_over = False
        self._random = Random(f"world {seed}")
        self._stores = stores
        self._clock = clock
        self._may_cut = may_cut
        self._is_cut = False
        for app in apps:
            app.keeping._peers.ask_to_release = partial(self._ask, app.address)  # type: ignore[method-assign]
            app.keeping._peers.is_there = self._is_there  # type: ignore[method-assign]

    async def _ask(self, taker: str, owner: str, sessions: Sequence[tuple[SessionKey, int]]) -> bool:
        await asyncio.sleep(0)
        if self._is_cut:
            return False
        (keeper,) = (app.keeping.stored for app in self.apps if app.address == address_of(owner))
        assert keeper is not None
        assert keeper.is_asked_by_a_peer(taker, owner)
        await asyncio.gather(*(keeper.let_go(key, epoch, taker) for key, epoch in sessions))
        return True

    async def _is_there(self, address: str) -> bool:
        await asyncio.sleep(0)
        return not self._is_cut

    async def run(self) -> None:
        """Has things fail and recover until it is over."""
        while not self.is_over:
            for _ in range(self._random.randrange(60)):
                await asyncio.sleep(0)
            store, app = self._random.choice(self._stores), self._random.choice(self.apps)
            self._is_cut = self._may_cut and self._random.random() < 0.3
            self._clock.advance(self._random.choice([0.0, 0.1, 0.3]))
            fault = self._random.choice([store.failing, store.deaf, None, None])
            if fault is not None:
                fault.add(self._random.choice(OPERATIONS))
                continue
            store.failing.clear()
            store.deaf.clear()
            flusher = app.keeping.departures and app.keeping.departures.flusher
            if flusher and self._random.random() < 0.5:
                with contextlib.suppress(StoreUnavailableError):
                    await flusher.flush()
        self._is_cut = False
        for store in self._stores:
            store.failing.clear()
            store.deaf.clear()


class Caller:
    """One session's caller.

    Args:
        world: the replicas.
        model: of the session, as every replica knows it.
        name: the session's id.
        seed: says what is done.
    """

    def __init__(self, world: World, model: str, name: str, seed: int) -> None:
        self._world = world
        self._model = model
        self._name = name
        self._key = SessionKey("default", name)
        self._random = Random(f"{name} {seed}")
        self._normal = np.random.default_rng([seed, *name.encode()])
        self._last_id = 0
        self._uid = ""
        self._count = 0
        self._leaves: list[Array] = []

    async def run(self, operations: int) -> None:
        """Does so many things, each until it is answered."""
        await self._create()
        choices = (self._step, self._reset, self._set, self._fork, self._delete, self._read)
        for _ in range(operations):
            (operation,) = self._random.choices(choices, [30, 2, 2, 2, 2, 3])
            await operation()

    async def _until(self, do: Callable[[App], Awaitable[T]]) -> T:
        """Asks replicas until one answers; now and then gives up waiting, and asks again."""
        for _ in range(MAX_TRIES):
            task = asyncio.ensure_future(do(self._random.choice(self._world.apps)))
            if self._random.random() < 0.2:
                for _ in range(self._random.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                return await task
            except PASSING:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if not task.cancelled() or self._world.is_over:
                    raise
        raise AssertionError(f"{self._name}: no answer")

    async def _model_at(self, app: App) -> LoadedModel:
        return await app.keeping.finder.resolve("default", self._model)

    def _origin(self) -> Origin:
        self._last_id += 1
        return Origin(f"{self._name}-{self._last_id}", b"")

    def _begin(self, uid: str, count: int, leaves: list[Array]) -> None:
        self._uid, self._count, self._leaves = uid, count, leaves

    async def _create(self) -> None:
        origin = self._origin()

        async def create(app: App) -> tuple[str, list[Array]]:
            model = await self._model_at(app)
            session = await app.operations.create(self._key, model, 0, origin=origin)
            return session.uid, session.read_state()

        uid, leaves = await self._until(create)
        self._begin(uid, 0, [np.zeros_like(leaf) for leaf in leaves])

    async def _step(self) -> None:
        inputs = self._normal.standard_normal((1, 1, DEPTH)).astype(np.float32)
        self._last_id += 1
        run_id = self._last_id
        count, uid = self._count, self._random.choice([self._uid, ""])

        async def step(app: App) -> tuple[int, Array, LoadedModel]:
            session = await app.operations.find(self._key, uid)
            model = session.model
            run = Run(model, [inputs], rows=1, session=session, uid=uid, expected_step=count, run_id=run_id)
            result = await app.engine.execute(run)
            return result.step_count, result.outputs[0][:, 0], model

        step_count, output, model = await self._until(step)
        (expected,), leaves = model.network.step([inputs[:, 0]], self._leaves)
        np.testing.assert_allclose(output, expected, atol=TOLERANCE)
        assert step_count == count + 1
        self._begin(self._uid, step_count, [leaf.copy() for leaf in leaves])

    async def _reset(self) -> None:
        origin, uid = self._origin(), self._uid
        done = await self._until(lambda app: app.operations.reset(self._key, uid, origin))
        assert done.step_count == 0
        self._begin(done.uid, 0, [np.zeros_like(leaf) for leaf in self._leaves])

    async def _set(self) -> None:
        origin, uid = self._origin(), self._uid
        leaves = [self._normal.standard_normal(leaf.shape).astype(leaf.dtype) for leaf in self._leaves]
        done = await self._until(lambda app: app.operations.set_state(self._key, uid, leaves, origin=origin))
        assert done.step_count == self._count
        self._begin(done.uid, self._count, leaves)

    async def _fork(self) -> None:
        origin, uid = self._origin(), self._uid
        copy = SessionKey("default", f"{self._name}-copy-{self._last_id}")
        await self._until(lambda app: app.operations.fork(self._key, uid, copy, origin))
        self._compare(await self._until(lambda app: app.operations.read(copy, True)))
        await self._end(copy)

    async def _delete(self) -> None:
        await self._end(self._key)
        await self._create()

    async def _end(self, key: SessionKey) -> None:
        origin = self._origin()
        await self._until(lambda app: app.operations.delete(key, "", origin))
        try:
            await self._until(lambda app: app.operations.read(key, False))
        except SessionNotFoundError:
            return
        raise AssertionError(f"{key.id} is there after its end")

    async def _read(self) -> None:
        found = await self._until(lambda app: app.operations.read(self._key, True))
        assert found.uid == self._uid
        self._compare(found)

    def _compare(self, found: SessionSnapshot) -> None:
        assert found.step_count == self._count
        assert found.leaves is not None
        for leaf, expected in zip(found.leaves, self._leaves, strict=True):
            np.testing.assert_allclose(leaf, expected, atol=TOLERANCE)
