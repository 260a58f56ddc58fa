"""What stands in one row of a batch changes no bit of another's: for every kind of cell, in steps and in sequences."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, GRUCell
from cellserve.specs import Layer, ModelDescription, model_to_proto
from cellserve.tensors import Array
from cellserve.v1 import cell_pb2
from cellserve_server.cells import Network
from cellserve_server.cells.workspace import MAX_ROWS
from tests.unit.model_samples import model, network_of
from tests.unit.test_cells import BIDIRECTIONAL, ZOO, random_inputs, random_leaves

DENORMAL = 1e-41
POISONS = (np.nan, np.inf, -np.inf, 1e38, -1e38, DENORMAL, -DENORMAL)
# Of these the products take the ways of large ones.
LARGE: dict[str, list[Layer]] = {"lstm-128": [BasicLSTMCell(128)], "gru-300": [GRUCell(300)]}
# More than a cell computes at once, so that blocks of rows begin and end among them.
ROWS = MAX_ROWS + 45
STEPS = 4


def poisoned_rows() -> tuple[Array, Array]:
    """The rows that have poison, the first and the last among them, and what each has."""
    rows = np.unique(np.append(np.arange(0, ROWS, 9), ROWS - 1))
    return rows, np.resize(np.array(POISONS), len(rows))


def poison(arrays: Sequence[Array]) -> list[Array]:
    """A copy with poison in its rows, but for ids, which have no bad numbers."""
    rows, values = poisoned_rows()
    copies = [array.copy() for array in arrays]
    for array in copies:
        if array.dtype.kind == "f":
            array[rows] = values.astype(array.dtype).reshape(-1, *[1] * (array.ndim - 1))
    return copies


def assert_same_bits(got: Sequence[Array], want: Sequence[Array]) -> None:
    """Compares the rows that have no poison."""
    others = np.setdiff1d(np.arange(ROWS), poisoned_rows()[0])
    for left, right in zip(got, want, strict=True):
        assert left[others].tobytes() == right[others].tobytes()


def setting(description: ModelDescription, lead: tuple[int, ...]) -> tuple[Network, list[Array], list[Array]]:
    noise = np.random.default_rng(1)
    network = network_of(description)
    return network, random_inputs(description, lead, noise), random_leaves(network, ROWS, noise)


def test_every_kind_of_cell_is_among_these() -> None:
    specs = [model_to_proto(model(layers)) for layers in [*ZOO.values(), *BIDIRECTIONAL.values()]]
    named = set(re.findall(r"(\w+) {", "".join(map(str, specs))))
    kinds = {field.name for field in cell_pb2.Cell.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert len(kinds) > 10
    assert kinds <= named


@pytest.mark.parametrize("layers", [*ZOO.values(), *LARGE.values()], ids=[*ZOO, *LARGE])
def test_steps_beside_poison(layers: list[Layer]) -> None:
    description = model(layers)
    network, inputs, leaves = setting(description, (ROWS,))
    clean_leaves, leaves = leaves, poison(leaves)
    for _ in range(STEPS):
        clean, clean_leaves = network.step(inputs, clean_leaves)
        outputs, leaves = network.step(poison(inputs), leaves)
        assert_same_bits([*outputs, *leaves], [*clean, *clean_leaves])


@pytest.mark.parametrize(
    "layers", [*ZOO.values(), *LARGE.values(), *BIDIRECTIONAL.values()], ids=[*ZOO, *LARGE, *BIDIRECTIONAL]
)
def test_sequences_beside_poison(layers: list[Layer]) -> None:
    description = model(layers)
    network, inputs, leaves = setting(description, (ROWS, STEPS))
    lengths = np.random.default_rng(2).integers(0, STEPS + 1, ROWS)
    clean, clean_leaves = network.run(inputs, lengths, leaves)
    outputs, after = network.run(poison(inputs), lengths, poison(leaves))
    assert_same_bits([*outputs, *after], [*clean, *clean_leaves])
