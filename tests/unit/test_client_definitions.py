"""Cells that clients define: the input width that weights tell, and the messages that are sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, BasicRNNCell, CellDescription, GRUCell, MultiRNNCell, OutputProjectionWrapper
from cellserve.errors import DtypeMismatchError, FieldInvalidError, InvalidArgumentError, ShapeMismatchError
from cellserve.tensors import Array
from cellserve_client.definitions import CHUNK_BYTES, Definition

SHARED = BasicLSTMCell(4)
LIMIT_BYTES = 1 << 20


def weights_of(cell: CellDescription, input_size: int, dtype: Any = np.float32, scope: str = "") -> dict[str, Array]:
    return {scope + name: np.ones(shape, dtype) for name, shape, _ in cell.variables(input_size)}


def definition(cell: Any, *, seed: Any = None, weights: Any = None, dtype: Any = None, ttl_s: Any = None) -> Definition:
    return Definition(cell, seed=seed, weights=weights, dtype=dtype, ttl_s=ttl_s)


@pytest.mark.parametrize(
    ("cell", "input_size"),
    [
        (BasicRNNCell(8), 5),
        (BasicLSTMCell(8), 1),
        (GRUCell(8, name="reset"), 13),
        (MultiRNNCell([GRUCell(3), BasicLSTMCell(8)]), 5),
        (MultiRNNCell([MultiRNNCell([BasicLSTMCell(2)]), GRUCell(3)]), 6),
        (OutputProjectionWrapper(BasicLSTMCell(8), 2), 5),
        (OutputProjectionWrapper(MultiRNNCell([BasicRNNCell(3), GRUCell(8)]), 2, name="out"), 7),
        (MultiRNNCell([SHARED, SHARED]), 4),
    ],
)
@pytest.mark.parametrize("scope", ["", "rnn/", "outer/rnn/"])
def test_weights_tell_the_input_width(cell: CellDescription, input_size: int, scope: str) -> None:
    assert definition(cell, weights=weights_of(cell, input_size, scope=scope)).input_size() == input_size


def test_a_missing_kernel_is_named() -> None:
    with pytest.raises(FieldInvalidError, match="expected a variable 'basic_lstm_cell/kernel'; got"):
        definition(BasicLSTMCell(8), weights=weights_of(GRUCell(8), 5)).input_size()


@pytest.mark.parametrize("shape", [(8, 32), (3, 32), (32,)])
def test_a_kernel_without_inputs_is_refused(shape: tuple[int, ...]) -> None:
    weights = {"basic_lstm_cell/kernel": np.zeros(shape, np.float32)}
    with pytest.raises(ShapeMismatchError, match=r"expected shape \[input_size \+ 8, 32\]"):
        definition(BasicLSTMCell(8), weights=weights).input_size()


@pytest.mark.parametrize(
    ("weights", "dtype", "expected"),
    [
        (None, None, np.float32),
        (None, np.float64, np.float64),
        (weights_of(BasicRNNCell(2), 3, np.float64), None, np.float64),
        (weights_of(BasicRNNCell(2), 3, np.float32), np.float32, np.float32),
        ({"basic_rnn_cell/kernel": [[1.0]]}, None, np.float32),
    ],
)
def test_weights_decide_the_type_unless_it_is_given(weights: Any, dtype: Any, expected: Any) -> None:
    assert definition(BasicRNNCell(2), weights=weights, dtype=dtype).dtype == np.dtype(expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": weights_of(BasicRNNCell(2), 3, np.float64), "dtype": np.float32},
        {"weights": weights_of(BasicRNNCell(2), 3, np.float16)},
        {"dtype": np.int32},
        {"weights": {"kernel": np.zeros((5, 2), np.float32), "bias": np.zeros(2)}},
    ],
)
def test_types_that_do_not_fit_are_refused(arguments: Any) -> None:
    with pytest.raises(DtypeMismatchError):
        definition(BasicRNNCell(2), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 1, "weights": {"a": [1.0]}}, "seed: expected none together with weights"),
        ({"seed": -1}, "seed: expected an integer"),
        ({"seed": 1 << 64}, "seed: expected an integer"),
        ({"seed": 1.5}, "seed: expected an integer"),
        ({"weights": {}}, "weights: expected a mapping"),
        ({"weights": [1.0]}, "weights: expected a mapping"),
        ({"ttl_s": 0}, "ttl_s: expected seconds above 0"),
        ({"ttl_s": float("nan")}, "ttl_s: expected seconds above 0"),
    ],
)
def test_other_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        definition(BasicRNNCell(2), **arguments)


def test_only_cells_are_defined() -> None:
    with pytest.raises(FieldInvalidError, match=r"cell: expected a cell, such as rnn\.BasicLSTMCell\(128\); got 128"):
        definition(128)


def test_a_seed_is_sent_alone() -> None:
    (request,) = definition(BasicRNNCell(2), seed=7, ttl_s=1.5).requests(3)
    assert request.header.seed == 7
    assert request.header.spec.inputs[0].shape == [3]
    assert request.header.ttl.ToMilliseconds() == 1500


def test_without_seed_and_weights_the_seed_is_0() -> None:
    (request,) = definition(BasicRNNCell(2)).requests(3)
    assert request.header.WhichOneof("weights") == "seed"
    assert request.header.seed == 0
    assert not request.header.HasField("ttl")


def test_weights_are_sent_in_chunks_below_a_mebibyte() -> None:
    cell = BasicLSTMCell(300)
    weights: dict[str, Array] = {
        name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        for name, shape, _ in cell.variables(200)
    }
    header, *chunks = list(definition(cell, weights=weights).requests(200))
    assert [variable.name for variable in header.header.listed.variables] == list(weights)
    assert all(chunk.ByteSize() < LIMIT_BYTES for chunk in chunks)
    assert len(chunks) == 1 + -(-weights["basic_lstm_cell/kernel"].nbytes // CHUNK_BYTES)
    for name, array in weights.items():
        data = b"".join(chunk.chunk.data for chunk in chunks if chunk.chunk.variable == name)
        np.testing.assert_array_equal(np.frombuffer(data, "<f4").reshape(array.shape), array)


def test_weights_are_those_of_the_description_and_not_of_later() -> None:
    weights = weights_of(BasicRNNCell(2), 3)
    made = definition(BasicRNNCell(2), weights=weights)
    weights["basic_rnn_cell/bias"][:] = 9
    chunks = [request.chunk for request in made.requests(3) if request.HasField("chunk")]
    assert (
        next(chunk.data for chunk in chunks if chunk.variable == "basic_rnn_cell/bias") == np.ones(2, "<f4").tobytes()
    )
