"""Cutting sequences and putting their outputs together again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellserve.errors import FieldInvalidError
from cellserve.specs import ArraySpec
from cellserve.tensors import Array
from cellserve_client.models import ModelLimits
from cellserve_client.pieces import (
    HEADROOM_BYTES,
    TENSOR_HEADROOM_BYTES,
    Gathered,
    OutputMode,
    Piece,
    cut,
    lengths_within,
    row_bytes,
    selection_of,
    steps_per_piece,
)

SPECS = (ArraySpec("output", np.dtype(np.float32), (2,)), ArraySpec("score", np.dtype(np.float64), ()))
LIMITS = ModelLimits(max_sequence_steps=100, max_rows=10, max_message_bytes=100_000)


def pieces(steps: int, lengths: Sequence[int] | None, longest: int) -> list[tuple[int, int]]:
    return [(piece.start, piece.stop) for piece in cut(steps, None if lengths is None else np.array(lengths), longest)]


def test_a_short_sequence_is_one_piece() -> None:
    assert pieces(5, None, 5) == [(0, 5)]


def test_a_long_sequence_is_cut() -> None:
    assert pieces(11, None, 5) == [(0, 5), (5, 10), (10, 11)]


def test_an_empty_sequence_is_sent_all_the_same() -> None:
    assert pieces(0, None, 5) == [(0, 0)]


def test_nothing_is_sent_after_the_longest_row() -> None:
    assert pieces(100, [3, 7], 5) == [(0, 5), (5, 7)]


def test_rows_without_steps_are_one_step_for_the_server_to_check() -> None:
    assert pieces(100, [0, 0], 5) == [(0, 1)]
    assert pieces(100, [], 5) == [(0, 1)]


def test_lengths_within_a_piece() -> None:
    lengths = np.array([0, 4, 5, 7, 12])
    found = [lengths_within(lengths, Piece(start, stop)) for start, stop in [(0, 5), (5, 10), (10, 12)]]
    assert [None if within is None else within.tolist() for within in found] == [
        [0, 4, 5, 5, 5],
        [0, 0, 0, 2, 5],
        [0, 0, 0, 0, 2],
    ]
    assert lengths_within(None, Piece(0, 5)) is None


def longest(
    rows: int = 2, input_bytes: int = 0, output_bytes: int = 0, state_bytes: int = 0, client_bytes: int = 10**9
) -> int:
    return steps_per_piece(
        LIMITS,
        rows=rows,
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        state_bytes=state_bytes,
        tensors=1,
        max_message_bytes=client_bytes,
    )


def test_the_servers_steps_are_a_limit() -> None:
    assert longest(input_bytes=4) == 100


@pytest.mark.parametrize(("input_bytes", "output_bytes"), [(5000, 4), (4, 5000), (5000, 5000)])
def test_messages_are_a_limit_in_both_directions(input_bytes: int, output_bytes: int) -> None:
    room = LIMITS.max_message_bytes - HEADROOM_BYTES - TENSOR_HEADROOM_BYTES - 2 * 10
    assert longest(input_bytes=input_bytes, output_bytes=output_bytes) == room // (2 * 5000)


def test_the_clients_own_limit_counts_too() -> None:
    assert longest(input_bytes=5000, client_bytes=50_000) < longest(input_bytes=5000)


def test_a_state_takes_its_room() -> None:
    assert longest(input_bytes=5000, state_bytes=20_000) < longest(input_bytes=5000)


def test_what_never_fits_is_sent_step_by_step() -> None:
    assert longest(input_bytes=10**9) == 1


def test_the_bytes_of_a_step() -> None:
    assert row_bytes(SPECS) == 2 * 4 + 8


@pytest.mark.parametrize("mode", ["ALL", "", "first", None])
def test_other_outputs_are_refused(mode: str) -> None:
    with pytest.raises(FieldInvalidError, match="outputs: expected one of all, last, none"):
        selection_of(mode)


def serve(whole: list[Array], lengths: Array | None, piece: Piece, mode: OutputMode) -> list[Array]:
    """What a server would answer to one piece."""
    within = lengths_within(lengths, piece)
    steps = piece.stop - piece.start
    if mode == "none":
        return []
    if mode == "all":
        return [array[:, piece.start : piece.stop] for array in whole]
    ends = np.full(len(whole[0]), steps) if within is None else within
    last = [np.zeros((len(array), 1, *array.shape[2:]), array.dtype) for array in whole]
    for row, end in enumerate(ends):
        if end > 0:
            for target, array in zip(last, whole, strict=True):
                target[row, 0] = array[row, piece.start + end - 1]
    return last


@given(
    steps=st.integers(0, 12),
    longest_piece=st.integers(1, 13),
    rows=st.integers(0, 4),
    data=st.data(),
    mode=st.sampled_from(["all", "last", "none"]),
)
def test_pieces_give_what_the_whole_gives(
    steps: int, longest_piece: int, rows: int, data: st.DataObject, mode: OutputMode
) -> None:
    lengths = None
    if data.draw(st.booleans()):
        lengths = np.array(data.draw(st.lists(st.integers(0, steps), min_size=rows, max_size=rows)), np.int64)
    whole = [1.0 + np.arange(rows * steps * width, dtype=spec.dtype) for spec, width in zip(SPECS, (2, 1), strict=True)]
    whole = [array.reshape(rows, steps, *spec.shape) for array, spec in zip(whole, SPECS, strict=True)]
    if lengths is not None:
        for row, length in enumerate(lengths):
            for array in whole:
                array[row, length:] = 0
    gathered = Gathered(mode, SPECS, rows, steps)
    covered = 0
    for piece in cut(steps, lengths, longest_piece):
        assert piece.start == covered
        covered = piece.stop
        gathered.add(piece, lengths_within(lengths, piece), serve(whole, lengths, piece, mode))
    needed = steps if lengths is None else int(lengths.max(initial=0))
    assert needed <= covered <= steps
    expected = serve(whole, lengths, Piece(0, steps), mode)
    found = gathered.whole()
    if mode == "none":
        assert found is None
        return
    assert found is not None
    for want, have in zip(expected, found, strict=True):
        np.testing.assert_array_equal(have, want if mode == "all" else want[:, 0])


def test_outputs_so_far() -> None:
    gathered = Gathered("all", SPECS[:1], 1, 4)
    gathered.add(Piece(0, 2), None, [np.ones((1, 2, 2), np.float32)])
    (first,) = gathered.first(2) or []
    np.testing.assert_array_equal(first, np.ones((1, 2, 2)))


def test_last_outputs_so_far() -> None:
    gathered = Gathered("last", SPECS[:1], 2, 4)
    gathered.add(Piece(0, 2), np.array([1, 2]), [np.full((2, 1, 2), 3, np.float32)])
    gathered.add(Piece(2, 4), np.array([0, 1]), [np.full((2, 1, 2), 5, np.float32)])
    (last,) = gathered.first(4) or []
    np.testing.assert_array_equal(last, [[3, 3], [5, 5]])
