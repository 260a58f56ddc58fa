"""Checkpoints of TensorFlow 1: against TensorFlow's own results, in all spellings, and what they leave open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cellserve.cells import (
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
    MultiRNNCell,
    OutputProjectionWrapper,
    ResidualWrapper,
)
from cellserve.specs import Bidirectional, Dense, Embedding
from cellserve.tensors import Array
from cellserve_server.importers import tensorflow1
from cellserve_server.importers.base import ImportedModel, ImportRefusedError
from tests.golden_cases import GOLDEN_FOLDER, GoldenCase, golden_cases
from tests.unit.importers.checkpoint_files import save_checkpoint
from tests.unit.importers.comparing import assert_close, noise, options_taken, run, settings

CASES = golden_cases()


def read(tmp_path: Path, arrays: dict[str, Array], **options: str) -> ImportedModel:
    given = settings(**options)
    model = tensorflow1.read(save_checkpoint(tmp_path / "checkpoint", arrays), given)
    assert not given.unused()
    return model


def variables(cell: CellDescription, depth: int, scope: str = "rnn/") -> dict[str, Array]:
    """Drawn weights of a cell, as TensorFlow would have saved them."""
    return {scope + each.name: noise(each.shape, seed) for seed, each in enumerate(cell.variables(depth))}


# --- against TensorFlow -----------------------------------------------------------------------------------------------


def leaf_cells(cell: CellDescription) -> Iterator[CellDescription]:
    """The plain cells in a nest, in the order in which they run, a shared one once."""
    inner = [cell.cell] if isinstance(cell, (ResidualWrapper, DropoutWrapper)) else getattr(cell, "cells", [])
    if not inner:
        yield cell
    seen: set[int] = set()
    for each in inner:
        if id(each) not in seen:
            yield from leaf_cells(each)
        seen.add(id(each))


def options_of(cells: list[CellDescription]) -> dict[str, str]:
    """What a user has to say so that a checkpoint becomes these cells: a bidirectional layer's two, or one."""
    leaves = [leaf for cell in cells for leaf in leaf_cells(cell)]
    options = {"activation": ",".join(leaf.activation or "tanh" for leaf in leaves)}  # type: ignore[attr-defined]
    lstms = [leaf for leaf in leaves if isinstance(leaf, (BasicLSTMCell, LSTMCell))]
    full = [leaf for leaf in lstms if isinstance(leaf, LSTMCell)]
    projected = [leaf for leaf in full if leaf.num_proj is not None]
    if lstms:
        options["forget_bias"] = ",".join(str(leaf.forget_bias) for leaf in lstms)
    if full:
        options["cell_clip"] = ",".join(str(leaf.cell_clip).lower() for leaf in full)
    if projected:
        options["proj_clip"] = ",".join(str(leaf.proj_clip).lower() for leaf in projected)
    if not all(getattr(cell, "state_is_tuple", True) for cell in [*cells, *leaves]):
        options["state_is_tuple"] = "false"
    for cell in cells:
        inner = list(cell.cells) if isinstance(cell, MultiRNNCell) else [cell]
        residual = [str(index) for index, each in enumerate(inner) if isinstance(each, ResidualWrapper)]
        options |= {"residual": ",".join(residual)} if residual else {}
        first = [str([id(other) for other in inner].index(id(each))) for each in inner]
        options |= {"layers": ",".join(first)} if len(set(first)) < len(first) else {}
    return options


