"""In process: one tick of the engine against the bare numpy products of the same shapes, both on one BLAS thread."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.command import run
from benchmarks.contestants import description_of, network_of, normal
from benchmarks.progress import Progress
from benchmarks.results import Result
from cellserve.cells import CellDescription
from cellserve.specs import place_layers
from cellserve_client import rnn

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
    """What the server's engine computes in a tick of so many rows, their state carried on from tick to tick."""
    network = network_of(cell, width)
    inputs = [normal(rows, width)]
    leaves = [np.zeros((rows, size), np.float32) for size in network.leaf_sizes]

    def tick() -> None:
        nonlocal leaves
        _, leaves = network.step(inputs, leaves)

    return tick


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
