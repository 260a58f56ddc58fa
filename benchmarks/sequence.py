"""``RunSequence`` over gRPC, 100 steps, against onnxruntime's LSTM in process on two threads, equal within 1e-4."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.bursts import Caller, Rhythm, alternate, call_one_by_one
from benchmarks.command import run
from benchmarks.contestants import SEED, description_of, normal, plain, product
from benchmarks.onnx_lstm import THREADS, OnnxLstm
from benchmarks.processes import ServerProcess
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.samples import Pair, compare
from benchmarks.tables import beside
from cellserve_client import aio, rnn
from cellserve_server.cells import draw_weights

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Plan:
    """How much."""

    steps: int
    batches: tuple[int, ...]
    hidden: tuple[int, ...]
    rhythm: Rhythm


FULL = Plan(100, (1, 32, 256), (128, 512), Rhythm(rounds=4, warmup_s=0.0, seconds=0.5))
QUICK = Plan(100, (1, 32), (128,), Rhythm(rounds=2, warmup_s=0.0, seconds=0.3))


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: ``lstm128_b32`` and so on, the ratio of the rates, and after that name and ``_`` those of ``compare``."""
    result = Result(notes=[f"onnxruntime on {THREADS} threads in process, CellServe on one BLAS thread over gRPC"])
    progress.expect(len(plan.hidden) * len(plan.batches) * plan.rhythm.rounds)
    async with product() as ours:
        for hidden in plan.hidden:
            cell = await ours.server.cell(rnn.BasicLSTMCell(hidden), seed=SEED, input_size=hidden)
            theirs = OnnxLstm(draw_weights(description_of(rnn.BasicLSTMCell(hidden), hidden), SEED), hidden)
            for rows in plan.batches:
                key = f"lstm{hidden}_b{rows}"
                shape = (rows, plan.steps, hidden)
                pairs = await _measure_shape(shape, cell, theirs, ours.process, plan.rhythm, progress)
                found = compare(pairs)
                result.keys[key] = found["ratio"]
                result.keys |= {f"{key}_{name}": value for name, value in found.items()}
                result.rows.append({"hidden": hidden, "rows": rows, **beside(found)})
                result.samples += [sample.as_record(hidden=hidden, rows=rows) for pair in pairs for sample in pair]
    return result


async def _measure_shape(
    shape: tuple[int, int, int],
    cell: aio.Cell,
    theirs: OnnxLstm,
    server: ServerProcess,
    rhythm: Rhythm,
    progress: Progress,
) -> list[Pair]:
    """Both on ``[rows, steps, width]``; first they have to agree."""
    rows, steps, width = shape
    sequence = normal(*shape)
    by_time = np.ascontiguousarray(sequence.transpose(1, 0, 2))
    run_ours = partial(cell.dynamic_rnn, dtype=np.float32)
    outputs, _ = await run_ours(sequence)
    np.testing.assert_allclose(outputs, theirs.run(by_time).transpose(1, 0, 2), rtol=0, atol=TOLERANCE)
    ours, other = Caller(run_ours, sequence), Caller(plain(theirs.run), by_time)
    return await alternate(
        rhythm.rounds,
        [
            lambda: call_one_by_one("cellserve", ours, server, rhythm.seconds, rows * steps),
            lambda: call_one_by_one("reference", other, None, rhythm.seconds, rows * steps),
        ],
        progress,
        f"{rows} x {width}",
    )


if __name__ == "__main__":
    run("sequence", measure, FULL, QUICK)
