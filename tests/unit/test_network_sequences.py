"""Packed sequences, runs of many rows and threads, and the formula computed anew where the fast paths are."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellserve.cells import BasicLSTMCell, BasicRNNCell, CellDescription, GRUCell, MultiRNNCell
from cellserve.specs import Bidirectional, Dense, Layer, describe
from cellserve.tensors import Array
from cellserve_server.cells import build_network, draw_weights
from cellserve_server.cells.sequences import Packing, SequenceRunner, go_on, run_cell
from cellserve_server.cells.stack import Stack
from cellserve_server.cells.workspace import MAX_ROWS
from tests.unit.model_samples import DEPTH, FLOAT32, FLOAT64, model, network_of

LENGTHS = st.lists(st.integers(0, 6), max_size=7)


# --- Packing ----------------------------------------------------------------------------------------------------------


def steps_of_rows(lengths: Sequence[int], time: int) -> Array:
    """Sequences ``[batch, time]`` whose elements say where they are, and are -1 in the padding."""
    rows = np.arange(100, 100 * (len(lengths) + 1), 100, dtype=np.int64)
    sequences = rows[:, np.newaxis] + np.arange(time)
    sequences[np.arange(time) >= np.array(lengths, np.int64)[:, np.newaxis]] = -1
    return sequences


@given(lengths=LENGTHS, more=st.integers(0, 2))
def test_packed_are_the_steps_of_the_rows_that_go_on(lengths: list[int], more: int) -> None:
    sequences = steps_of_rows(lengths, max(lengths, default=0) + more)
    packing = Packing(np.array(lengths, np.int64))
    packed = packing.pack(sequences)
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    assert packing.order.tolist() == order
    want = [[100 * (row + 1) + step for row in order if lengths[row] > step] for step in range(max(lengths, default=0))]
    spans = zip(packing.bounds, packing.bounds[1:], strict=False)
    assert [packed[start:stop].tolist() for start, stop in spans] == want
    np.testing.assert_array_equal(packing.unpack(packed, sequences.shape[1]), np.maximum(sequences, 0))


@given(lengths=LENGTHS)
def test_a_reversal_turns_each_row_within_its_length(lengths: list[int]) -> None:
    time = max(lengths, default=0)
    packing = Packing(np.array(lengths, np.int64))
    packed = packing.pack(steps_of_rows(lengths, time))
    turned = packing.unpack(packed[packing.reversal], time)
    for row, length in enumerate(lengths):
        assert turned[row, :length].tolist() == [100 * (row + 1) + step for step in reversed(range(length))]
    np.testing.assert_array_equal(packed[packing.reversal][packing.reversal], packed)


@given(lengths=LENGTHS, rows=st.integers(1, 20))
def test_blocks_are_all_steps_in_order(lengths: list[int], rows: int) -> None:
    packing = Packing(np.array(lengths, np.int64))
    blocks = list(packing.blocks(rows))
    assert [step for block in blocks for step in block] == list(range(max(lengths, default=0)))
    for block in blocks:
        assert len(block) == 1 or packing.bounds[block.stop] - packing.bounds[block.start] <= rows


# --- Runs -------------------------------------------------------------------------------------------------------------


class Adder:
    """A cell that offers only ``step``: it adds its inputs up, and says twice the sum."""

    leaf_sizes = (2,)
    output_size = 2

    def step(self, inputs: Array, leaves: Sequence[Array]) -> tuple[Array, list[Array]]:
        after = leaves[0] + inputs
        return 2 * after, [after]


def test_a_cell_with_nothing_but_a_step_runs_too() -> None:
    x = np.arange(24.0).reshape(3, 4, 2)
    lengths = np.array([2, 4, 0])
    packing = Packing(lengths)
    start = np.array([[100.0, 0], [200, 0], [300, 0]])
    assert not isinstance(Adder(), SequenceRunner)
    for cell, times in ((Adder(), 1), (Stack([Adder(), Adder()]), 2)):
        leaves = [start[packing.order]] * times
        packed, after = run_cell(cell, packing.pack(x), packing, leaves, go_on)
        outputs, sums = packing.unpack(packed, 4), start
        for _ in range(times):
            sums = start[:, np.newaxis] + np.cumsum(x if times == 1 or sums is start else 2 * sums, axis=1)
        alive = np.arange(4) < lengths[:, np.newaxis]
        np.testing.assert_array_equal(outputs[alive], 2 * sums[alive])
        assert not outputs[~alive].any()
        np.testing.assert_array_equal(after[-1][np.argsort(packing.order)][2], start[2])
        np.testing.assert_array_equal(after[-1][np.argsort(packing.order)][1], sums[1, 3])


LAYERS: dict[str, list[Layer]] = {
    "lstm": [BasicLSTMCell(4)],
    "stack": [MultiRNNCell([BasicLSTMCell(4), GRUCell(3)]), Dense(2)],
    "bidirectional": [Bidirectional(GRUCell(3), BasicRNNCell(2))],
}


@pytest.mark.parametrize("name", LAYERS)
def test_more_rows_than_are_computed_at_once(name: str) -> None:
    rows = 2 * MAX_ROWS + 3
    network, noise = network_of(model(LAYERS[name])), np.random.default_rng(1)
    x = noise.normal(0, 1, (rows, 4, DEPTH)).astype(np.float32)
    leaves = [noise.normal(0, 1, (rows, size)).astype(np.float32) for size in network.leaf_sizes]
    lengths = noise.integers(0, 5, rows)
    (outputs,), after = network.run([x], lengths, leaves)
    for row in (0, 1, MAX_ROWS - 1, MAX_ROWS, 2 * MAX_ROWS, rows - 1):
        one = slice(row, row + 1)
        (alone,), alone_after = network.run([x[one]], lengths[one], [leaf[one] for leaf in leaves])
        for got, want in zip([outputs, *after], [alone, *alone_after], strict=True):
            np.testing.assert_allclose(got[one], want, rtol=1e-5, atol=1e-5)
    if name != "bidirectional":
        (output,), after = network.step([x[:, 0]], leaves)
        (alone,), alone_after = network.run([x[:, :1]], np.ones(rows, np.int64), leaves)
        for got, want in zip([output, *after], [alone[:, 0], *alone_after], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_before_each_step_of_each_layer_one_is_asked() -> None:
    network = network_of(model([BasicLSTMCell(4), Dense(3), GRUCell(2)]))
    x, leaves = np.zeros((2, 9, DEPTH), np.float32), [np.zeros((2, size), np.float32) for size in network.leaf_sizes]
    asked: list[int] = []
    network.run([x], np.array([5, 7]), leaves, lambda: asked.append(1))
    assert len(asked) == 14

    def stop() -> None:
        asked.append(1)
        if len(asked) == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        network.run([x], np.array([5, 7]), leaves, stop)
    assert len(asked) == 17


def test_results_stay_as_they_are_when_others_are_computed() -> None:
    network, noise = network_of(model([MultiRNNCell([BasicLSTMCell(4), GRUCell(4)])])), np.random.default_rng(2)
    results, copies = [], []
    for rows in (3, 1, 3, 5):
        x = noise.normal(0, 1, (rows, 2, DEPTH)).astype(np.float32)
        leaves = [noise.normal(0, 1, (rows, size)).astype(np.float32) for size in network.leaf_sizes]
        for outputs, after in (network.step([x[:, 0]], leaves), network.run([x], np.full(rows, 2), leaves)):
            results += [*outputs, *after]
            copies += [array.copy() for array in [*outputs, *after]]
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result, copy)


def test_several_threads_at_once() -> None:
    network, rows = network_of(model([BasicLSTMCell(64), GRUCell(32)])), 40
    noise = np.random.default_rng(3)
    x = noise.normal(0, 1, (4, rows, 12, DEPTH)).astype(np.float32)
    leaves = [np.zeros((rows, size), np.float32) for size in network.leaf_sizes]
    lengths = np.full(rows, 12)
    want = [network.run([part], lengths, leaves)[0][0] for part in x]
    got: dict[int, list[Array]] = {index: [] for index in range(4)}
    together = threading.Barrier(4)

    def compute(index: int) -> None:
        together.wait()
        for _ in range(10):
            got[index].append(network.run([x[index]], lengths, leaves)[0][0])

    threads = [threading.Thread(target=compute, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, results in got.items():
        assert len(results) == 10
        for result in results:
            np.testing.assert_array_equal(result, want[index])


# --- The formulas, computed anew --------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def formula(cell: CellDescription, weights: Sequence[Array], x: Array, leaves: Sequence[Array]) -> list[Array]:
    """The new leaves, in float64 and in fresh contiguous arrays throughout."""
    kernel, bias, *rest = (array.astype(np.float64) for array in weights)
    *c, h = (leaf.astype(np.float64) for leaf in leaves)
    if isinstance(cell, BasicLSTMCell):
        i, j, f, o = np.split(np.hstack([x, h]) @ kernel + bias, 4, axis=1)
        new_c = sigmoid(f + cell.forget_bias) * c[0] + sigmoid(i) * np.tanh(j)
        return [new_c, sigmoid(o) * np.tanh(new_c)]
    r, u = np.split(sigmoid(np.hstack([x, h]) @ kernel + bias), 2, axis=1)
    return [u * h + (1 - u) * np.tanh(np.hstack([x, r * h]) @ rest[0] + rest[1])]


WIDTHS = [*range(1, 36), 63, 64, 65, 100, 127, 129, 257, 300]


@pytest.mark.parametrize("units", WIDTHS)
@pytest.mark.parametrize("kind", [BasicLSTMCell, GRUCell])
def test_every_width_gives_what_its_formula_gives(kind: type[BasicLSTMCell | GRUCell], units: int) -> None:
    # Odd widths and rows: in-place operations on parts of arrays have gone wrong in numpy's vector code before.
    cell, noise = kind(units), np.random.default_rng(units)
    for dtype, tolerance in ((FLOAT32, 1e-5), (FLOAT64, 1e-12)):
        description = describe(cell, units + 2, dtype)
        weights = draw_weights(description, 1)
        network = build_network(description, weights)
        for rows in (1, 2, 7, 33):
            x = noise.normal(0, 1, (rows, 3, units + 2)).astype(dtype)
            leaves = [noise.normal(0, 1, (rows, size)).astype(dtype) for size in network.leaf_sizes]
            want = formula(cell, list(weights.values()), x[:, 0], leaves)
            (output,), after = network.step([x[:, 0]], leaves)
            for got, expected in zip([output, *after], [want[-1], *want], strict=True):
                np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
            for step in (1, 2):
                want = formula(cell, list(weights.values()), x[:, step], want)
            _, after = network.run([x], np.full(rows, 3), leaves)
            for got, expected in zip(after, want, strict=True):
                np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_an_update_gate_of_1_keeps_the_state_to_the_last_bit() -> None:
    cell = GRUCell(4)
    description = describe(cell, 2, FLOAT32)
    weights = {name: np.zeros_like(array) for name, array in draw_weights(description, 0).items()}
    weights["gru_cell/gates/bias"] = np.array([0] * 4 + [50] * 4, np.float32)
    h = np.random.default_rng(0).normal(0, 1, (3, 4)).astype(np.float32)
    _, (after,) = build_network(description, weights).step([np.ones((3, 2), np.float32)], [h])
    np.testing.assert_array_equal(after, h)
