"""What the sessions of a load test are stepped with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicRNNCell
from cellserve.errors import FieldInvalidError
from cellserve.specs import ArraySpec, describe, model_to_proto
from cellserve.v1 import model_pb2
from cellserve_client.load.inputs import random_inputs, read_inputs
from cellserve_client.models import ModelInfo, info_from_proto

DEPTH = 3
IDS = np.dtype(np.int32)


@pytest.fixture
def vectors() -> ModelInfo:
    """A model of one input of three numbers."""
    spec = model_to_proto(describe(BasicRNNCell(2), DEPTH, np.dtype(np.float32)))
    return info_from_proto(model_pb2.Model(name="models/v/versions/1", spec=spec))


@pytest.fixture
def several(vectors: ModelInfo) -> ModelInfo:
    """A model of two inputs, of which one is ids below 10."""
    return replace(vectors, inputs=(ArraySpec("ids", IDS, ()), *vectors.inputs), vocabulary_size=10)


@pytest.fixture
def ids(several: ModelInfo) -> ModelInfo:
    """A model of ids below 10."""
    return replace(several, inputs=several.inputs[:1])


def saved(path: Path, save: Callable[[Path], Any]) -> Path:
    save(path)
    return path


def test_a_file_is_played_round(vectors: ModelInfo, tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float64).reshape(4, DEPTH)
    source = read_inputs(saved(tmp_path / "a.npy", lambda path: np.save(path, array)), vectors)
    assert source.first(np.random.default_rng(0)) == 0
    step = source.step(5)
    assert isinstance(step, np.ndarray)
    assert step.dtype == np.float32
    np.testing.assert_array_equal(step, array[1])
    np.testing.assert_array_equal(source.sequence(3, 6), array[[3, 0, 1, 2, 3, 0]])


def test_a_table_is_read_with_its_comments(vectors: ModelInfo, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.csv", lambda path: path.write_text("# x,y,z\n1,2,3\n4,5,6.5\n"))
    np.testing.assert_array_equal(read_inputs(path, vectors).sequence(0, 2), [[1, 2, 3], [4, 5, 6.5]])


def test_several_inputs_come_by_name(several: ModelInfo, tmp_path: Path) -> None:
    numbers, vectors = np.array([7, 9]), np.ones((2, DEPTH), np.float32)
    path = saved(tmp_path / "a.npz", lambda path: np.savez(path, ids=numbers, inputs=vectors))
    step = read_inputs(path, several).step(1)
    assert isinstance(step, dict)
    assert (step["ids"], step["ids"].dtype) == (9, IDS)
    assert step["inputs"].shape == (DEPTH,)


def test_ids_are_read_from_a_table(ids: ModelInfo, tmp_path: Path) -> None:
    source = read_inputs(saved(tmp_path / "a.csv", lambda path: path.write_text("3\n4\n")), ids)
    step = source.step(0)
    assert isinstance(step, np.ndarray)
    assert (int(step), step.shape, step.dtype.name) == (3, (), "int32")


def test_random_inputs_fit_the_model(several: ModelInfo) -> None:
    source = random_inputs(several, np.random.default_rng(1))
    step, sequence = source.step(0), source.sequence(600, 5)
    assert isinstance(step, dict)
    assert isinstance(sequence, dict)
    assert (step["ids"].dtype, step["inputs"].dtype) == (IDS, np.float32)
    assert {name: array.shape for name, array in sequence.items()} == {"ids": (5,), "inputs": (5, DEPTH)}
    ids = source.sequence(0, 500)
    assert isinstance(ids, dict)
    assert set(ids["ids"].tolist()) == set(range(10))
    assert len({source.first(np.random.default_rng(seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize(
    ("name", "save", "message"),
    [
        ("a.npy", lambda path: np.save(path, np.ones((5, 4))), r"expected \[steps, 3\] for 'inputs' .* has \[5, 4\]"),
        ("a.npy", lambda path: np.save(path, np.ones(3)), r"expected \[steps, 3\]"),
        ("a.npy", lambda path: np.save(path, np.ones((0, 3))), "as many steps each, at least one; .* has 0"),
        ("a.npy", lambda path: np.save(path, np.array([["a", "b", "c"]])), "expected numbers"),
        ("a.npy", lambda path: path.write_text("hello"), "cannot be read"),
        ("a.npy", lambda path: path.write_text(""), "cannot be read"),
        ("a.npz", lambda path: path.write_text("hello"), "cannot be read"),
        ("a.npz", lambda path: np.savez(path, frames=np.ones((2, 3))), "an array for each of inputs, .* has frames"),
        ("a.csv", lambda path: path.write_text("x,y,z\n1,2,3\n"), "cannot be read"),
        ("a.csv", lambda path: path.write_text("1,2\n"), r"expected \[steps, 3\]"),
        ("a.txt", lambda path: path.write_text("1,2,3\n"), "ends in .npy, .npz or .csv"),
        ("a.npy", lambda path: None, "cannot be read: .*No such file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    vectors: ModelInfo, tmp_path: Path, name: str, save: Callable[[Path], Any], message: str
) -> None:
    with pytest.raises(FieldInvalidError, match=f"inputs: .*{message}"):
        read_inputs(saved(tmp_path / name, save), vectors)


@pytest.mark.parametrize("values", [[-1, 2], [3, 10], [0.5, 1]])
def test_ids_that_there_are_not_are_refused(ids: ModelInfo, tmp_path: Path, values: list[float]) -> None:
    path = saved(tmp_path / "a.npy", lambda path: np.save(path, np.array(values)))
    with pytest.raises(FieldInvalidError, match="inputs: expected ids, whole numbers from 0 to 9, for 'ids'"):
        read_inputs(path, ids)


def test_one_array_is_not_enough_for_several_inputs(several: ModelInfo, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", lambda path: np.save(path, np.ones((2, 3))))
    with pytest.raises(FieldInvalidError, match=r"inputs: expected a \.npz with ids, inputs"):
        read_inputs(path, several)


def test_what_is_wrong_with_a_file_is_said_once(
    vectors: ModelInfo, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    other, empty = tmp_path / "a.txt", tmp_path / "a.csv"
    for path in (other, empty):
        path.write_text("")
    with pytest.raises(FieldInvalidError, match=r"^inputs: expected a file that ends in \.npy"):
        read_inputs(other, vectors)
    with pytest.raises(FieldInvalidError, match=r"^inputs: expected \[steps, 3\]"):
        read_inputs(empty, vectors)
    assert not recwarn.list
