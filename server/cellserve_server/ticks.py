"""One tick's data: gathering one time step of many runs into a batch, and handing the results out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellserve.tensors import Array
from cellserve_server.runs import OutputMode, Run
from cellserve_server.slab import Slab


@dataclass(frozen=True)
class Batch:
    """One time step of some runs, side by side.

    Attributes:
        runs: whose steps these are.
        row_counts: how many of the batch's rows are each run's.
        active: for each run the indices of its rows that are within their length; None: all.
        inputs: one array for each input of the model, ``[rows, ...]``.
        leaves: the state before the step, ``[rows, units]`` each.
        target_rows: the slab rows that the state after the step goes to.
    """

    runs: Sequence[Run]
    row_counts: Sequence[int]
    active: Sequence[Array | None]
    inputs: list[Array]
    leaves: list[Array]
    target_rows: list[int]

    @property
    def rows(self) -> int:
        """The rows of the batch."""
        return len(self.target_rows)


def gather(slab: Slab, runs: Sequence[Run]) -> Batch:
    """Takes the next time step of each run: its inputs there and the state before it."""
    pieces: list[list[Array]] = [[] for _ in runs[0].inputs]
    source_rows: list[int] = []
    target_rows: list[int] = []
    row_counts: list[int] = []
    active: list[Array | None] = []
    for run in runs:
        chosen = None if run.lengths is None else np.flatnonzero(run.lengths > run.position)
        if chosen is None or len(chosen) == run.rows:
            chosen = None
            source_rows.extend(run.read_rows)
            target_rows.extend(run.work_rows)
            row_counts.append(run.rows)
        else:
            source_rows.extend(run.read_rows[index] for index in chosen)
            target_rows.extend(run.work_rows[index] for index in chosen)
            row_counts.append(len(chosen))
        active.append(chosen)
        for piece, array in zip(pieces, run.inputs, strict=True):
            step = array[:, run.position]
            piece.append(step if chosen is None else step[chosen])
    inputs = [piece[0] if len(piece) == 1 else np.concatenate(piece) for piece in pieces]
    return Batch(runs, row_counts, active, inputs, slab.read(source_rows), target_rows)


def scatter(slab: Slab, batch: Batch, outputs: Sequence[Array], leaves: Sequence[Array]) -> None:
    """Writes the state after the step to the runs' working rows, and each run's outputs to where it wants them."""
    slab.write(batch.target_rows, leaves)
    start = 0
    for run, count, chosen in zip(batch.runs, batch.row_counts, batch.active, strict=True):
        stop = start + count
        if run.mode is not OutputMode.NONE:
            time = run.position if run.mode is OutputMode.ALL else 0
            rows = slice(None) if chosen is None else chosen
            for target, output in zip(run.outputs, outputs, strict=True):
                target[rows, time] = output[start:stop]
        start = stop
        run.position += 1
        run.read_rows = run.work_rows
