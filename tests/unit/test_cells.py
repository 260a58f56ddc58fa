"""The arithmetic in the process: against TensorFlow's own results, and what every network promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellserve.cells import (
    ACTIVATIONS,
    BasicLSTMCell,
    BasicRNNCell,
    CellDescription,
    CudnnCompatibleGRUCell,
    DropoutWrapper,
    EmbeddingWrapper,
    GRUCell,
    InputProjectionWrapper,
    LayerNormBasicLSTMCell,
    LSTMCell,
    MinGRUCell,
    MinLSTMCell,
    MultiRNNCell,
    OutputProjectionWrapper,
    ResidualWrapper,
)
from cellserve.errors import ModelNotSteppableError
from cellserve.specs import (
    Bidirectional,
    Dense,
    Embedding,
    Layer,
    ModelDescription,
    Standardise,
    describe,
)
from cellserve.tensors import Array
from cellserve_server.cells import Network, build_network
from cellserve_server.cells.ids import vocabulary_size
from cellserve_server.models.weights import prepare_weights
from tests.golden_cases import GoldenCase, golden_cases
from tests.unit.model_samples import DEPTH, FLOAT32, FLOAT64, model, network_of

CASES = golden_cases()


def random_leaves(network: Network, rows: int, noise: np.random.Generator) -> list[Array]:
    return [noise.normal(0, 1, (rows, size)).astype(network.dtype) for size in network.leaf_sizes]


def random_inputs(description: ModelDescription, lead: tuple[int, ...], noise: np.random.Generator) -> list[Array]:
    size = vocabulary_size(description.layers[0])
    if size is not None:
        return [noise.integers(0, size, lead, np.int32)]
    return [noise.normal(0, 1, lead + spec.shape).astype(spec.dtype) for spec in description.inputs]


def step_by_step(
    network: Network, inputs: Array, lengths: Array, leaves: Sequence[Array], size: int
) -> tuple[Array, list[Array]]:
    """``dynamic_rnn`` as its documentation has it, all rows computed and what is past a row's length left out."""
    outputs = np.zeros((*inputs.shape[:2], size), network.dtype)
    current = list(leaves)
    for step in range(inputs.shape[1]):
        alive = (step < lengths)[:, np.newaxis]
        (output,), after = network.step([inputs[:, step]], current)
        outputs[:, step] = np.where(alive, output, 0)
        current = [np.where(alive, new, old) for new, old in zip(after, current, strict=True)]
    return outputs, current


