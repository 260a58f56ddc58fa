"""Callers of every kind at once, on every way that leads to a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np

from cellserve.cells import BasicLSTMCell, BasicRNNCell, EmbeddingWrapper, GRUCell, LSTMCell, MultiRNNCell
from cellserve_client import RetryPolicy, aio, connect
from tests.property.callers import BATCH, SEQUENCES, Caller, ThreadCaller
from tests.property.histories import Alone
from tests.servers import LoopThread

TIMEOUT_S = 60.0
# Hardly waits, and never gives up by itself: a queue that is full is met often where limits are tight.
PATIENT = RetryPolicy(max_attempts=10_000, first_delay_s=0.002, max_delay_s=0.02, budget_refusals=1e6)


def alone_models() -> list[Alone]:
    """One of each kind: an LSTM, a GRU, a stack, ids, float64."""
    stack = MultiRNNCell([LSTMCell(6, use_peepholes=True, num_proj=4), GRUCell(5)])
    return [
        Alone(BasicLSTMCell(12), 5, "float32", 1),
        Alone(GRUCell(7), 3, "float32", 2),
        Alone(stack, 4, "float32", 3),
        Alone(EmbeddingWrapper(BasicRNNCell(6), 9, 4), 0, "float32", 4),
        Alone(MultiRNNCell([BasicLSTMCell(5), BasicRNNCell(4)]), 3, "float64", 5),
    ]


def send_mixed_traffic(loop: LoopThread, address: str, seed: int, rounds: int) -> None:
    """Has callers of every kind use a server at the same time; half of each kind give up now and then.

    Args:
        loop: where the callers for asyncio run.
        address: of the server.
        seed: of all that is random.
        rounds: how many calls each of them makes.
    """
    with (
        connect(address, timeout_s=TIMEOUT_S, retry=PATIENT) as blocking,
        ThreadPoolExecutor(len(alone_models()) * 2) as pool,
    ):
        coroutines = loop.begin(_send_from_coroutines(address, seed, rounds))
        threads = [
            pool.submit(ThreadCaller(alone, blocking, generator, gives_up, rounds).uses_a_session)
            for alone, gives_up, generator in _cast(seed, 1)
        ]
        for future in (coroutines, *threads):
            future.result()


def _cast(seed: int, part: int) -> Iterator[tuple[Alone, bool, np.random.Generator]]:
    """Each model once for those who wait and once for those who give up, with a random generator for each."""
    for number, (alone, gives_up) in enumerate(product(alone_models(), (False, True))):
        yield alone, gives_up, np.random.default_rng([seed, part, number])


async def _send_from_coroutines(address: str, seed: int, rounds: int) -> None:
    async with (
        aio.connect(address, timeout_s=TIMEOUT_S, retry=PATIENT) as coalescing,
        aio.connect(address, timeout_s=TIMEOUT_S, retry=PATIENT, coalesce=False) as requesting,
        asyncio.TaskGroup() as tasks,
    ):
        for alone, gives_up, generator in _cast(seed, 0):
            sharing = await _callers(alone, coalescing, generator.spawn(6), gives_up, rounds)
            single = await _callers(alone, requesting, generator.spawn(3), gives_up, rounds)
            for calls in (
                sharing[0].uses_a_session(None),
                sharing[1].uses_a_session(None, poisoned=[0]),
                sharing[2].uses_a_session(BATCH, poisoned=[1]),
                sharing[3].uses_a_session(BATCH, sequences=SEQUENCES),
                sharing[4].calls_without_a_session(),
                sharing[5].steps_a_group(guest=single[0]),
                single[1].uses_a_session(None, sequences=SEQUENCES),
                single[2].uses_a_session(BATCH, poisoned=[0]),
            ):
                tasks.create_task(calls)


async def _callers(
    alone: Alone, connection: aio.Server, generators: Sequence[np.random.Generator], gives_up: bool, rounds: int
) -> list[Caller]:
    width = None if alone.takes_ids else alone.input_size
    cell = await connection.cell(alone.cell, alone.seed, dtype=alone.dtype, input_size=width)
    if alone.takes_ids:
        await cell.build()
    return [Caller(alone, connection, cell, generator, gives_up, rounds) for generator in generators]
