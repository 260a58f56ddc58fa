"""Cutting a long sequence into requests that the server takes, and putting their outputs together again. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from cellserve.errors import FieldInvalidError
from cellserve.specs import ArraySpec
from cellserve.tensors import Array
from cellserve.v1 import sequence_pb2
from cellserve_client.models import ModelLimits

OutputMode: TypeAlias = Literal["all", "last", "none"]
# What a message holds beside its tensors' elements, at most: names and ids; each tensor's type and shape; each row's
# length as a varint.
HEADROOM_BYTES = 2048
TENSOR_HEADROOM_BYTES = 128
LENGTH_BYTES = 10
_SELECTIONS: dict[str, sequence_pb2.OutputSelection] = {
    "all": sequence_pb2.OUTPUT_SELECTION_ALL,
    "last": sequence_pb2.OUTPUT_SELECTION_LAST,
    "none": sequence_pb2.OUTPUT_SELECTION_NONE,
}


class Piece(NamedTuple):
    """The steps ``start`` to ``stop - 1`` of a sequence."""

    start: int
    stop: int


def selection_of(outputs: str) -> sequence_pb2.OutputSelection:
    """The wire's name of ``all``, ``last`` or ``none``.

    Raises:
        FieldInvalidError: another word.
    """
    if outputs not in _SELECTIONS:
        raise FieldInvalidError(f"outputs: expected one of {', '.join(get_args(OutputMode))}; got {outputs!r}")
    return _SELECTIONS[outputs]


def row_bytes(specs: Sequence[ArraySpec]) -> int:
    """The bytes of one step of one row."""
    return sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in specs)


def steps_per_piece(
    limits: ModelLimits,
    *,
    rows: int,
    input_bytes: int,
    output_bytes: int,
    state_bytes: int,
    tensors: int,
    max_message_bytes: int,
) -> int:
    """How many steps one request may have, so that neither it nor its answer is too large; at least 1.

    Args:
        limits: the server's.
        rows: the batch size.
        input_bytes: one step of one row, on the way there.
        output_bytes: one step of one row, on the way back; 0 when not every step's outputs are wanted.
        state_bytes: what one row's state takes in the same messages.
        tensors: how many tensors the larger of the two messages has.
        max_message_bytes: the largest message that the client takes.
    """
    room = min(limits.max_message_bytes, max_message_bytes) - HEADROOM_BYTES - tensors * TENSOR_HEADROOM_BYTES
    room -= rows * (state_bytes + LENGTH_BYTES)
    step_bytes = max(rows * max(input_bytes, output_bytes), 1)
    # A single step that is too large is sent all the same: the server's refusal says what its limit is.
    return max(min(room // step_bytes, limits.max_sequence_steps), 1)


def cut(steps: int, lengths: Array | None, longest_piece: int) -> Iterator[Piece]:
    """The pieces of a sequence, in order: at least one, and none after the longest row's last step.

    Args:
        steps: the sequence's time.
        lengths: each row's, 0 to ``steps``; None: all are whole.
        longest_piece: steps of a piece at most.
    """
    needed = steps
    if lengths is not None:
        # One step at least, where there is one: the server checks the shapes even if nothing is to be computed.
        needed = min(max(int(lengths.max(initial=0)), 1), steps)
    yield Piece(0, min(longest_piece, needed))
    for start in range(longest_piece, needed, longest_piece):
        yield Piece(start, min(start + longest_piece, needed))


def lengths_within(lengths: Array | None, piece: Piece) -> Array | None:
    """How many steps of each row fall into a piece."""
    return None if lengths is None else np.clip(lengths - piece.start, 0, piece.stop - piece.start)


class Gathered:
    """The outputs of a sequence, filled piece by piece.

    Args:
        outputs: which are wanted.
        specs: what a step of a row gives.
        rows: the batch size.
        steps: the whole sequence's time.
    """

    def __init__(self, outputs: OutputMode, specs: Sequence[ArraySpec], rows: int, steps: int) -> None:
        self._outputs = outputs
        time: tuple[int, ...] = (steps,) if outputs == "all" else ()
        wanted = () if outputs == "none" else specs
        # Zeros: what TensorFlow gives past a row's length, and what no piece covers.
        self._arrays: list[Array] = [np.zeros((rows, *time, *spec.shape), spec.dtype) for spec in wanted]

    def add(self, piece: Piece, lengths: Array | None, arrays: Sequence[Array]) -> None:
        """Takes a piece's outputs: ``[rows, time, ...]``, with a time of 1 for ``last``.

        Args:
            piece: which steps they are of.
            lengths: each row's steps within the piece; None: all.
            arrays: as the server gave them.
        """
        for whole, part in zip(self._arrays, arrays, strict=True):
            if self._outputs == "all":
                whole[:, piece.start : piece.stop] = part
            elif piece.stop > piece.start:
                # A row that ended in an earlier piece keeps its own last output.
                rows = slice(None) if lengths is None else lengths > 0
                whole[rows] = part[rows, 0]

    def whole(self) -> list[Array] | None:
        """The outputs, ``[rows, steps, ...]`` or, for ``last``, ``[rows, ...]``; None when none are wanted."""
        return None if self._outputs == "none" else self._arrays

    def first(self, steps: int) -> list[Array] | None:
        """As ``whole`` would be had the sequence ended after so many steps."""
        if self._outputs != "all":
            return self.whole()
        return [array[:, :steps] for array in self._arrays]