def assert_all_close(got: Sequence[Array], want: Sequence[Array], tolerance: float) -> None:
    for left, right in zip(got, want, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


def rounding(*arrays: Array) -> float:
    """1e-5, or that of the largest number: relu and identity have no bound, and their sums may cancel."""
    return 1e-5 * max(1.0, *(float(np.abs(array).max(initial=0)) for array in arrays))


# --- TensorFlow's results ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_run_gives_what_tensorflow_gave(case: GoldenCase) -> None:
    network = build_network(case.description, prepare_weights(case.description, case.weights))
    (outputs,), leaves = network.run([case.inputs], case.lengths, case.initial_leaves)
    assert_all_close([outputs, *leaves], [case.outputs, *case.final_leaves], case.tolerance)
    assert network.dtype == case.dtype


STEPPABLE = [case for case in CASES if case.steppable]


@pytest.mark.parametrize("case", STEPPABLE, ids=[case.id for case in STEPPABLE])
def test_step_after_step_gives_what_tensorflow_gave(case: GoldenCase) -> None:
    network = build_network(case.description, prepare_weights(case.description, case.weights))
    outputs, leaves = step_by_step(network, case.inputs, case.lengths, case.initial_leaves, case.output_size)
    assert_all_close([outputs, *leaves], [case.outputs, *case.final_leaves], case.tolerance)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_sizes_are_as_tensorflow_prints_them(case: GoldenCase) -> None:
    assert repr(case.description.state_size) == case.state_size_repr
    assert [leaf.shape[1] for leaf in case.initial_leaves] == list(
        build_network(case.description, prepare_weights(case.description, case.weights)).leaf_sizes
    )


def test_past_a_rows_length_the_output_is_exactly_zero() -> None:
    case = next(case for case in CASES if case.id == "tf1_seq_len_basic_lstm")
    network = build_network(case.description, prepare_weights(case.description, case.weights))
    poisoned = case.inputs.copy()
    padding = np.arange(poisoned.shape[1]) >= case.lengths[:, np.newaxis]
    poisoned[padding] = np.nan
    (outputs,), leaves = network.run([poisoned], case.lengths, case.initial_leaves)
    assert (outputs[padding] == 0).all()
    assert_all_close([outputs, *leaves], [case.outputs, *case.final_leaves], case.tolerance)
    empty = case.lengths == 0
    for before, after in zip(case.initial_leaves, leaves, strict=True):
        np.testing.assert_array_equal(after[empty], before[empty])


# --- What every network promises --------------------------------------------------------------------------------------

LSTM = BasicLSTMCell(4, forget_bias=0.5)
ZOO: dict[str, list[Layer]] = {
    "rnn": [BasicRNNCell(4)],
    "rnn-identity": [BasicRNNCell(4, "identity")],
    "lstm": [BasicLSTMCell(4)],
    "lstm-one-array": [BasicLSTMCell(4, state_is_tuple=False)],
    "lstm-peepholes": [LSTMCell(4, use_peepholes=True, cell_clip=0.5, activation="softsign")],
    "lstm-projection": [LSTMCell(6, num_proj=3, proj_clip=0.5, preactivation_clip=2.0)],
    "lstm-projection-one-array": [LSTMCell(6, num_proj=3, use_peepholes=True, state_is_tuple=False)],
    "lstm-norm": [LayerNormBasicLSTMCell(8)],
    "lstm-norm-off": [LayerNormBasicLSTMCell(4, layer_norm=False)],
    "gru-relu": [GRUCell(4, "relu")],
    "gru-hard": [GRUCell(4, recurrent_activation="hard_sigmoid", preactivation_clip=1.0)],
    "gru-reset-after": [CudnnCompatibleGRUCell(4)],
    "min-gru": [MinGRUCell(4)],
    "min-lstm": [MinLSTMCell(4)],
    "stack": [MultiRNNCell([BasicLSTMCell(4), GRUCell(5), BasicRNNCell(2)])],
    "stack-shared": [MultiRNNCell([BasicLSTMCell(4), *[LSTM] * 3])],
    "stack-of-stacks": [MultiRNNCell([MultiRNNCell([GRUCell(3), GRUCell(2)], False), BasicLSTMCell(4)])],
    "stack-one-array": [MultiRNNCell([GRUCell(3), BasicLSTMCell(4, state_is_tuple=False)], state_is_tuple=False)],
    "projection": [OutputProjectionWrapper(GRUCell(4), 6)],
    "projection-inside": [MultiRNNCell([OutputProjectionWrapper(BasicLSTMCell(4), 3, "sigmoid"), GRUCell(2)])],
    "residual": [ResidualWrapper(BasicRNNCell(DEPTH))],
    "residual-stack": [MultiRNNCell([GRUCell(4), ResidualWrapper(DropoutWrapper(MinLSTMCell(4), 0.5))])],
    "input-projection": [InputProjectionWrapper(LSTMCell(4), 6, "relu")],
    "embedding-wrapper": [MultiRNNCell([DropoutWrapper(EmbeddingWrapper(GRUCell(4), 11, 3)), BasicLSTMCell(2)])],
    "classifier": [Standardise(), BasicLSTMCell(4), Dense(5, "softmax")],
    "characters": [Embedding(11, 4), GRUCell(4), Dense(1, "sigmoid")],
    "two-cells": [GRUCell(4), Dense(3), GRUCell(2)],
    "stateless": [Standardise(), Dense(2)],
}
BIDIRECTIONAL: dict[str, list[Layer]] = {
    "bidirectional": [Bidirectional(BasicLSTMCell(4), GRUCell(3))],
    "bidirectional-sum": [Bidirectional(LSTMCell(6, num_proj=4), MinGRUCell(4), "sum"), Dense(2, "tanh")],
    "bidirectional-mul": [Bidirectional(GRUCell(4), GRUCell(4), "mul")],
    "bidirectional-average": [Bidirectional(CudnnCompatibleGRUCell(4), LSTMCell(4), "average")],
    "bidirectional-deep": [Standardise(), GRUCell(5), Bidirectional(GRUCell(4), GRUCell(4)), Dense(3, "softmax")],
}


@pytest.fixture(params=ZOO)
def steppable(request: pytest.FixtureRequest) -> ModelDescription:
    return model(ZOO[request.param])


@pytest.fixture(params=[*ZOO, *BIDIRECTIONAL])
def any_model(request: pytest.FixtureRequest) -> ModelDescription:
    return model({**ZOO, **BIDIRECTIONAL}[request.param])


def test_run_equals_step_after_step(steppable: ModelDescription) -> None:
    network, noise = network_of(steppable), np.random.default_rng(1)
    inputs = random_inputs(steppable, (5, 6), noise)
    leaves, lengths = random_leaves(network, 5, noise), np.array([6, 0, 3, 1, 5])
    want, want_leaves = step_by_step(network, inputs[0], lengths, leaves, steppable.outputs[0].shape[0])
    outputs, got_leaves = network.run(inputs, lengths, leaves)
    assert_all_close([*outputs, *got_leaves], [want, *want_leaves], 1e-5)


def test_arguments_stay_and_results_share_nothing(any_model: ModelDescription) -> None:
    network, noise = network_of(any_model), np.random.default_rng(2)
    inputs, leaves = random_inputs(any_model, (3, 4), noise), random_leaves(network, 3, noise)
    for array in [*inputs, *leaves]:
        array.flags.writeable = False
    outputs, after = network.run(inputs, np.array([4, 0, 2]), leaves)
    calls = [[*inputs, *leaves, *outputs, *after]]
    if any_model.steppable:
        step_outputs, step_after = network.step([inputs[0][:, 0]], leaves)
        calls.append([*inputs, *leaves, *step_outputs, *step_after])
    for arrays in calls:
        for index, array in enumerate(arrays):
            assert not any(np.shares_memory(array, other) for other in arrays[:index])
            assert index < len(inputs) + len(leaves) or array.flags.writeable


def test_a_batch_and_a_sequence_of_nothing(any_model: ModelDescription) -> None:
    network, noise = network_of(any_model), np.random.default_rng(3)
    (outputs,), after = network.run(
        random_inputs(any_model, (0, 4), noise), np.zeros(0, np.int64), random_leaves(network, 0, noise)
    )
    assert outputs.shape == (0, 4, *any_model.outputs[0].shape)
    assert [leaf.shape for leaf in after] == [(0, size) for size in network.leaf_sizes]
    leaves = random_leaves(network, 2, noise)
    (outputs,), after = network.run(random_inputs(any_model, (2, 0), noise), np.zeros(2, np.int64), leaves)
    assert outputs.shape == (2, 0, *any_model.outputs[0].shape)
    assert_all_close(after, leaves, 0)
    if any_model.steppable:
        (output,), after = network.step(random_inputs(any_model, (0,), noise), random_leaves(network, 0, noise))
        assert output.shape == (0, *any_model.outputs[0].shape)
        assert [leaf.shape for leaf in after] == [(0, size) for size in network.leaf_sizes]


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_the_dtype_stays(any_model: ModelDescription, dtype: np.dtype[Any]) -> None:
    description = model(any_model.layers, dtype)
    network, noise = network_of(description), np.random.default_rng(4)
    leaves = random_leaves(network, 2, noise)
    outputs, after = network.run(random_inputs(description, (2, 3), noise), np.array([3, 2]), leaves)
    assert {array.dtype for array in [*outputs, *after]} == {dtype}


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e38, -1e38])
def test_a_rows_poison_stays_in_its_row(steppable: ModelDescription, poison: float) -> None:
    network, noise = network_of(steppable), np.random.default_rng(5)
    inputs, leaves = random_inputs(steppable, (4,), noise), random_leaves(network, 4, noise)
    (clean,), clean_after = network.step(inputs, leaves)
    for array in [*inputs, *leaves]:
        if array.dtype.kind == "f":
            array[2] = poison
    (output,), after = network.step(inputs, leaves)
    others = [0, 1, 3]
    np.testing.assert_allclose(output[others], clean[others], rtol=1e-5, atol=1e-5)
    for got, want in zip(after, clean_after, strict=True):
        np.testing.assert_allclose(got[others], want[others], rtol=1e-5, atol=1e-5)


