"""Cells around cells: what they add, what they leave alone, and how ids come through them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.cells import (
    BasicLSTMCell,
    BasicRNNCell,
    CellDescription,
    DropoutWrapper,
    EmbeddingWrapper,
    GRUCell,
    InputProjectionWrapper,
    MultiRNNCell,
    OutputProjectionWrapper,
    ResidualWrapper,
)
from cellserve.errors import FieldInvalidError, ShapeMismatchError
from cellserve.specs import Bidirectional, describe, model_from_proto, model_to_proto
from cellserve.tensors import Array
from cellserve_server.cells import Network, build_network, draw_weights
from cellserve_server.models.weights import prepare_weights
from tests.unit.model_samples import DEPTH, FLOAT32, FLOAT64, model, network_of

ROWS = 4


def network(cell: CellDescription, weights: dict[str, Array], depth: int = DEPTH) -> Network:
    description = describe(cell, depth, FLOAT64)
    return build_network(description, prepare_weights(description, weights))


def noisy_weights(cell: CellDescription, depth: int = DEPTH) -> dict[str, Array]:
    noise = np.random.default_rng(31)
    return {
        name: array + noise.normal(0, 0.1, array.shape)
        for name, array in draw_weights(describe(cell, depth, FLOAT64), 0).items()
    }


def scoped(scope: str, weights: dict[str, Array]) -> dict[str, Array]:
    return {f"{scope}/{name}": array for name, array in weights.items()}


def test_a_residual_wrapper_adds_its_inputs_and_leaves_the_state_alone() -> None:
    # The RNN's output is its state: what is added to one must not reach the other.
    inner, noise = BasicRNNCell(DEPTH), np.random.default_rng(32)
    weights = noisy_weights(inner)
    x, h = noise.normal(size=(ROWS, DEPTH)), noise.normal(size=(ROWS, DEPTH))
    (bare,), (new_h,) = network(inner, weights).step([x], [h])
    (output,), (same_h,) = network(ResidualWrapper(inner), weights).step([x], [h])
    np.testing.assert_array_equal(output, bare + x)
    np.testing.assert_array_equal(same_h, new_h)


@pytest.mark.parametrize("width", [1, DEPTH + 1])
def test_a_residual_wrapper_takes_equal_widths_alone(width: int) -> None:
    with pytest.raises(
        ShapeMismatchError, match=rf"expected inputs as wide as the cell's outputs, {DEPTH}; got {width}"
    ):
        ResidualWrapper(BasicRNNCell(DEPTH)).variables(width)


def test_a_dropout_wrapper_drops_nothing() -> None:
    inner, noise = BasicLSTMCell(4), np.random.default_rng(33)
    wrapper = DropoutWrapper(inner, input_keep_prob=0.1, output_keep_prob=0.2, state_keep_prob=0.3)
    weights = noisy_weights(inner)
    x, leaves = noise.normal(size=(ROWS, DEPTH)), [noise.normal(size=(ROWS, 4)) for _ in range(2)]
    want, want_leaves = network(inner, weights).step([x], leaves)
    got, got_leaves = network(wrapper, weights).step([x], leaves)
    for left, right in zip([*got, *got_leaves], [*want, *want_leaves], strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_output_projection_leaves_the_state_alone() -> None:
    inner, noise = GRUCell(4), np.random.default_rng(8)
    weights = noisy_weights(inner)
    kernel, bias = noise.normal(size=(4, 2)), noise.normal(size=2)
    all_weights = scoped("output_projection_wrapper", {**weights, "kernel": kernel, "bias": bias})
    x, h = noise.normal(size=(3, DEPTH)), noise.normal(size=(3, 4))
    (output,), (new_h,) = network(inner, weights).step([x], [h])
    (projected,), (same_h,) = network(OutputProjectionWrapper(inner, 2, "relu"), all_weights).step([x], [h])
    np.testing.assert_allclose(projected, np.maximum(output @ kernel + bias, 0), rtol=1e-12)
    np.testing.assert_array_equal(same_h, new_h)


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_an_input_projection_is_what_the_cell_sees(activation: str | None) -> None:
    inner, noise = GRUCell(4), np.random.default_rng(34)
    weights = noisy_weights(inner, 5)
    kernel, bias = noise.normal(size=(DEPTH, 5)), noise.normal(size=5)
    all_weights = scoped("input_projection_wrapper", {"kernel": kernel, "bias": bias, **weights})
    x, h = noise.normal(size=(ROWS, DEPTH)), noise.normal(size=(ROWS, 4))
    seen = x @ kernel + bias
    want, want_h = network(inner, weights, 5).step([np.tanh(seen) if activation else seen], [h])
    got, got_h = network(InputProjectionWrapper(inner, 5, activation), all_weights).step([x], [h])
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    np.testing.assert_allclose(got_h[0], want_h[0], rtol=1e-12)


def test_an_embedding_wrapper_gives_the_cell_rows_of_its_table() -> None:
    inner, noise = GRUCell(4), np.random.default_rng(35)
    weights, table = noisy_weights(inner, 5), noise.normal(size=(7, 5))
    all_weights = scoped("embedding_wrapper", {"embedding": table, **weights})
    ids, h = np.array([6, 0, 6, 3], np.int32), noise.normal(size=(ROWS, 4))
    want, want_h = network(inner, weights, 5).step([table[ids]], [h])
    got, got_h = network(EmbeddingWrapper(inner, 7, 5), all_weights).step([ids], [h])
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got_h[0], want_h[0])


def test_variables_are_made_in_tensorflows_order() -> None:
    cell = EmbeddingWrapper(OutputProjectionWrapper(InputProjectionWrapper(BasicRNNCell(4), 3), 2), 7, 5)
    names = [variable.name for variable in cell.variables(0)]
    wrapped = "embedding_wrapper/output_projection_wrapper"
    inside = f"{wrapped}/input_projection_wrapper"
    assert names == [
        "embedding_wrapper/embedding",
        f"{inside}/kernel",
        f"{inside}/bias",
        f"{inside}/basic_rnn_cell/kernel",
        f"{inside}/basic_rnn_cell/bias",
        f"{wrapped}/kernel",
        f"{wrapped}/bias",
    ]


# --- Ids --------------------------------------------------------------------------------------------------------------

EMBEDDED = EmbeddingWrapper(GRUCell(4), 5, 2)
ON_IDS: dict[str, CellDescription] = {
    "alone": EMBEDDED,
    "dropout": DropoutWrapper(EMBEDDED),
    "projection": OutputProjectionWrapper(EMBEDDED, 3),
    "stack": MultiRNNCell([EMBEDDED, GRUCell(3)]),
    "deep": OutputProjectionWrapper(DropoutWrapper(MultiRNNCell([MultiRNNCell([DropoutWrapper(EMBEDDED)])])), 2),
}


@pytest.mark.parametrize("cell", ON_IDS.values(), ids=ON_IDS.keys())
def test_an_id_out_of_range_is_found_through_all_wrappers(cell: CellDescription) -> None:
    description = model([cell])
    assert model_from_proto(model_to_proto(description)) == description
    network = network_of(description)
    with pytest.raises(FieldInvalidError, match=r"inputs\[0\]\[1\]: expected an id from 0 to 4; got 5"):
        network.check_inputs([np.array([0, 5], np.int32)], "inputs")
    ids = np.array([[4, -7], [99, 1]], np.int32)
    with pytest.raises(FieldInvalidError, match=r"inputs\[0\]\[1\]\[0\]: expected an id from 0 to 4; got 99"):
        network.check_inputs([ids], "inputs", np.array([1, 1]))
    network.check_inputs([ids], "inputs", np.array([1, 0]))
    leaves = [np.zeros((2, size), np.float32) for size in network.leaf_sizes]
    (outputs,), _ = network.run([ids], np.array([1, 0]), leaves)
    assert outputs[0, 0].any()
    assert not outputs[0, 1].any()
    assert not outputs[1].any()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ResidualWrapper(EMBEDDED), "cell"),
        (lambda: InputProjectionWrapper(DropoutWrapper(EMBEDDED), 3), "cell"),
        (lambda: EmbeddingWrapper(EMBEDDED, 3, 4), "cell"),
        (lambda: MultiRNNCell([GRUCell(2), MultiRNNCell([EMBEDDED])]), r"cells\[1\]"),
        (lambda: model([Bidirectional(EMBEDDED, GRUCell(4))]), "bidirectional.forward"),
        (lambda: model([Bidirectional(GRUCell(4), EMBEDDED)]), "bidirectional.backward"),
    ],
)
def test_a_cell_on_ids_is_refused_where_vectors_come(make: Any, field: str) -> None:
    with pytest.raises(FieldInvalidError, match=rf"{field}: expected a cell on vectors; got one on ids"):
        make()


def test_float_inputs_for_a_cell_on_ids_are_refused() -> None:
    message = model_to_proto(model([EMBEDDED]))
    message.inputs[0].CopyFrom(model_to_proto(describe(GRUCell(4), 2, FLOAT32)).inputs[0])
    with pytest.raises(FieldInvalidError, match="an embedding is the first layer, on int32 ids"):
        model_from_proto(message)
