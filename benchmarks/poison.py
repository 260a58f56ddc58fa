"""In process: what a step of a batch takes with bad numbers in one row or in all, against the same step without.

On some processors arithmetic on denormals takes a hundred times as long: then one caller's could slow all others'
ticks. What it costs is the processor's; the last line says which it was. It is not one of ``python -m benchmarks``:
nothing here changes from commit to commit.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.command import run
from benchmarks.contestants import network_of, normal
from benchmarks.machine import describe_machine
from benchmarks.progress import Progress
from benchmarks.results import Result
from cellserve.tensors import Array
from cellserve_client import rnn

CELLS = {"lstm128": rnn.BasicLSTMCell(128), "gru128": rnn.GRUCell(128), "relu128": rnn.BasicRNNCell(128, "relu")}
WIDTH, BATCH = 128, 256
POISONS = {"nan": np.nan, "inf": np.inf, "huge": 1e38, "denormal": 1e-41}


@dataclass(frozen=True)
class Plan:
    """How often each step is measured, in turn with the one without poison."""

    rounds: int


FULL = Plan(rounds=200)
QUICK = Plan(rounds=10)


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: ``lstm128_denormal_1`` and so on, the step's time over that without, by cell, poison, and poisoned rows."""
    result = Result()
    progress.expect(len(CELLS) * len(POISONS) * 2)
    for name, cell in CELLS.items():
        network = network_of(cell, WIDTH)
        inputs, leaves = normal(BATCH, WIDTH), [normal(BATCH, size) for size in network.leaf_sizes]
        for poison, value in POISONS.items():
            for rows in (1, BATCH):
                bad = [_poisoned(array, value, rows) for array in (inputs, *leaves)]
                bad_step = partial(network.step, [bad[0]], bad[1:])
                ratio = _ratio(bad_step, partial(network.step, [inputs], leaves), plan.rounds)
                result.keys[f"{name}_{poison}_{rows}"] = ratio
                result.rows.append({"cell": name, "poison": poison, "rows": rows, "ratio": ratio})
                progress.advance(f"{name} {poison}")
                await asyncio.sleep(0)  # Where Ctrl-C is heard.
    result.notes.append(f"processor: {describe_machine().get('cpu', 'unknown')}")
    return result


def _poisoned(array: Array, value: float, rows: int) -> Array:
    copy = array.copy()
    copy[:rows] = value
    return copy


def _ratio(step: Callable[[], object], clean: Callable[[], object], rounds: int) -> float:
    """The median over rounds, each of one step of either."""
    return statistics.median(_seconds(step) / _seconds(clean) for _ in range(rounds))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    run("poison", measure, FULL, QUICK)
