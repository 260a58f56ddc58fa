"""An engine in process, for tests that decide what arrives when."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicRNNCell
from cellserve.specs import describe
from cellserve.tensors import Array
from cellserve_server.config import ServerConfig
from cellserve_server.engine.runs import Run
from cellserve_server.keeping.keeper import MemoryKeeper
from cellserve_server.keeping.operations import SessionOperations
from cellserve_server.keeping.residents import Birth, Residents
from cellserve_server.keys import SessionKey
from cellserve_server.metrics import Metrics
from cellserve_server.models.repository import LoadedModel, ModelRepository, draft_model
from cellserve_server.sessions.session import Session
from tests.clocks import ManualClock

UNITS = 3
DEPTH = 2


class Bench:
    """An engine with one model, driven by the test."""

    def __init__(self, **settings: Any) -> None:
        # How slow the machine is just now is to change nothing, unless a test says so.
        self.config = ServerConfig(**{"inline_tick_us": 10**9, "max_tick_us": 10**9} | settings)
        self.clock = ManualClock()
        self.models = ModelRepository(Path("absent"), self.config, self.clock)
        self.metrics = Metrics()
        ids = itertools.count(1)
        self.residents = Residents(self.config, self.models, self.metrics, self.clock, lambda: f"uid-{next(ids)}")
        keeper = MemoryKeeper(self.residents, self.metrics.sessions)
        self.operations = SessionOperations(
            self.residents, keeper, lambda: f"uid-{next(ids)}", self.config.default_ttl_s
        )
        self.engine = self.operations.engine
        description = describe(BasicRNNCell(UNITS), DEPTH, np.dtype(np.float32))
        self.model: LoadedModel = self.models.adopt("default", draft_model(description, seed=1), None)

    def session(self, name: str = "s", batch_size: int = 0, ttl_s: float = 3600.0) -> Session:
        return self.residents.seat(Birth(SessionKey("default", name), self.model, batch_size, ttl_s))

    def run(self, session: Session | None, steps: int = 1, rows: int = 1, seed: int = 0, **options: Any) -> Run:
        inputs = np.random.default_rng(seed).standard_normal((rows, steps, DEPTH)).astype(np.float32)
        return Run(self.model, [inputs], rows=rows, session=session, **options)

    def state(self, session: Session) -> list[Array]:
        return session.read_state()

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def drive(test: Callable[[Bench], Awaitable[None]], **settings: Any) -> None:
    """Runs a test against an engine whose loop runs."""

    async def main() -> None:
        bench = Bench(**settings)
        bench.engine.start()
        try:
            await test(bench)
        finally:
            bench.residents.stop()
            await bench.engine.stop()

    asyncio.run(main())


def fail_on(value: float, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the model's network a bug: a step of which an input has this value raises."""
    network_type = type(bench.model.network)
    step = network_type.step

    def failing(self: Any, inputs: Sequence[Array], leaves: Sequence[Array]) -> Any:
        if np.any(inputs[0] == value):
            raise ZeroDivisionError("a bug")
        return step(self, inputs, leaves)

    monkeypatch.setattr(network_type, "step", failing)


def submit_all(bench: Bench, runs: Sequence[Run]) -> list[Run]:
    """Submits runs together and returns the list that they are added to as they are done."""
    done: list[Run] = []
    for run in runs:
        run.on_done = done.append
        bench.engine.submit(run)
    return done


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until something holds; the engine needs a few turns for a tick."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")
