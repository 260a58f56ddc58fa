"""What a watch keeps, and the bytes in which it is told."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell
from cellserve.specs import describe
from cellserve.tensors import Array
from cellserve_server.inspector.encoding import MAX_BANDS, bands, encode
from cellserve_server.inspector.missing_states import AGAIN, with_states
from cellserve_server.inspector.watch import HAS_OUTPUTS, HAS_STATE, Piece, Watch, bytes_of_a_step
from cellserve_server.models.loaded_model import LoadedModel, draft_model
from tests.inspecting import decode

UNITS, DEPTH, WINDOW = 3, 2, 4
ALL = 1 << 30


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    draft = draft_model(describe(BasicLSTMCell(UNITS), DEPTH, np.dtype(np.float32)), seed=0)
    return LoadedModel("m", 1, None, draft, 0.0)


def leaves_of(number: int) -> list[Array]:
    return [np.full(UNITS, number + part / 2, np.float32) for part in range(2)]


def add(watch: Watch, number: int, life: int = 1) -> None:
    watch.add(life, number, 100.0 + number, leaves_of(number), [np.full(UNITS, -number, np.float32)])


def test_steps_come_back_as_they_were_added(model: LoadedModel) -> None:
    watch = Watch(model, WINDOW)
    assert watch.last is None
    for number in range(3):
        add(watch, number)
    seen = watch.since(0, ALL)
    assert (seen.first, seen.next, seen.lost) == (0, 3, 0)
    assert seen.step_counts.tolist() == [0, 1, 2]
    assert seen.times.tolist() == [100.0, 101.0, 102.0]
    assert seen.parts.tolist() == [HAS_STATE | HAS_OUTPUTS] * 3
    assert np.array_equal(seen.leaves[1], np.stack([leaves_of(number)[1] for number in range(3)]))
    assert seen.outputs[0][:, 0].tolist() == [0, -1, -2]
    assert watch.last == (1, 2)


def test_the_oldest_steps_go_and_the_memory_stays_what_it_is(model: LoadedModel) -> None:
    watch = Watch(model, WINDOW)
    before = watch.nbytes
    for number in range(11):
        add(watch, number)
    seen = watch.since(2, ALL)
    assert (seen.first, seen.next, seen.lost) == (7, 11, 5)
    assert seen.step_counts.tolist() == [7, 8, 9, 10]
    assert seen.leaves[0][:, 0].tolist() == [7, 8, 9, 10]
    assert watch.nbytes == before <= WINDOW * bytes_of_a_step(model)


@pytest.mark.parametrize(
    ("after", "limit", "first", "counts"),
    [(0, 2, 0, [0, 1]), (2, ALL, 2, [2]), (3, ALL, 3, []), (50, ALL, 3, [])],
)
def test_only_what_was_asked_for_comes(
    model: LoadedModel, after: int, limit: int, first: int, counts: list[int]
) -> None:
    watch = Watch(model, WINDOW)
    for number in range(3):
        add(watch, number)
    seen = watch.since(after, limit)
    assert (seen.first, seen.lost, seen.step_counts.tolist()) == (first, 0, counts)


def test_what_comes_later_does_not_change_what_was_given(model: LoadedModel) -> None:
    watch = Watch(model, WINDOW)
    add(watch, 1)
    seen = watch.since(0, ALL)
    for number in range(2, 9):
        add(watch, number)
    assert seen.leaves[0].tolist() == [[1.0] * UNITS]


def test_parts_that_are_not_known_are_zeros_and_say_so(model: LoadedModel) -> None:
    watch = Watch(model, 1)
    add(watch, 7)
    watch.add(1, 8, 0.0, leaves_of(8), None)
    seen = watch.since(1, ALL)
    assert (seen.parts.tolist(), seen.outputs[0].tolist()) == ([HAS_STATE], [[0.0] * UNITS])
    watch.add(1, 9, 0.0, None, [np.ones(UNITS, np.float32)])
    seen = watch.since(2, ALL)
    assert (seen.parts.tolist(), seen.leaves[0].tolist()) == ([HAS_OUTPUTS], [[0.0] * UNITS])


# --- longer runs ------------------------------------------------------------------------------------------------------


def piece_of(model: LoadedModel, steps: int, length: int) -> tuple[Piece, list[list[Array]]]:
    """A piece of a run, and the state after each of its steps."""
    generator = np.random.default_rng(1)
    inputs = generator.standard_normal((steps, DEPTH)).astype(np.float32)
    before = [generator.standard_normal(UNITS).astype(np.float32) for _ in model.leaf_sizes]
    state, states, outputs = [leaf[np.newaxis] for leaf in before], [], np.zeros((steps, UNITS), np.float32)
    for step in range(steps):
        if step < length:
            (output,), state = model.network.step([inputs[step : step + 1]], state)
            outputs[step] = output[0]
        states.append([leaf[0] for leaf in state])
    return Piece(steps, length, [inputs[:length]], before, states[-1], [outputs]), states


def test_the_last_state_of_a_piece_is_seen_and_those_before_are_computed_again(model: LoadedModel) -> None:
    watch = Watch(model, 16)
    add(watch, 10)
    piece, states = piece_of(model, steps=6, length=4)
    watch.add_piece(1, 16, 0.0, piece)
    seen = watch.since(0, ALL)
    both = HAS_STATE | HAS_OUTPUTS
    assert seen.step_counts.tolist() == [10, 11, 12, 13, 14, 15, 16]
    assert seen.parts.tolist() == [both, HAS_OUTPUTS, HAS_OUTPUTS, HAS_OUTPUTS, both, both, both]
    assert np.array_equal(seen.outputs[0][1:], piece.outputs[0])
    full = with_states(seen, model.network)
    assert full.parts.tolist() == [both, *[both | AGAIN] * 3, both, both, both]
    for number, leaf in enumerate(full.leaves):
        assert np.array_equal(leaf[1:], np.stack([state[number] for state in states]))
    assert seen.parts[1] == HAS_OUTPUTS, "what was seen is not changed"


@pytest.mark.parametrize("after", [1, 2, 3, 4])
@pytest.mark.parametrize("limit", [1, 2, ALL])
def test_states_are_computed_from_wherever_an_answer_begins(model: LoadedModel, after: int, limit: int) -> None:
    watch = Watch(model, 16)
    add(watch, 10)
    piece, states = piece_of(model, steps=4, length=4)
    watch.add_piece(1, 14, 0.0, piece)
    full = with_states(watch.since(after, limit), model.network)
    expected = [state[0] for state in states][after - 1 : after - 1 + limit]
    assert np.array_equal(full.leaves[0], np.stack(expected))


def test_states_beyond_the_limit_of_time_stay_unseen(model: LoadedModel) -> None:
    watch = Watch(model, 16)
    piece, _ = piece_of(model, steps=6, length=6)
    watch.add_piece(1, 6, 0.0, piece)
    seconds = itertools.count()
    full = with_states(watch.since(0, ALL), model.network, lambda: next(seconds), limit_s=2)
    assert [bool(parts & HAS_STATE) for parts in full.parts] == [True, True, False, False, False, True]


def test_what_is_kept_of_longer_runs_is_bounded(model: LoadedModel) -> None:
    watch = Watch(model, WINDOW)
    piece, _ = piece_of(model, steps=3, length=3)
    for number in range(20):
        watch.add_piece(1, 3 * number + 3, 0.0, piece)
        if number == 5:
            settled = watch.nbytes
    assert watch.nbytes == settled
    assert with_states(watch.since(0, ALL), model.network).parts.tolist() == [3, 3 | AGAIN, 3 | AGAIN, 3]


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_arrays_come_out_as_they_went_in() -> None:
    arrays: dict[str, Array] = {
        "bytes": np.array([1, 2, 3], np.uint8),
        "counts": np.array([1, 1 << 52], np.int64),
        "singles": np.array([[0.1, np.nan, -np.inf]], np.float32),
        "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "ids": np.array([-5], np.int32),
        "none": np.zeros((0, 4), np.float32),
    }
    header, found = decode(encode({"text": "<&\u00e9"}, arrays))
    assert header["text"] == "<&\u00e9"
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name], array, equal_nan=True), name
    assert found["counts"].dtype == np.float64, "JavaScript has no other number for it"


def test_up_to_so_many_units_are_shown_one_by_one() -> None:
    leaf = np.arange(2 * MAX_BANDS, dtype=np.float32).reshape(2, MAX_BANDS)
    shown, width = bands(leaf)
    assert width == 1
    assert shown is leaf


@pytest.mark.parametrize("units", [MAX_BANDS + 1, 2048, 4 * MAX_BANDS - 3])
def test_a_band_has_the_value_that_is_furthest_from_0(units: int) -> None:
    leaf = np.random.default_rng(0).standard_normal((5, units)).astype(np.float32)
    shown, width = bands(leaf)
    assert shown.shape[1] <= MAX_BANDS
    for band in range(shown.shape[1]):
        group = leaf[:, band * width : (band + 1) * width]
        assert np.array_equal(shown[:, band], group[np.arange(5), np.abs(group).argmax(axis=1)])


def test_a_band_with_a_nan_is_nan() -> None:
    leaf = np.ones((1, 2 * MAX_BANDS), np.float32)
    leaf[0, 5] = np.nan
    shown, _ = bands(leaf)
    assert np.flatnonzero(np.isnan(shown[0])).tolist() == [2]
