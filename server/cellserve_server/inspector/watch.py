"""What a watch has seen: the last steps of one row of one session, in a ring of fixed size."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cellserve.tensors import Array
from cellserve_server.models.repository import LoadedModel

# What is there of a step, bit by bit.
HAS_STATE = 1
HAS_OUTPUTS = 2


class Piece(NamedTuple):
    """Some consecutive steps of a longer run, of one row.

    Attributes:
        steps: how many.
        length: how many of them the row has; its state and outputs (zeros) stand still after them.
        inputs: what they took, one ``[length, ...]`` for each input of the model.
        before, after: the states around them, ``[units]`` each.
        outputs: ``[steps, ...]`` each.
    """

    steps: int
    length: int
    inputs: list[Array]
    before: list[Array]
    after: list[Array]
    outputs: list[Array]


class Span(NamedTuple):
    """Steps whose states were not seen, with what is needed to compute them.

    Attributes:
        first: the serial number of the first of them.
        piece: them, and the one after them, whose state was seen.
    """

    first: int
    piece: Piece


class SeenSteps(NamedTuple):
    """Consecutive steps of a watch, copied.

    Attributes:
        first: the serial number of the first of them.
        lost: how many were asked for and had left the window.
        step_counts: of the session after each, int64 ``[count]``.
        lives: the number of the life that each belongs to, among those that were seen, int64 ``[count]``.
        times: when each was seen, unix seconds, float64 ``[count]``.
        parts: what is there of each, uint8 ``[count]``: HAS_STATE, HAS_OUTPUTS; the arrays have zeros for what is not.
        leaves: the states after the steps, ``[count, units]`` each.
        outputs: ``[count, elements]`` each.
        spans: that reach into these steps.
    """

    first: int
    lost: int
    step_counts: Array
    lives: Array
    times: Array
    parts: Array
    leaves: list[Array]
    outputs: list[Array]
    spans: list[Span]

    @property
    def next(self) -> int:
        """The serial number of the step after them."""
        return self.first + len(self.step_counts)


def bytes_of_a_step(model: LoadedModel) -> int:
    """What a watch keeps of one step of one row of a model's session, in bytes."""
    fixed = 8 + 8 + 8 + 1  # the four columns beside the arrays
    input_bytes = sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in model.inputs)
    return fixed + model.state_bytes_per_row + model.output_bytes_per_row + input_bytes


class Watch:
    """The last steps of one row of a session, each with a serial number that counts from 0 in the order of arrival.

    Args:
        model: the session's.
        window_steps: how many steps are kept, at least 1.
    """

    def __init__(self, model: LoadedModel, window_steps: int) -> None:
        self.window_steps = window_steps
        self._next = 0
        self._step_counts = np.zeros(window_steps, np.int64)
        self._lives = np.zeros(window_steps, np.int64)
        self._times = np.zeros(window_steps, np.float64)
        self._parts = np.zeros(window_steps, np.uint8)
        self._spans: deque[Span] = deque()
        self._leaves = [np.zeros((window_steps, size), model.description.dtype) for size in model.leaf_sizes]
        self._outputs = [np.zeros((window_steps, math.prod(spec.shape)), spec.dtype) for spec in model.outputs]

    @property
    def next(self) -> int:
        """The serial number that the next step will have."""
        return self._next

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        columns: list[Array] = [self._step_counts, self._lives, self._times, self._parts, *self._leaves, *self._outputs]
        for _, piece in self._spans:
            columns += [*piece.inputs, *piece.before, *piece.after, *piece.outputs]
        return sum(array.nbytes for array in columns)

    @property
    def last(self) -> tuple[int, int] | None:
        """Life and step count of the last step that was seen; None: none was."""
        if not self._next:
            return None
        place = (self._next - 1) % self.window_steps
        return int(self._lives[place]), int(self._step_counts[place])

    def add(
        self,
        life: int,
        step_count: int,
        time_s: float,
        leaves: Sequence[Array] | None,
        outputs: Sequence[Array] | None,
    ) -> None:
        """Notes a step; if the window is full the oldest one goes.

        Args:
            life: the number of the session's life, among those that were seen.
            step_count: of the session, after the step.
            time_s: when it was seen, unix seconds.
            leaves: the state after it, ``[units]`` each; None: it is not known.
            outputs: one array for each output, of one row; None: they are not known.
        """
        place = self._next % self.window_steps
        self._lives[place], self._step_counts[place], self._times[place] = life, step_count, time_s
        self._parts[place] = (HAS_STATE if leaves is not None else 0) | (HAS_OUTPUTS if outputs is not None else 0)
        for number, ring in enumerate(self._leaves):
            ring[place] = 0 if leaves is None else leaves[number]
        for number, ring in enumerate(self._outputs):
            ring[place] = 0 if outputs is None else outputs[number].reshape(-1)
        self._next += 1

    def add_piece(self, life: int, step_count: int, time_s: float, piece: Piece) -> None:
        """Notes the steps of a piece of a run that is committed; ``step_count`` is that after its last step."""
        if piece.length > 1:
            self._spans.append(Span(self._next, piece))
        for step in range(piece.steps):
            state = piece.after if step >= piece.length - 1 else None
            outputs = [output[step] for output in piece.outputs]
            self.add(life, step_count - piece.steps + step + 1, time_s, state, outputs)
        while self._spans and self._spans[0].first + self._spans[0].piece.length <= self._next - self.window_steps:
            self._spans.popleft()

    def since(self, after: int, limit: int) -> SeenSteps:
        """The steps from serial number ``after`` on that are still there, the oldest first, at most ``limit``."""
        oldest = max(self._next - self.window_steps, 0)
        first = min(max(after, oldest), self._next)
        places = np.arange(first, min(first + limit, self._next)) % self.window_steps
        return SeenSteps(
            first,
            max(min(oldest, self._next) - after, 0),
            self._step_counts[places],
            self._lives[places],
            self._times[places],
            self._parts[places],
            [ring[places] for ring in self._leaves],
            [ring[places] for ring in self._outputs],
            [span for span in self._spans if first < span.first + span.piece.length and span.first < first + limit],
        )
