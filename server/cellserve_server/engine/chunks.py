"""A tick of longer runs: some time steps of each, side by side. A run has a copy of the state until it is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cellserve.tensors import Array
from cellserve_server.engine.runs import OutputMode, Run


class Chunk(NamedTuple):
    """The next time steps of some runs.

    Attributes:
        runs: whose steps these are.
        steps: how many time steps there are; a run may end before.
        inputs: one ``[rows, steps, ...]`` for each input of the model; what lies past a row's length is not looked at.
        lengths: how many of the steps each row has, int64 ``[rows]``.
        leaves: the states before, ``[rows, units]`` each.
    """

    runs: Sequence[Run]
    steps: int
    inputs: list[Array]
    lengths: Array
    leaves: list[Array]

    @property
    def is_one_step(self) -> bool:
        """Whether it is one step of every row."""
        return self.steps == 1 and all(run.lengths is None for run in self.runs)


def gather_chunk(runs: Sequence[Run], most_steps: int) -> Chunk:
    """The next time steps of each run, at most so many."""
    steps = min(most_steps, max(run.steps - run.position for run in runs))
    if len(runs) == 1:
        (run,) = runs
        inputs = [array[:, run.position : run.position + steps] for array in run.inputs]
        return Chunk(runs, steps, inputs, _lengths(run, steps), list(run.leaves))
    lengths = np.concatenate([_lengths(run, steps) for run in runs])
    inputs = []
    for number, first in enumerate(runs[0].inputs):
        joined = np.zeros((len(lengths), steps, *first.shape[2:]), first.dtype)
        start = 0
        for run in runs:
            piece = run.inputs[number][:, run.position : run.position + steps]
            joined[start : start + run.rows, : piece.shape[1]] = piece
            start += run.rows
        inputs.append(joined)
    leaves = [np.concatenate(parts) for parts in zip(*(run.leaves for run in runs), strict=True)]
    return Chunk(runs, steps, inputs, lengths, leaves)


def scatter_chunk(chunk: Chunk, outputs: Sequence[Array], leaves: Sequence[Array]) -> None:
    """Hands each run its state after the steps and, where it wants them, its outputs.

    Args:
        outputs: ``[rows, steps, ...]`` each, 0 past a row's length.
        leaves: ``[rows, units]`` each.
    """
    start = 0
    for run in chunk.runs:
        rows = slice(start, start + run.rows)
        start += run.rows
        steps = min(chunk.steps, run.steps - run.position)
        state = [leaf[rows] for leaf in leaves]
        if run.mode is OutputMode.ALL:
            for target, output in zip(run.outputs, outputs, strict=True):
                target[:, run.position : run.position + steps] = output[rows, :steps]
        elif run.mode is OutputMode.LAST:
            lengths = chunk.lengths[rows]
            alive = np.flatnonzero(lengths)
            for target, output in zip(run.outputs, outputs, strict=True):
                target[alive, 0] = output[rows][alive, lengths[alive] - 1]
        # Together, and last: a run has made these steps, or none of them.
        run.leaves = state
        run.position += steps


def _lengths(run: Run, steps: int) -> Array:
    """How many of the next steps each row of a run has."""
    if run.lengths is None:
        return np.full(run.rows, min(steps, run.steps - run.position), dtype=np.int64)
    lengths: Array = np.clip(run.lengths - run.position, 0, steps)
    return lengths