def test_nothing_leaks_from_the_padding(any_model: ModelDescription) -> None:
    network, noise = network_of(any_model), np.random.default_rng(6)
    (inputs,), leaves = random_inputs(any_model, (4, 5), noise), random_leaves(network, 4, noise)
    lengths = np.array([5, 0, 2, 4])
    outputs, after = network.run([inputs], lengths, leaves)
    padding = np.arange(5) >= lengths[:, np.newaxis]
    inputs[padding] = np.nan if inputs.dtype.kind == "f" else -(2**31)
    poisoned_outputs, poisoned_after = network.run([inputs], lengths, leaves)
    assert_all_close([*poisoned_outputs, *poisoned_after], [*outputs, *after], 0)
    assert (poisoned_outputs[0][padding] == 0).all()
    for before, leaf in zip(leaves, after, strict=True):
        np.testing.assert_array_equal(leaf[1], before[1])


@pytest.mark.parametrize("layers", BIDIRECTIONAL.values(), ids=BIDIRECTIONAL.keys())
def test_a_bidirectional_model_cannot_be_stepped(layers: list[Layer]) -> None:
    description = model(layers)
    network = network_of(description)
    with pytest.raises(ModelNotSteppableError):
        network.step(
            [np.zeros((1, DEPTH), np.float32)], [np.zeros((1, size), np.float32) for size in network.leaf_sizes]
        )


