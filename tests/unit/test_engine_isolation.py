"""Poison in one session, in an engine with thousands of others: not a bit of theirs is another than without it.

The engine is driven in process, so that both times the same sessions meet in the same ticks, side by side in the same
order; in other company a row has other last bits, poison or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, CudnnCompatibleGRUCell, GRUCell, MinLSTMCell, MultiRNNCell
from cellserve.specs import Bidirectional, Dense, Layer
from cellserve.tensors import Array
from cellserve_server.engine.runs import OutputMode, Run
from cellserve_server.keeping.residents import Birth
from cellserve_server.keys import SessionKey
from cellserve_server.models.repository import LoadedModel, draft_model
from cellserve_server.sessions.session import Session
from tests.unit.engine_bench import Bench, drive
from tests.unit.model_samples import model

SESSIONS = 1000
ROUNDS = 3
DEPTH = 3
LONG = 40  # steps: two chunks at least
each_model = pytest.mark.parametrize(
    "layers",
    [
        pytest.param([BasicLSTMCell(16), Dense(2, "softmax")], id="lstm"),
        pytest.param(
            [MultiRNNCell([GRUCell(8), MinLSTMCell(8), CudnnCompatibleGRUCell(8)])], id="stack", marks=pytest.mark.slow
        ),
    ],
)
POISONS = {"nan": np.nan, "inf": np.inf, "denormals": 1e-41, "huge": 1e38}


class Came(NamedTuple):
    """What came of the sessions that had no poison: every output, and their last states."""

    outputs: list[bytes]
    states: list[bytes]
    ticks: float


def _adopt(bench: Bench, layers: Sequence[Layer]) -> LoadedModel:
    return bench.models.adopt("default", draft_model(model(layers), seed=1), None)


def _inputs(noise: np.random.Generator, steps: int, poison: float | None, rows: int = 1) -> Array:
    inputs = noise.standard_normal((rows, steps, DEPTH)).astype(np.float32)
    if poison is not None:
        inputs[:, ::2] = poison
    return inputs


async def _rounds(bench: Bench, layers: Sequence[Layer], poison: float | None, steps: int, sessions: int) -> Came:
    """Some rounds of a run of every session, all at once; every hundredth session gets the poison, if there is any."""
    noise = np.random.default_rng(1)
    loaded = _adopt(bench, layers)
    all_: list[Session] = [
        bench.residents.seat(Birth(SessionKey("default", f"s{number}"), loaded, 0, 3600.0))
        for number in range(sessions)
    ]
    came = Came([], [], 0.0)
    for _ in range(ROUNDS):
        runs = [
            Run(loaded, [_inputs(noise, steps, poison if number % 100 == 7 else None)], rows=1, session=session)
            for number, session in enumerate(all_)
        ]
        await asyncio.gather(*(bench.engine.execute(run) for run in runs))
        came.outputs.extend(run.outputs[0].tobytes() for number, run in enumerate(runs) if number % 100 != 7)
    came.states.extend(
        leaf.tobytes() for number, session in enumerate(all_) if number % 100 != 7 for leaf in session.read_state()
    )
    return came._replace(ticks=bench.metric("cellserve_ticks_total", model="defined"))


def came_of(layers: Sequence[Layer], poison: float | None, steps: int, sessions: int) -> Came:
    results: list[Came] = []

    async def test(bench: Bench) -> None:
        results.append(await _rounds(bench, layers, poison, steps, sessions))

    drive(test, max_chunk_us=10**9, max_queued_bytes=1 << 30)
    return results[0]


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS.keys())
@each_model
def test_steps_of_thousands_beside_poison(layers: list[Layer], poison: float) -> None:
    assert came_of(layers, poison, 1, SESSIONS) == came_of(layers, None, 1, SESSIONS)


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS.keys())
@each_model
def test_chunks_of_sequences_beside_poison(layers: list[Layer], poison: float) -> None:
    clean = came_of(layers, None, LONG, SESSIONS // 10)
    assert came_of(layers, poison, LONG, SESSIONS // 10) == clean
    assert clean.ticks > ROUNDS, "the sequences were to be cut into chunks"


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS.keys())
def test_whole_sequences_beside_poison(poison: float) -> None:
    """Of a bidirectional model, whose rows are one request's: those of another request are not even in its batch."""
    results: list[list[bytes]] = []

    async def test(bench: Bench) -> None:
        loaded = _adopt(bench, [Bidirectional(GRUCell(8), BasicLSTMCell(8))])
        for bad in (poison, None):
            noise = np.random.default_rng(1)
            inputs = _inputs(noise, LONG, None, rows=8)
            if bad is not None:
                inputs[3] = bad
            run = Run(loaded, [inputs], rows=8, outputs=OutputMode.ALL, return_state=True)
            beside = Run(loaded, [_inputs(noise, LONG, None)], rows=1, return_state=True)
            await asyncio.gather(bench.engine.execute(run), bench.engine.execute(beside))
            assert run.leaves is not None
            others = [0, 1, 2, 4, 5, 6, 7]
            results.append(
                [array[others].tobytes() for array in (*run.outputs, *run.leaves)] + [beside.outputs[0].tobytes()]
            )

    drive(test)
    assert results[0] == results[1]