def check(case: GoldenCase, model: ImportedModel) -> None:
    assert model.description.dtype == case.dtype
    outputs, after = run(model, case.inputs, case.lengths.tolist(), case.initial_leaves)
    assert_close(outputs, case.outputs)
    assert len(after) == len(case.final_leaves)
    for got, want in zip(after, case.final_leaves, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_checkpoint_of_a_golden_case_gives_what_tensorflow_gave(case: GoldenCase, tmp_path: Path) -> None:
    layer = case.description.layers[0]
    cells = [layer.forward, layer.backward] if isinstance(layer, Bidirectional) else [case.cell]
    check(case, read(tmp_path, case.weights, **options_of([cell for cell in cells if cell is not None])))


def test_the_file_that_tensorflow_wrote_gives_what_tensorflow_gave() -> None:
    case = next(case for case in CASES if case.id == "tf1_checkpoint_2_basic_lstm")
    model = tensorflow1.read(GOLDEN_FOLDER / "tf1_checkpoint_2_basic_lstm", settings())
    check(case, model)
    assert model.framework == "tensorflow1"
    assert model.ignored == ("global_step: a counter of the training",)
    assert options_taken(model) == {"forget_bias": "1.0", "activation": "tanh", "state_is_tuple": "true"}
    assert not any(note.given for note in model.assumptions)
    assert model.reference is None


# --- names ------------------------------------------------------------------------------------------------------------

CELLS: dict[str, CellDescription] = {
    "basic_rnn": BasicRNNCell(4),
    "basic_lstm": BasicLSTMCell(4),
    "lstm": LSTMCell(4),
    "everything": LSTMCell(6, use_peepholes=True, num_proj=4),
    "gru": GRUCell(4),
    "cudnn_gru": CudnnCompatibleGRUCell(4),
    "layer_norm": LayerNormBasicLSTMCell(4),
    "no_layer_norm": LayerNormBasicLSTMCell(4, layer_norm=False),
    "output_projection": OutputProjectionWrapper(GRUCell(4), 2),
    "input_projection": InputProjectionWrapper(GRUCell(4), 2),
    "embedding": EmbeddingWrapper(GRUCell(4), 9, 3),
    "nested": OutputProjectionWrapper(InputProjectionWrapper(MultiRNNCell([GRUCell(4), BasicRNNCell(3)]), 5), 2),
    "stack": MultiRNNCell([LSTMCell(6, num_proj=3), OutputProjectionWrapper(GRUCell(4), 2), BasicRNNCell(4)]),
    "stack_in_stack": MultiRNNCell([MultiRNNCell([GRUCell(4), GRUCell(2)]), GRUCell(4)]),
}


@pytest.mark.parametrize("scope", ["", "rnn/", "encoder/stage_1/rnn/", "gru_cell/rnn/"])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_known_by_its_variables(tmp_path: Path, name: str, scope: str) -> None:
    cell, depth = CELLS[name], 5
    arrays = variables(cell, depth, scope)
    model = read(tmp_path, arrays)
    assert model.description.layers == (cell,)
    assert {scope + key: array.tolist() for key, array in model.weights.items()} == {
        key: array.tolist() for key, array in arrays.items()
    }
    assert model.ignored == ()


OLD = {
    "before 1.0": (
        MultiRNNCell([BasicLSTMCell(4), GRUCell(3), LSTMCell(5, use_peepholes=True, num_proj=2), BasicRNNCell(3)]),
        [
            "RNN/MultiRNNCell/Cell0/BasicLSTMCell/Linear/Matrix",
            "RNN/MultiRNNCell/Cell0/BasicLSTMCell/Linear/Bias",
            "RNN/MultiRNNCell/Cell1/GRUCell/Gates/Linear/Matrix",
            "RNN/MultiRNNCell/Cell1/GRUCell/Gates/Linear/Bias",
            "RNN/MultiRNNCell/Cell1/GRUCell/Candidate/Linear/Matrix",
            "RNN/MultiRNNCell/Cell1/GRUCell/Candidate/Linear/Bias",
            "RNN/MultiRNNCell/Cell2/LSTMCell/W_0",
            "RNN/MultiRNNCell/Cell2/LSTMCell/B",
            "RNN/MultiRNNCell/Cell2/LSTMCell/W_F_diag",
            "RNN/MultiRNNCell/Cell2/LSTMCell/W_I_diag",
            "RNN/MultiRNNCell/Cell2/LSTMCell/W_O_diag",
            "RNN/MultiRNNCell/Cell2/LSTMCell/W_P_0",
            "RNN/MultiRNNCell/Cell3/BasicRNNCell/Linear/Matrix",
            "RNN/MultiRNNCell/Cell3/BasicRNNCell/Linear/Bias",
        ],
    ),
    "before 1.2": (
        MultiRNNCell([BasicLSTMCell(4), GRUCell(3), LSTMCell(5, num_proj=2)]),
        [
            "model/rnn/multi_rnn_cell/cell_0/basic_lstm_cell/weights",
            "model/rnn/multi_rnn_cell/cell_0/basic_lstm_cell/biases",
            "model/rnn/multi_rnn_cell/cell_1/gru_cell/gates/weights",
            "model/rnn/multi_rnn_cell/cell_1/gru_cell/gates/biases",
            "model/rnn/multi_rnn_cell/cell_1/gru_cell/candidate/weights",
            "model/rnn/multi_rnn_cell/cell_1/gru_cell/candidate/biases",
            "model/rnn/multi_rnn_cell/cell_2/lstm_cell/weights",
            "model/rnn/multi_rnn_cell/cell_2/lstm_cell/biases",
            "model/rnn/multi_rnn_cell/cell_2/lstm_cell/projection/weights",
        ],
    ),
    "wrappers beside their cell": (
        OutputProjectionWrapper(EmbeddingWrapper(GRUCell(4), 9, 3), 2),
        [
            "RNN/EmbeddingWrapper/embedding",
            "RNN/GRUCell/Gates/Linear/Matrix",
            "RNN/GRUCell/Gates/Linear/Bias",
            "RNN/GRUCell/Candidate/Linear/Matrix",
            "RNN/GRUCell/Candidate/Linear/Bias",
            "RNN/OutputProjectionWrapper/Linear/Matrix",
            "RNN/OutputProjectionWrapper/Linear/Bias",
        ],
    ),
    "a wrapper within a stack": (
        MultiRNNCell([InputProjectionWrapper(BasicRNNCell(4), 3), BasicRNNCell(2)]),
        [
            "RNN/MultiRNNCell/Cell0/InputProjectionWrapper/Linear/Matrix",
            "RNN/MultiRNNCell/Cell0/InputProjectionWrapper/Linear/Bias",
            "RNN/MultiRNNCell/Cell0/BasicRNNCell/Linear/Matrix",
            "RNN/MultiRNNCell/Cell0/BasicRNNCell/Linear/Bias",
            "RNN/MultiRNNCell/Cell1/BasicRNNCell/Linear/Matrix",
            "RNN/MultiRNNCell/Cell1/BasicRNNCell/Linear/Bias",
        ],
    ),
}


@pytest.mark.parametrize("version", OLD)
def test_old_spellings(tmp_path: Path, version: str) -> None:
    cell, names = OLD[version]
    new = variables(cell, 5, "")
    assert len(names) == len(new)
    model = read(tmp_path, dict(zip(names, new.values(), strict=True)))
    assert model.description.layers == (cell,)
    assert {name: array.tolist() for name, array in model.weights.items()} == {
        name: array.tolist() for name, array in new.items()
    }


@pytest.mark.parametrize(
    ("forward", "backward"),
    [("bidirectional_rnn/fw/", "bidirectional_rnn/bw/"), ("m/BiRNN/FW/", "m/BiRNN/BW/"), ("BiRNN_FW/", "BiRNN_BW/")],
)
def test_both_directions(tmp_path: Path, forward: str, backward: str) -> None:
    one, other = GRUCell(4), LSTMCell(3)
    model = read(tmp_path, variables(one, 5, forward) | variables(other, 5, backward))
    assert model.description.layers == (Bidirectional(one, other),)
    wanted = variables(one, 5, "fw/") | variables(other, 5, "bw/")
    assert all(np.array_equal(model.weights[name], array) for name, array in wanted.items())


def test_layers_of_both_directions(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {}
    for layer, depth in enumerate((5, 8)):
        for direction in ("fw", "bw"):
            scope = f"stack_bidirectional_rnn/cell_{layer}/bidirectional_rnn/{direction}/"
            arrays |= variables(GRUCell(4), depth, scope)
    assert read(tmp_path, arrays).description.layers == (Bidirectional(GRUCell(4), GRUCell(4)),) * 2
    del arrays["stack_bidirectional_rnn/cell_0/bidirectional_rnn/bw/gru_cell/gates/bias"]
    with pytest.raises(ImportRefusedError, match=r"missing gates/bias"):
        read(tmp_path, arrays)


def test_cudnn_lstms_have_no_forget_bias(tmp_path: Path) -> None:
    arrays = {
        name.replace("lstm_cell", "cudnn_compatible_lstm_cell"): a for name, a in variables(LSTMCell(4), 5).items()
    }
    model = read(tmp_path, arrays)
    assert model.description.layers == (LSTMCell(4, forget_bias=0.0),)
    assert next(note for note in model.assumptions if note.option == "forget_bias").because.startswith(
        "CudnnCompatible"
    )


def test_a_second_cell_of_a_class_has_a_number(tmp_path: Path) -> None:
    arrays = {name.replace("gru_cell", "gru_cell_1"): array for name, array in variables(GRUCell(4), 5, "").items()}
    assert read(tmp_path, arrays).description.layers == (GRUCell(4),)


# --- what is not the model's ------------------------------------------------------------------------------------------


def test_what_training_left_behind_is_ignored_and_listed(tmp_path: Path) -> None:
    arrays = variables(BasicLSTMCell(4), 5)
    kernel = "rnn/basic_lstm_cell/kernel"
    extra: dict[str, Array] = {
        f"{kernel}/Adam": arrays[kernel],
        f"{kernel}/Adam_1": arrays[kernel],
        f"OptimizeLoss/{kernel}/Momentum": arrays[kernel],
        f"{kernel}/RMSProp_1": arrays[kernel],
        f"{kernel}/ExponentialMovingAverage": arrays[kernel],
        f"{kernel}/their_own_slot": arrays[kernel],
        "beta1_power": np.array(0.9, np.float32),
        "train/beta2_power_1": np.array(0.9, np.float32),
        "global_step": np.array(7, np.int64),
        "learning_rate": np.array(0.1, np.float32),
        "loss/scale": np.array(0.1, np.float32),
    }
    model = read(tmp_path, arrays | extra)
    assert sorted(model.weights) == ["basic_lstm_cell/bias", "basic_lstm_cell/kernel"]
    assert {line.partition(":")[0].partition(" ")[0] for line in model.ignored} == set(extra)
    assert f"{kernel}/Adam_1: an optimiser's, for {kernel}" in model.ignored
    assert f"{kernel}/ExponentialMovingAverage: a moving average of {kernel}" in model.ignored
    assert "loss/scale float32[]: stands in no layer that was recognised" in model.ignored


def test_layers_that_are_not_recognised_are_left_out_only_on_demand(tmp_path: Path) -> None:
    arrays = variables(BasicLSTMCell(4), 5) | {"conv/kernel": noise((3, 3, 1, 8)), "attention/v": noise((4,))}
    with pytest.raises(
        ImportRefusedError, match=r"attention/v, conv/kernel: of no layer .*--set scope=rnn/basic_lstm_ce"
    ):
        read(tmp_path, arrays)
    model = read(tmp_path, arrays, scope="rnn/basic_lstm_cell")
    assert model.description.layers == (BasicLSTMCell(4),)
    assert "conv/kernel float32[3, 3, 1, 8]: stands in no layer that was recognised" in model.ignored


# --- what stands around -----------------------------------------------------------------------------------------------

LSTM = variables(BasicLSTMCell(4), 5)


def test_the_only_dense_layer_that_fits_is_the_head(tmp_path: Path) -> None:
    dense = {"dense/kernel": noise((4, 3)), "dense/bias": noise((3,))}
    model = read(tmp_path, LSTM | dense)
    assert model.description.layers == (BasicLSTMCell(4), Dense(3))
    assert options_taken(model)["head"] == "dense:none"
    np.testing.assert_array_equal(model.weights["dense/kernel"], dense["dense/kernel"])
    assert read(tmp_path, LSTM | dense, head="dense:softmax").description.layers[1] == Dense(3, "softmax")
    assert read(tmp_path, LSTM | dense, head="none").description.layers == (BasicLSTMCell(4),)
    other = {"other/kernel": noise((9, 2)), "other/bias": noise((2,))}
    with pytest.raises(ImportRefusedError, match=r"other/bias, other/kernel: of no layer that was recognised"):
        read(tmp_path, LSTM | dense | other)
    model = read(tmp_path, LSTM | dense | other, head="dense")
    assert any(line.startswith("other/kernel") for line in model.ignored)


@pytest.mark.parametrize(
    ("kernel", "bias"),
    [
        ("fully_connected/weights", "fully_connected/biases"),
        ("softmax_w", "softmax_b"),
        ("Model/softmax_w", "Model/softmax_b"),
        ("out/W", "out/b"),
    ],
)
def test_dense_layers_by_other_names(tmp_path: Path, kernel: str, bias: str) -> None:
    arrays = {kernel: noise((4, 3)), bias: noise((3,))}
    assert read(tmp_path, LSTM | arrays).description.layers == (BasicLSTMCell(4), Dense(3))


def test_variables_without_a_name_are_named_by_the_user(tmp_path: Path) -> None:
    arrays = {"Variable": noise((4, 3)), "Variable_1": noise((3,))}
    with pytest.raises(ImportRefusedError, match=r"Variable, Variable_1: of no layer .*by head=KERNEL\+BIAS"):
        read(tmp_path, LSTM | arrays)
    model = read(tmp_path, LSTM | arrays, head="Variable+Variable_1:sigmoid")
    assert model.description.layers == (BasicLSTMCell(4), Dense(3, "sigmoid"))
    without_bias = read(tmp_path, LSTM | arrays, head="Variable", scope="rnn")
    assert not without_bias.weights["dense/bias"].any()


def test_several_dense_layers_are_a_choice(tmp_path: Path) -> None:
    chain = {"dense/kernel": noise((4, 3)), "dense/bias": noise((3,)), "dense_1/kernel": noise((3, 2))}
    chain["dense_1/bias"] = noise((2,))
    with pytest.raises(ImportRefusedError, match=r"several dense layers .*dense, dense_1.*--set head=dense:none"):
        read(tmp_path, LSTM | chain)
    model = read(tmp_path, LSTM | chain, head="dense:relu,dense_1:softmax")
    assert model.description.layers[1:] == (Dense(3, "relu"), Dense(2, "softmax"))
    for head, message in (
        ("dense_1", "expected a kernel with 4 rows; dense_1/kernel has 3"),
        ("dense:swish", "expected one of none, softmax, sigmoid, tanh, relu after the colon; got 'swish'"),
        ("nothing", r"head: expected dense layers \(dense, dense_1\)"),
        ("dense/kernel+dense_1/bias", r"expected a matrix and a bias as wide; .* has \[4, 3\] and \[2\]"),
    ):
        with pytest.raises(ImportRefusedError, match=message):
            read(tmp_path, LSTM | chain, head=head)


def test_a_table_as_wide_as_the_inputs_is_the_embedding(tmp_path: Path) -> None:
    arrays = LSTM | {"Model/embedding": noise((11, 5)), "softmax_w": noise((4, 11)), "softmax_b": noise((11,))}
    model = read(tmp_path, arrays)
    assert model.description.layers == (Embedding(11, 5), BasicLSTMCell(4), Dense(11))
    assert model.description.inputs[0].shape == ()
    assert options_taken(model)["embedding"] == "Model/embedding"
    assert read(tmp_path, arrays, embedding="none").description.layers[0] == BasicLSTMCell(4)
    arrays["target_embedding"] = noise((7, 5))
    with pytest.raises(ImportRefusedError, match=r"several tables .*--set embedding=Model/embedding"):
        read(tmp_path, arrays)
    assert read(tmp_path, arrays, embedding="target_embedding").description.layers[0] == Embedding(7, 5)
    with pytest.raises(ImportRefusedError, match=r"expected a matrix with 5 columns or none; 'softmax_w' is \[4, 11\]"):
        read(tmp_path, arrays, embedding="softmax_w")


# --- what is a choice -------------------------------------------------------------------------------------------------


def test_several_recurrent_parts_are_a_choice(tmp_path: Path) -> None:
    arrays = variables(GRUCell(4), 5, "a/rnn/") | variables(BasicRNNCell(3), 4, "b/rnn/")
    with pytest.raises(ImportRefusedError, match=r"a/rnn/gru_cell, b/rnn/basic_rnn_cell; .*--set scope=a/rnn/gru_cell"):
        read(tmp_path, arrays)
    assert read(tmp_path, arrays, scope="b").description.layers == (BasicRNNCell(3),)
    both = read(tmp_path, arrays, scope="a,b/rnn")
    assert both.description.layers == (GRUCell(4), BasicRNNCell(3))
    assert options_taken(both)["scope"] == "a,b/rnn"
    with pytest.raises(ImportRefusedError, match="scope: b/rnn/basic_rnn_cell gives 3, and a/rnn/gru_cell takes 5"):
        read(tmp_path, arrays, scope="b,a")
    with pytest.raises(
        ImportRefusedError, match=r"scope: expected one of a/rnn/gru_cell, b/rnn/basic_rnn_cell; got 'c'"
    ):
        read(tmp_path, arrays, scope="c")


def test_the_class_of_a_cell_with_a_name_of_its_own(tmp_path: Path) -> None:
    lstm = {name.replace("basic_lstm_cell", "speech"): array for name, array in LSTM.items()}
    with pytest.raises(
        ImportRefusedError, match=r"rnn/speech: .*does not say of which class.*--set cell=basic_rnn_cell"
    ):
        read(tmp_path, lstm)
    assert read(tmp_path, lstm, cell="basic_lstm_cell").description.layers == (BasicLSTMCell(4),)
    with pytest.raises(ImportRefusedError, match=r"cell: expected one of basic_rnn_cell, .*; got 'speech'"):
        read(tmp_path, lstm, cell="speech")
    for cell in (GRUCell(4), CudnnCompatibleGRUCell(4), LSTMCell(4, use_peepholes=True), LSTMCell(4, num_proj=2)):
        named = {name.replace(cell.scope(), "speech"): array for name, array in variables(cell, 5).items()}
        assert read(tmp_path, named).description.layers == (cell,)
    direct = {name.replace("rnn/basic_lstm_cell", "speech"): array for name, array in LSTM.items()}
    with pytest.raises(ImportRefusedError, match=r"no recurrent cell .*speech/bias, speech/kernel.*--set scope="):
        read(tmp_path, direct)
    assert read(tmp_path, direct, scope="speech", cell="basic_lstm_cell").description.layers == (BasicLSTMCell(4),)


def test_cells_used_several_times_are_a_choice(tmp_path: Path) -> None:
    one = variables(MultiRNNCell([GRUCell(4)]), 4)
    model = read(tmp_path, one)
    assert model.description.layers == (MultiRNNCell([GRUCell(4)]),)
    assert options_taken(model)["layers"] == "0"
    (stack,) = read(tmp_path, one, layers="0,0,0").description.layers
    assert isinstance(stack, MultiRNNCell)
    assert [cell is stack.cells[0] for cell in stack.cells] == [True] * 3
    arrays = variables(MultiRNNCell([GRUCell(4), GRUCell(4), BasicRNNCell(4)]), 4)
    gap = {name: array for name, array in arrays.items() if "cell_1" not in name}
    with pytest.raises(
        ImportRefusedError, match=r"expected cells 0 to 2; got 0, 2: .*--set layers=0,2 with the missing"
    ):
        read(tmp_path, gap)
    (stack,) = read(tmp_path, gap, layers="0,0,2").description.layers
    assert [type(cell) for cell in stack.cells] == [GRUCell, GRUCell, BasicRNNCell]  # type: ignore[union-attr]
    for layers, message in (
        ("0,1,2", "expected each of .0, 2., some several times"),
        ("0,0", "expected each of"),
        ("0,5", "expected numbers of cells from 0 to 2; got 5"),
        ("two", "expected numbers of cells, as 0,1; got 'two'"),
    ):
        with pytest.raises(ImportRefusedError, match=message):
            read(tmp_path, gap, layers=layers)


def test_residual_wrappers_are_a_choice_where_the_widths_allow_them(tmp_path: Path) -> None:
    arrays = variables(MultiRNNCell([GRUCell(4), GRUCell(4)]), 5)
    assert options_taken(read(tmp_path, arrays))["residual"] == "none"
    (stack,) = read(tmp_path, arrays, residual="1").description.layers
    assert stack == MultiRNNCell([GRUCell(4), ResidualWrapper(GRUCell(4))])
    with pytest.raises(ImportRefusedError, match="ResidualWrapper: expected inputs as wide"):
        read(tmp_path, arrays, residual="0")
    assert "residual" not in options_taken(read(tmp_path, variables(GRUCell(4), 5)))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("forget_bias", "much", "forget_bias: expected a number; got 'much'"),
        ("forget_bias", "inf", "forget_bias: expected a finite number; got 'inf'"),
        ("forget_bias", "1,2,3", "forget_bias: expected one value, or one for each of 2; got 3"),
        ("activation", "swish", "activation: expected one of tanh, "),
        ("activation", "tanh,relu", "activation: expected one value, or one for each cell; got 2, too few"),
        ("state_is_tuple", "perhaps", "state_is_tuple: expected true or false; got 'perhaps'"),
        ("cell_clip", "wide", "cell_clip: expected a number; got 'wide'"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, option: str, value: str, message: str) -> None:
    arrays = variables(MultiRNNCell([LSTMCell(4), BasicLSTMCell(4), GRUCell(4)]), 5)
    with pytest.raises(ImportRefusedError, match=message):
        read(tmp_path, arrays, **{option: value})


# --- what does not fit ------------------------------------------------------------------------------------------------

TWO = variables(MultiRNNCell([GRUCell(4), GRUCell(3)]), 5)
ABOVE = "rnn/multi_rnn_cell/cell_1/gru_cell/"
KERNEL, BIAS = "rnn/basic_lstm_cell/kernel", "rnn/basic_lstm_cell/bias"
NAN = noise((16,))
NAN[3] = np.nan

MISFITS: dict[str, tuple[dict[str, Array], str]] = {
    "nothing": ({}, r"no recurrent cell was recognised .*\(there are none\)"),
    "no cell": ({"conv/kernel": noise((3, 3))}, "no recurrent cell was recognised among the variables conv/kernel"),
    "columns off by one": (
        LSTM | {KERNEL: noise((9, 15))},
        "expected a matrix with a multiple of 4; got shape .9, 15.",
    ),
    "a bias off by one": (LSTM | {BIAS: noise((15,))}, r"bias: expected shape \[16\]; got \[15\]"),
    "too few rows": (LSTM | {KERNEL: noise((4, 16))}, "expected more than 4 rows, .*; got 4"),
    "no bias": ({KERNEL: LSTM[KERNEL]}, "expected the variables of BasicLSTMCell; missing bias"),
    "one too many": (LSTM | {"rnn/basic_lstm_cell/zone": noise((4,))}, "got also rnn/basic_lstm_cell/zone"),
    "rows of a layer above off by one": (
        TWO | {ABOVE + "gates/kernel": noise((8, 6)), ABOVE + "candidate/kernel": noise((8, 3))},
        "cell_1: expected a cell for inputs of 4, what cell_0 gives; by its variables it takes 5",
    ),
    "parts that disagree": (
        TWO | {ABOVE + "candidate/kernel": noise((8, 3))},
        r"candidate/kernel: expected shape \[7, 3\]",
    ),
    "NaN": (LSTM | {BIAS: NAN}, r"rnn/basic_lstm_cell/bias: expected finite numbers; got nan at \[3\]"),
    "whole numbers": (LSTM | {BIAS: np.zeros(16, np.int64)}, "bias: expected floating-point weights; got int64"),
    "two types": (
        LSTM | {BIAS: np.zeros(16)},
        r"expected weights all of float32 or all of float64.*--set dtype=float32",
    ),
    "attention": (
        variables(GRUCell(4), 5, "decoder/attention_wrapper/"),
        "decoder/attention_wrapper: an AttentionWrapper stands around the cells, which is not served",
    ),
    "another cell": (
        {"rnn/ugrnn_cell/kernel": noise((9, 8)), "rnn/ugrnn_cell/bias": noise((8,))},
        "rnn/ugrnn_cell: a UGRNNCell, which is not served",
    ),
    "both spellings": (LSTM | {"rnn/basic_lstm_cell/weights": LSTM[KERNEL]}, "the same variable as .*another spelling"),
    "scopes without end": ({"a/" * 100 + "kernel": noise((2, 2))}, "expected scopes nested at most 64 deep"),
    "one direction of another width": (
        variables(GRUCell(4), 5, "bidirectional_rnn/fw/") | variables(GRUCell(4), 6, "bidirectional_rnn/bw/"),
        "expected both directions to take the same inputs",
    ),
    "a wrapper of another width": (
        variables(GRUCell(4), 5)
        | {"rnn/input_projection_wrapper/kernel": noise((7, 6)), "rnn/input_projection_wrapper/bias": noise((6,))},
        "it gives vectors of 6, and the cell in it takes 5",
    ),
    "two cells in one place": (
        {f"rnn/multi_rnn_cell/cell_0/{name}": array for name, array in variables(GRUCell(4), 5, "").items()}
        | {f"rnn/multi_rnn_cell/cell_0/{name}": array for name, array in variables(BasicRNNCell(4), 5, "").items()},
        "cell_0: expected one cell; got",
    ),
}


@pytest.mark.parametrize(("arrays", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_what_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    with pytest.raises(ImportRefusedError, match=message):
        read(tmp_path, arrays)


def test_half_precision_is_served_in_single_if_the_user_says_so(tmp_path: Path) -> None:
    arrays = {name: array.astype(np.float16) for name, array in LSTM.items()}
    with pytest.raises(ImportRefusedError, match=r"--set dtype=float32"):
        read(tmp_path, arrays)
    assert read(tmp_path, arrays, dtype="float32").weights["basic_lstm_cell/bias"].dtype == np.float32
