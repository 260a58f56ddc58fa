"""Random callers, stores that fail, replicas that take sessions from each other, little memory: all as it has to be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from cellserve_server.app import App
from cellserve_server.config import ServerConfig
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.seats import FLAGS, LIFE
from cellserve_server.stores.memory import MemoryStore
from tests.clocks import ManualClock
from tests.integration.durable.random_callers import Caller, World
from tests.integration.durable.replicas import ASYNC, SYNC, FaultyStore, Replicas
from tests.servers import LoopThread

CALLERS = 6
OPERATIONS = 40
SECONDS_OF_A_STEP = 1e-9  # Never in a thread: the seed is to say what happens.


@pytest.fixture
def replicas(loop_thread: LoopThread, clock: ManualClock) -> Iterator[Replicas]:
    """Replicas on a store in memory."""
    memory = MemoryStore(clock, is_volatile=False)
    with ExitStack() as stack:
        yield Replicas(loop_thread, clock, lambda: memory, stack)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_sessions", [100, 3])
@pytest.mark.parametrize("config", [SYNC, ASYNC], ids=["sync", "async"])
def test_every_answer_is_right_and_nothing_is_left_behind(
    replicas: Replicas, clock: ManualClock, config: ServerConfig, max_sessions: int, seed: int
) -> None:
    config = replace(config, max_sessions=max_sessions, at_once_us=0)
    stores = [FaultyStore(replicas.open_store()) for _ in range(2)]
    apps = [replicas.start(config, store).app for store in stores]
    world = World(seed, apps, stores, clock, may_cut=config.durability == "sync")

    async def run() -> None:
        for app in apps:
            model: LoadedModel = await app.keeping.finder.resolve("default", replicas.model)
            app.engine.lanes[model].observe(1, SECONDS_OF_A_STEP)
        weather = asyncio.ensure_future(world.run())
        callers = [Caller(world, replicas.model, f"s{number}", seed) for number in range(CALLERS)]
        try:
            async with asyncio.TaskGroup() as group:
                for caller in callers:
                    group.create_task(caller.run(OPERATIONS))
        finally:
            world.is_over = True
            await weather
        for app in apps:
            require_rest(app)

    replicas.loop.run(run())


def require_rest(app: App) -> None:
    """Nothing is under way in a server, and nothing of what was is left."""
    engine, keeper = app.engine, app.keeping.stored
    assert keeper is not None
    assert (engine.queue.runs, engine.queue.size_bytes, engine._waiting_turns) == (0, 0, 0)
    left = (engine._runs, engine._blocks, engine._orphans, keeper._changing, keeper._asked)
    assert not any(left), left
    sessions = list(app.operations.sessions)
    assert not [session.key.id for session in sessions if session.busy or session.active or session.waiting]
    assert app.operations.sessions.held.state_bytes == sum(session.state_bytes for session in sessions)
    assert sum(model.session_count for model in app.models.defined()) == len(sessions)
    for seats in engine.lanes.tables():
        assert not seats.records[: seats.capacity][seats.records[: seats.capacity, LIFE] == 0][:, FLAGS].any()