def cells(max_units: int = 5) -> st.SearchStrategy[CellDescription]:
    """Any cell, nested a little; but for the layer normalisation, which makes much of little differences.

    Not with ``exponential``: fed back into its cell it soon leaves the range of floats, where nothing can be compared.
    """
    units = st.integers(1, max_units)
    activations = st.sampled_from([None, *(name for name in ACTIVATIONS if name != "exponential")])
    bounds = st.none() | st.floats(0.125, 4)
    plain = st.one_of(
        st.builds(BasicRNNCell, units, activations, preactivation_clip=bounds),
        st.builds(GRUCell, units, activations, preactivation_clip=bounds),
        st.builds(CudnnCompatibleGRUCell, units, activations, preactivation_clip=bounds),
        st.builds(BasicLSTMCell, units, st.floats(-2, 2), st.booleans(), activations),
        st.builds(
            LSTMCell,
            units,
            st.booleans(),
            bounds,
            num_proj=st.none() | units,
            proj_clip=bounds,
            state_is_tuple=st.booleans(),
            activation=activations,
            output_activation=activations,
            preactivation_clip=bounds,
        ),
        st.builds(MinGRUCell, units, linear_candidate=st.booleans()),
        st.builds(MinLSTMCell, units, linear_candidate=st.booleans()),
    )
    nested = st.recursive(
        plain,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(MultiRNNCell),
            st.builds(OutputProjectionWrapper, inner, units, activations),
            st.builds(InputProjectionWrapper, inner, units, activations),
            # The width that comes in has to be the one that goes out.
            inner.map(lambda cell: InputProjectionWrapper(ResidualWrapper(cell), cell.output_size)),
            st.builds(DropoutWrapper, inner, st.floats(0.125, 1)),
        ),
        max_leaves=4,
    )
    return nested | st.builds(EmbeddingWrapper, nested, units, units)


@settings(max_examples=60)
@given(cell=cells(), rows=st.integers(1, 7), steps=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_batched_equals_alone(cell: CellDescription, rows: int, steps: int, seed: int) -> None:
    description = describe(cell, DEPTH, FLOAT32)
    network, noise = network_of(description, seed), np.random.default_rng(seed)
    inputs, leaves = random_inputs(description, (rows, steps), noise), random_leaves(network, rows, noise)
    lengths = noise.integers(0, steps + 1, rows)
    outputs, after = network.run(inputs, lengths, leaves)
    for row in range(rows):
        one = slice(row, row + 1)
        alone, alone_after = network.run([inputs[0][one]], lengths[one], [leaf[one] for leaf in leaves])
        assert_all_close([*alone, *alone_after], [array[one] for array in [*outputs, *after]], rounding(*after))


@settings(max_examples=30)
@given(cell=cells(), cut=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_in_pieces_equals_at_once(cell: CellDescription, cut: int, seed: int) -> None:
    description = describe(cell, DEPTH, FLOAT32)
    network, noise = network_of(description, seed), np.random.default_rng(seed)
    (inputs,), leaves = random_inputs(description, (3, 5), noise), random_leaves(network, 3, noise)
    lengths = noise.integers(0, 6, 3)
    outputs, after = network.run([inputs], lengths, leaves)
    first, between = network.run([inputs[:, :cut]], np.clip(lengths, 0, cut), leaves)
    second, last = network.run([inputs[:, cut:]], np.clip(lengths - cut, 0, 5 - cut), between)
    assert_all_close([np.concatenate([first[0], second[0]], 1), *last], [*outputs, *after], rounding(*after))
