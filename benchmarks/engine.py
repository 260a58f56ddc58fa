"""In process: one tick of the engine against the bare numpy products of the same shapes, both on one BLAS thread."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.command import run
from benchmarks.contestants import description_of, network_of, normal
from benchmarks.progress import Progress
from benchmarks.results import Result
from cellserve.cells import CellDescription
from cellserve.errors import CellServeError
from cellserve.specs import place_layers
from cellserve.tensors import Array
from cellserve_client import rnn
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.ticks import Part, commit, gather
from cellserve_server.keys import NOBODY
from cellserve_server.sessions.seats import LIFE, Seats

CELLS: tuple[tuple[str, CellDescription, int], ...] = (
    ("lstm128", rnn.BasicLSTMCell(128), 128),
    ("lstm512", rnn.BasicLSTMCell(512), 512),
    ("lstm1024", rnn.BasicLSTMCell(1024), 1024),
    ("gru128", rnn.GRUCell(128), 128),
)
# Below this a burst would measure the clock.
BURST_S = 0.02


@dataclass(frozen=True)
class Plan:
    """How much.

    Attributes:
        batches: rows of a tick.
        seconds: for each cell and batch, both contestants together.
        rounds: at least so many, however long they take.
    """

    batches: tuple[int, ...]
    seconds: float
    rounds: int


FULL = Plan((1, 8, 32, 256), seconds=1.5, rounds=8)
QUICK = Plan((1, 256), seconds=0.2, rounds=3)


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: ``lstm128_b256`` and so on, the tick's time over the products', and ``..._us``, the tick's microseconds."""
    result = Result()
    progress.expect(len(CELLS) * len(plan.batches))
    for name, cell, width in CELLS:
        for rows in plan.batches:
            key = f"{name}_b{rows}"
            pairs = _alternate(tick_of(cell, width, rows), products_of(cell, width, rows), plan)
            tick_us, product_us = (statistics.median(pair[place] for pair in pairs) * 1e6 for place in (0, 1))
            result.keys[key] = ratio = statistics.median(tick / product for tick, product in pairs)
            result.keys[f"{key}_us"] = tick_us
            result.rows.append(
                {"cell": name, "rows": rows, "ratio": ratio, "tick us": tick_us, "products us": product_us}
            )
            ticks, products = zip(*pairs, strict=True)
            result.samples.append({"cell": name, "rows": rows, "tick_s": ticks, "products_s": products})
            progress.advance(key)
            await asyncio.sleep(0)  # Where Ctrl-C is heard.
    return result


def tick_of(cell: CellDescription, width: int, rows: int) -> Callable[[], None]:
    """A tick of the server's engine over so many sessions: states gathered from their seats, stepped, and committed."""
    network = network_of(cell, width)
    seats: Seats[Any] = Seats(network.leaf_sizes, network.dtype, rows=1)
    index = np.array([seats.take(number) for number in range(rows)])
    for leaf in (0, 1):
        seats.slab.write(2 * index + leaf, [np.zeros((rows, size), np.float32) for size in network.leaf_sizes])
    seats.records[index, LIFE] = lives = np.arange(1, rows + 1)
    block = StepBlock(
        seats,
        index=index,
        lives=lives,
        inputs=[normal(rows, 1, width)],
        run_ids=np.arange(1, rows + 1, dtype=np.uint64),
        digests=np.zeros(rows, np.uint64),
        deadlines=None,
        positions=np.arange(rows),
        sink=_Nobody(),
        client=NOBODY,
        step_bytes=0,
    )
    part = Part(block, slice(0, rows))

    def tick() -> None:
        batch = gather(seats, [part], [])
        _, leaves = network.step(batch.inputs, batch.leaves)
        commit(batch, leaves, now=0.0)

    return tick


class _Nobody:
    """Whom a tick's results do not reach here: what answering takes is measured by the other benchmarks."""

    def stepped(self, positions: Array, step_counts: Array, outputs: Sequence[Array]) -> None:
        raise AssertionError("a tick that is measured answers nobody")

    def fail(self, position: int, error: CellServeError) -> None:
        raise AssertionError("a tick that is measured answers nobody")


def products_of(cell: CellDescription, width: int, rows: int) -> Callable[[], None]:
    """The cell's matrix products alone: ``[rows, n] x [n, m]`` for each of its kernels, into memory that is there."""
    shapes = [
        variable.shape
        for layer in place_layers(description_of(cell, width))
        for variable in layer.variables
        if len(variable.shape) == 2
    ]
    work = [(normal(rows, n), normal(n, m), np.empty((rows, m), np.float32)) for n, m in shapes]

    def multiply() -> None:
        for inputs, kernel, out in work:
            np.matmul(inputs, kernel, out=out)

    return multiply


def _alternate(tick: Callable[[], None], products: Callable[[], None], plan: Plan) -> list[tuple[float, float]]:
    """Seconds of a tick and of its products, round after round."""
    repeats = [max(1, math.ceil(BURST_S / _seconds(work, 3))) for work in (tick, products)]
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + plan.seconds
    while len(pairs) < plan.rounds or time.perf_counter() < end:
        pairs.append((_seconds(tick, repeats[0]), _seconds(products, repeats[1])))
    return pairs


def _seconds(work: Callable[[], None], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


if __name__ == "__main__":
    run("engine", measure, FULL, QUICK)
