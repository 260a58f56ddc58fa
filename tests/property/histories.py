"""What a session may have become, by what was sent to it, computed by the same network alone in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellserve.cells import CellDescription, EmbeddingWrapper
from cellserve.specs import describe
from cellserve.states import NestedState, flatten
from cellserve.tensors import Array
from cellserve_server.cells import build_network, draw_weights

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
POISON = (np.nan, np.inf, -np.inf, 1e38, -1e38)


@dataclass(frozen=True)
class Run:
    """Some steps that were sent together.

    Attributes:
        inputs: ``[rows, time, ...]``.
        lengths: how many of them count for each row, int64 ``[rows]``.
    """

    inputs: Array
    lengths: Array

    @property
    def steps(self) -> int:
        """What the session's step count grows by."""
        return int(self.lengths.max())


class Alone:
    """A model in this process that steps one session at a time.

    Args:
        cell: what it is.
        input_size: the width of the inputs; 0: they are ids.
        dtype: float32 or float64.
        seed: of the weights.
    """

    def __init__(self, cell: CellDescription, input_size: int, dtype: str, seed: int) -> None:
        self.cell = cell
        self.input_size = input_size
        self.dtype = np.dtype(dtype)
        self.seed = seed
        self.tolerance = TOLERANCES[self.dtype.name]
        description = describe(cell, input_size, self.dtype)
        self.state_size = description.state_size
        self._network = build_network(description, draw_weights(description, seed))

    @property
    def takes_ids(self) -> bool:
        """Whether the inputs are ids."""
        return isinstance(self.cell, EmbeddingWrapper)

    def zeros(self, rows: int) -> list[Array]:
        """The state that a session begins with."""
        return [np.zeros((rows, size), self.dtype) for size in self._network.leaf_sizes]

    def inputs(self, random: np.random.Generator, *leading: int) -> Array:
        """Inputs ``[*leading, ...]``."""
        if isinstance(self.cell, EmbeddingWrapper):
            return random.integers(0, self.cell.embedding_classes, leading, np.int32)
        return random.standard_normal((*leading, self.input_size)).astype(self.dtype)

    def poison(self, random: np.random.Generator, *leading: int) -> Array:
        """Inputs of what nobody should send; ids are as ever."""
        if self.takes_ids:
            return self.inputs(random, *leading)
        return random.choice(POISON, (*leading, self.input_size)).astype(self.dtype)

    def after(self, leaves: Sequence[Array], run: Run) -> tuple[Array, list[Array]]:
        """The outputs ``[rows, time, units]`` of a run, 0 past each row's length, and the state after it."""
        outputs, current = [], list(leaves)
        for step in range(run.inputs.shape[1]):
            (output,), new = self._network.step([run.inputs[:, step]], current)
            counts = (step < run.lengths)[:, np.newaxis]
            outputs.append(np.where(counts, output, 0))
            current = [np.where(counts, after, before) for after, before in zip(new, current, strict=True)]
        return np.stack(outputs, axis=1), current

    def are_close(self, found: Iterable[Array], wanted: Iterable[Array], rows: Array) -> bool:
        """Whether these rows of arrays agree as far as is promised."""
        return all(
            one.shape == other.shape and np.allclose(one[rows], other[rows], self.tolerance, self.tolerance)
            for one, other in zip(found, wanted, strict=True)
        )


@dataclass(frozen=True)
class _History:
    """One way in which it may have gone."""

    leaves: list[Array]
    step_count: int


class Histories:
    """All ways in which it may have gone with one session.

    A run that was answered was applied once. One that was given up was not applied, or once: both are kept in mind
    until an answer, or the step count, tells which.

    Args:
        alone: the session's model.
        rows: of the session.
        compared: the rows whose numbers count; None: all. The others are poisoned.
    """

    def __init__(self, alone: Alone, rows: int, compared: npt.ArrayLike | None = None) -> None:
        self._alone = alone
        self._compared = np.arange(rows) if compared is None else np.asarray(compared, np.int64)
        self._open = [_History(alone.zeros(rows), 0)]
        self._events: list[str] = []  # for who has to find out what went wrong

    def lost(self, run: Run) -> None:
        """A run was given up, or never sent."""
        self._events.append(f"{run.steps} lost")
        self._open += [
            _History(self._alone.after(history.leaves, run)[1], history.step_count + run.steps)
            for history in self._open
        ]

    def answered(self, run: Run, outputs: Array, step_count: int) -> None:
        """A run was answered, with ``[rows, time, units]``."""
        self._events.append(f"{run.steps} answered at {step_count}")
        fitting = []
        for history in self._open:
            wanted, leaves = self._alone.after(history.leaves, run)
            after = history.step_count + run.steps
            if after == step_count and self._alone.are_close([outputs], [wanted], self._compared):
                fitting.append(_History(leaves, after))
        assert fitting, f"no history leads to these outputs at step {step_count}: {self._told(run.steps)}"
        self._open = fitting

    def may_be_at(self, step_count: int, state: NestedState | None = None) -> None:
        """The session was read: it had this step count, and this state. What was lost may be applied after that."""
        assert self._at(step_count, state), f"no history leads to this at step {step_count}: {self._told(0)}"

    def are_at(self, step_count: int, state: NestedState) -> None:
        """The session was read when nothing was under way."""
        fitting = self._at(step_count, state)
        assert fitting, f"no history leads to this state at step {step_count}: {self._told(0)}"
        self._open = fitting

    def _at(self, step_count: int, state: NestedState | None) -> list[_History]:
        self._events.append(f"read at {step_count}")
        leaves = None if state is None else flatten(self._alone.state_size, state)
        return [
            history
            for history in self._open
            if history.step_count == step_count
            and (leaves is None or self._alone.are_close(leaves, history.leaves, self._compared))
        ]

    def _told(self, steps: int) -> str:
        counts = sorted({history.step_count + steps for history in self._open})
        return f"expected it at one of {counts}; {', '.join(self._events)}"


def one_step(inputs: Array) -> Run:
    """The run of a single step, ``[rows, ...]``."""
    return Run(inputs[:, np.newaxis], np.ones(len(inputs), np.int64))


def draw_run(alone: Alone, random: np.random.Generator, rows: int, longest: int, poisoned: Array) -> Run:
    """A run of some steps, with a length for each row; ``poisoned`` rows get what nobody should send."""
    steps = int(random.integers(1, longest + 1))
    inputs = alone.inputs(random, rows, steps)
    inputs[poisoned] = alone.poison(random, len(poisoned), steps)
    lengths = random.integers(0, steps + 1, rows, np.int64)
    lengths[random.integers(rows)] = steps  # One that moves nothing would not tell what became of those before.
    return Run(inputs, lengths)
