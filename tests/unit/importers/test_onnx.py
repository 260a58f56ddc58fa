"""ONNX graphs: against onnxruntime's own results, in the patterns of exporters, and what cannot be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, BasicRNNCell, CudnnCompatibleGRUCell, GRUCell, LSTMCell, MultiRNNCell
from cellserve.specs import Bidirectional, Dense, Embedding
from cellserve.tensors import Array
from cellserve_server.importers import onnx_graph
from cellserve_server.importers.base import ImportedModel, ImportRefusedError
from tests.golden_cases import FrameworkCase, framework_cases
from tests.unit.importers.comparing import assert_close, noise, run, settings
from tests.unit.importers.onnx_files import GraphWriter

CASES = [case for case in framework_cases() if case.framework == "onnxruntime"]
TIME_MAJOR = {"X": ("time", "batch", 5)}
BATCH_MAJOR = {"X": ("batch", "time", 5)}
LSTM, GRU, RNN = BasicLSTMCell(4, forget_bias=0.0), GRUCell(4), BasicRNNCell(4)


def read(writer: GraphWriter, tmp_path: Path, *outputs: str, **options: str) -> ImportedModel:
    given = settings(**options)
    model = onnx_graph.read(writer.save(tmp_path / "model.onnx", *outputs), given)
    assert not given.unused()
    return model


def leaves(case: FrameworkCase, which: str) -> list[Array]:
    """A golden state as our leaves: of each direction c, if there is one, and h."""
    parts = [case.arrays[f"{which}/{name}"] for name in ("c", "h") if f"{which}/{name}" in case.arrays]
    return [part[direction] for direction in range(len(parts[0])) for part in parts]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_golden_file_gives_what_onnxruntime_gave(case: FrameworkCase) -> None:
    (path,) = case.files
    assert onnx_graph.recognises(path)
    model = onnx_graph.read(path, settings())
    assert model.framework == "onnx"
    assert model.assumptions == ()
    outputs, after = run(model, case.arrays["inputs"], case.entry["sequence_length"], leaves(case, "initial_state"))
    assert_close(outputs, case.arrays["outputs"])
    for got, want in zip(after, leaves(case, "final_state"), strict=True):
        assert_close(got, want)


# --- one node ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "attributes", "cell"),
    [
        ("RNN", {}, BasicRNNCell(4)),
        ("RNN", {"activations": ["Softsign"], "clip": 0.5}, BasicRNNCell(4, "softsign", preactivation_clip=0.5)),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.2]}, BasicRNNCell(4, "leaky_relu")),
        ("RNN", {"activations": ["relu"]}, BasicRNNCell(4, "relu")),
        ("GRU", {}, GRUCell(4)),
        ("GRU", {"linear_before_reset": 1, "clip": 2.0}, CudnnCompatibleGRUCell(4, preactivation_clip=2.0)),
        ("GRU", {"activations": ["HardSigmoid", "Elu"]}, GRUCell(4, "elu", recurrent_activation="hard_sigmoid")),
        ("LSTM", {}, BasicLSTMCell(4, forget_bias=0.0)),
        ("LSTM", {"activations": ["Sigmoid", "Relu", "Relu"]}, BasicLSTMCell(4, 0.0, activation="relu")),
        (
            "LSTM",
            {"activations": ["Sigmoid", "Tanh", "Relu"], "clip": 0.25},
            LSTMCell(4, forget_bias=0.0, output_activation="relu", preactivation_clip=0.25),
        ),
        (
            "LSTM",
            {
                "activations": ["HardSigmoid", "LeakyRelu", "HardSigmoid"],
                "activation_alpha": [1 / 6, 0.2, 0.2],
                "activation_beta": [0.5],
            },
            LSTMCell(
                4,
                forget_bias=0.0,
                recurrent_activation="hard_sigmoid_relu6",
                activation="leaky_relu",
                output_activation="hard_sigmoid",
            ),
        ),
        ("LSTM", {"has_peepholes": True}, LSTMCell(4, use_peepholes=True, forget_bias=0.0)),
        ("LSTM", {"has_bias": False}, BasicLSTMCell(4, forget_bias=0.0)),
        (
            "LSTM",
            {"activations": ["Sigmoid", "Affine", "ScaledTanh"]},
            LSTMCell(4, forget_bias=0.0, activation="identity", output_activation="tanh"),
        ),
    ],
)
def test_a_node_is_a_cell(tmp_path: Path, op: str, attributes: dict[str, Any], cell: object) -> None:
    writer = GraphWriter(TIME_MAJOR)
    y = writer.recurrent(op, "X", 5, 4, **attributes)
    model = read(writer, tmp_path, y)
    assert model.description.layers == (cell,)
    bias = next(array for name, array in model.weights.items() if name.endswith("bias"))
    assert bias.any() == attributes.get("has_bias", True)


def test_layout_1_is_batch_major(tmp_path: Path) -> None:
    writer = GraphWriter(BATCH_MAJOR)
    y = writer.recurrent("LSTM", "X", 5, 4, layout=1)
    squeezed = writer.node("Squeeze", [y, writer.ints("two", 2)])
    model = read(writer, tmp_path, squeezed)
    assert model.description.layers == (LSTM,)


def test_float64_stays_float64(tmp_path: Path) -> None:
    writer = GraphWriter(TIME_MAJOR, dtype="float64")
    model = read(writer, tmp_path, writer.recurrent("GRU", "X", 5, 4))
    assert model.description.dtype == np.float64


UNSERVED: dict[str, tuple[str, dict[str, Any], str]] = {
    "input_forget": ("LSTM", {"input_forget": 1}, "LSTM 'LSTM_0': input_forget: gates that are coupled"),
    "reverse": ("LSTM", {"direction": "reverse"}, "LSTM 'LSTM_0': a layer that runs backwards alone cannot be served"),
    "another direction": (
        "GRU",
        {"direction": "sideways"},
        "direction: expected one of forward, reverse, bidirectional",
    ),
    "an unknown function": ("RNN", {"activations": ["Swish"]}, "activations: Swish is none of those that cells have"),
    "an unknown slope": ("RNN", {"activations": ["LeakyRelu"]}, "LeakyRelu with alpha 0.01 is none of those"),
    "an unknown hard sigmoid": (
        "GRU",
        {"activations": ["HardSigmoid", "Tanh"], "activation_alpha": [0.3]},
        "HardSigmoid with alpha 0.3.*, beta 0.5 is none of those",
    ),
    "too many parameters": ("RNN", {"activation_alpha": [0.3]}, "more than the functions have parameters"),
    "too few functions": ("LSTM", {"activations": ["Tanh"]}, "activations: expected 3; got 1"),
    "a clip of 0": ("RNN", {"clip": 0.0}, "clip: expected a number above 0; got 0.0"),
    "another layout": ("RNN", {"layout": 2}, "layout: expected 0 or 1; got 2"),
    "an unknown attribute": ("RNN", {"zoneout": 0.1}, "it has the attribute zoneout, which is not known here"),
}


@pytest.mark.parametrize(("op", "attributes", "message"), UNSERVED.values(), ids=UNSERVED.keys())
def test_what_no_cell_computes_is_refused(tmp_path: Path, op: str, attributes: dict[str, Any], message: str) -> None:
    writer = GraphWriter(TIME_MAJOR)
    y = writer.recurrent(op, "X", 5, 4, **attributes)
    with pytest.raises(ImportRefusedError, match=message):
        read(writer, tmp_path, y)


@pytest.mark.parametrize(
    ("label", "shape", "message"),
    [
        ("W", (1, 15, 5), r"W \(lstm0_W\): expected shape \[1, 16, 5\]; got \[1, 15, 5\]"),
        ("R", (1, 16, 5), "hidden_size: expected 5, R's; got 4"),
        ("R", (1, 15, 4), r"R \(lstm0_R\): expected shape \[1, 16, 4\]; got \[1, 15, 4\]"),
        ("R", (16, 4), r"R \(lstm0_R\): expected 3 dimensions; got shape \[16, 4\]"),
        ("B", (1, 31), r"B \(lstm0_B\): expected shape \[1, 32\]; got \[1, 31\]"),
        ("P", (1, 11), r"P \(lstm0_P\): expected shape \[1, 12\]; got \[1, 11\]"),
        ("W", (1, 16, 6), "X: expected time, batch and 6 features as its axes; got .*features .5."),
    ],
)
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, label: str, shape: tuple[int, ...], message: str) -> None:
    writer = GraphWriter(TIME_MAJOR)
    y = writer.recurrent("LSTM", "X", 5, 4, has_peepholes=True)
    writer.constant(f"lstm0_{label}", noise(shape))
    with pytest.raises(ImportRefusedError, match=message):
        read(writer, tmp_path, y)


def test_a_weight_that_is_no_number_is_refused(tmp_path: Path) -> None:
    writer = GraphWriter(TIME_MAJOR)
    y = writer.recurrent("LSTM", "X", 5, 4)
    writer.constants["lstm0_R"][0, 2, 1] = np.nan
    with pytest.raises(ImportRefusedError, match=r"lstm0_R: expected finite numbers; got nan at \[0, 2, 1\]"):
        read(writer, tmp_path, y)


def test_half_precision_is_served_in_single_if_the_user_says_so(tmp_path: Path) -> None:
    writer = GraphWriter(TIME_MAJOR, dtype="float16")
    y = writer.recurrent("LSTM", "X", 5, 4)
    with pytest.raises(ImportRefusedError, match=r"--set dtype=float32"):
        read(writer, tmp_path, y)
    assert read(writer, tmp_path, y, dtype="float32").description.dtype == np.float32


# --- states and lengths -----------------------------------------------------------------------------------------------


def test_states_that_the_graph_is_fed_are_the_sessions(tmp_path: Path) -> None:
    """One input for all layers, cut into theirs, as PyTorch has it; and what they end with, put together again."""
    writer = GraphWriter(BATCH_MAJOR)
    h, c = writer.input("h0", (2, "batch", 4)), writer.input("c0", (2, "batch", 4))
    x, hs, cs = writer.node("Transpose", ["X"], perm=[1, 0, 2]), [], []
    for layer, depth in enumerate((5, 4)):
        bounds = [writer.ints(f"{which}{layer}", value) for which, value in (("from", layer), ("to", layer + 1))]
        states = [writer.node("Slice", [state, *bounds, writer.ints("zero", 0)]) for state in (h, c)]
        y = writer.recurrent("LSTM", x, depth, 4, h=states[0], c=states[1], seed=layer)
        hs.append(f"lstm{layer}_Y_h")
        cs.append(f"lstm{layer}_Y_c")
        x = writer.node("Squeeze", [y, writer.ints("one", 1)])
    final = [writer.node("Concat", names, axis=0) for names in (hs, cs)]
    output = writer.node("Transpose", [x], perm=[1, 0, 2])
    model = read(writer, tmp_path, output, *final)
    assert model.description.layers == (MultiRNNCell([LSTM, LSTM]),)


def test_zeros_of_the_batchs_size_are_no_state(tmp_path: Path) -> None:
    writer = GraphWriter(TIME_MAJOR)
    batch = writer.node("Gather", [writer.node("Shape", ["X"]), writer.constant("one", np.array(1))])
    lengths = [
        writer.ints("first", 1),
        writer.node("Unsqueeze", [batch, writer.ints("zero", 0)]),
        writer.ints("last", 4),
    ]
    shape = writer.node("Concat", lengths, axis=0)
    filled = writer.node("ConstantOfShape", [shape])
    zero = writer.node("Expand", [writer.constant("nothing", np.zeros((1, 1, 4), np.float32)), shape])
    y = writer.recurrent("LSTM", "X", 5, 4, h=filled, c=zero)
    assert read(writer, tmp_path, y).description.layers == (LSTM,)


@pytest.mark.parametrize("kind", ["constant", "computed", "another layer's", "another width"])
def test_other_initial_states_are_refused(tmp_path: Path, kind: str) -> None:
    writer = GraphWriter(TIME_MAJOR)
    state, message = "", "initial_h: expected zeros or an input of the graph; the graph computes it"
    x, depth = "X", 5
    if kind == "constant":
        state = writer.constant("h0", noise((1, 3, 4)))
        message = "initial_h: expected zeros or an input of the graph; h0 is a constant state"
    elif kind == "computed":
        state = writer.node("Softsign", [writer.node("Identity", [writer.input("h0", (1, "batch", 4))])])
        message = "Softsign 'Softsign_1': this operation is none that can be served"
    elif kind == "another layer's":
        x = writer.node("Squeeze", [writer.recurrent("GRU", "X", 5, 4, seed=20), writer.ints("one", 1)])
        state, depth = "gru20_Y_h", 4
    else:
        state = writer.constant("h0", np.zeros((1, 3, 5), np.float32))
        message = "initial_h: expected 4 columns, as many as R has; got 5"
    y = writer.recurrent("GRU", x, depth, 4, h=state)
    with pytest.raises(ImportRefusedError, match=message):
        read(writer, tmp_path, y)


def test_lengths_are_an_input_or_all_steps(tmp_path: Path) -> None:
    def model_with(lengths: str, writer: GraphWriter) -> ImportedModel:
        return read(writer, tmp_path, writer.recurrent("RNN", "X", 5, 4, lengths=lengths))

    writer = GraphWriter(TIME_MAJOR)
    assert model_with(writer.input("lengths", ("batch",), "int32"), writer).description.layers == (RNN,)
    writer = GraphWriter({"X": (6, 2, 5)})
    assert model_with(writer.constant("all", np.array([6, 6], np.int32)), writer).description.layers == (RNN,)
    writer = GraphWriter({"X": (6, 2, 5)})
    with pytest.raises(ImportRefusedError, match="sequence_lens: expected an input of the graph, or all steps"):
        model_with(writer.constant("some", np.array([6, 5], np.int32)), writer)
    writer = GraphWriter(TIME_MAJOR)
    time = writer.node("Slice", [writer.node("Shape", ["X"]), writer.ints("zero", 0), writer.ints("one", 1)])
    every = writer.node("Expand", [writer.node("Cast", [time], to=6), writer.ints("two", 2)])
    assert model_with(every, writer).description.layers == (RNN,)


# --- the patterns of exporters ----------------------------------------------------------------------------------------


def test_a_bidirectional_nodes_directions_stand_side_by_side(tmp_path: Path) -> None:
    both = Bidirectional(LSTM, LSTM)
    writer = GraphWriter(TIME_MAJOR)
    model = read(writer, tmp_path, writer.recurrent("LSTM", "X", 5, 4, directions=2))
    assert model.description.layers == (both,)
    assert "has an axis of directions" in model.ignored[0]
    writer = GraphWriter(BATCH_MAJOR)
    y = writer.recurrent("LSTM", writer.node("Transpose", ["X"], perm=[1, 0, 2]), 5, 4, directions=2)
    turned = writer.node("Transpose", [y], perm=[0, 2, 1, 3])
    joined = writer.node("Reshape", [turned, writer.ints("shape", 0, 0, -1)])
    above = writer.recurrent("GRU", joined, 8, 4, seed=30)
    out = writer.node("Transpose", [writer.node("Squeeze", [above, writer.ints("one", 1)])], perm=[1, 0, 2])
    assert read(writer, tmp_path, out).description.layers == (both, GRU)


@pytest.mark.parametrize(
    ("merge", "mode"),
    [("Concat", "concat"), ("Add", "sum"), ("Mul", "mul"), ("Average", "average"), ("Halve", "average")],
)
@pytest.mark.parametrize("cut", ["Split", "Slice", "Gather", "two nodes"])
def test_directions_that_are_parted_and_merged(tmp_path: Path, merge: str, mode: str, cut: str) -> None:
    writer = GraphWriter(TIME_MAJOR)
    one = writer.ints("one", 1)
    if cut == "two nodes":
        nodes = [writer.recurrent("GRU", "X", 5, 4), writer.recurrent("GRU", "X", 5, 4, seed=5, direction="reverse")]
        halves = [writer.node("Squeeze", [each, one]) for each in nodes]
    else:
        y = writer.recurrent("GRU", "X", 5, 4, directions=2)
        if cut == "Gather":
            halves = [writer.node("Gather", [y, writer.constant(f"i{i}", np.array(i))], axis=1) for i in (0, 1)]
        elif cut == "Split":
            writer.node("Split", [y], ["first", "second"], axis=1)
            halves = [writer.node("Squeeze", [each, one]) for each in ("first", "second")]
        else:
            bounds = [writer.ints(f"at{i}", i) for i in range(3)]
            pieces = [writer.node("Slice", [y, bounds[i], bounds[i + 1], one]) for i in (0, 1)]
            halves = [writer.node("Squeeze", [each, one]) for each in pieces]
    if merge == "Concat":
        out = writer.node("Concat", halves, axis=2)
    elif merge == "Average":
        out = writer.node("Mul", [writer.node("Add", halves), writer.constant("half", np.array([0.5], np.float32))])
    elif merge == "Halve":
        out = writer.node("Div", [writer.node("Add", halves), writer.constant("two", np.array(2, np.float32))])
    else:
        out = writer.node(merge, halves)
    assert read(writer, tmp_path, out).description.layers == (Bidirectional(GRU, GRU, mode),)
    writer.nodes[-1 if merge not in ("Average", "Halve") else -2].input[:] = halves[::-1]
    with pytest.raises(
        ImportRefusedError, match=r"not the two directions of one layer; this (is not|cannot be) served"
    ):
        read(writer, tmp_path, out)


def test_ids_tables_and_dense_layers(tmp_path: Path) -> None:
    writer = GraphWriter({"X": ("batch", "time")}, ids=True)
    embedded = writer.node("Gather", [writer.constant("table", noise((11, 5))), "X"])
    y = writer.recurrent("LSTM", writer.node("Transpose", [embedded], perm=[1, 0, 2]), 5, 4)
    h = writer.node("Transpose", [writer.node("Squeeze", [y, writer.ints("one", 1)])], perm=[1, 0, 2])
    hidden = writer.node("Dropout", [writer.node("Relu", [writer.dense(h, 4, 3)])])
    out = writer.node("Softmax", [writer.dense(hidden, 3, 2, seed=11)], axis=-1)
    model = read(writer, tmp_path, out)
    assert model.description.layers == (Embedding(11, 5), LSTM, Dense(3, "relu"), Dense(2, "softmax"))
    assert model.description.inputs[0].shape == ()
    np.testing.assert_array_equal(model.weights["embedding/embeddings"], noise((11, 5)))
    np.testing.assert_array_equal(model.weights["dense/bias"], noise((3,), 10))


def test_ids_as_vectors_of_a_single_one(tmp_path: Path) -> None:
    writer = GraphWriter({"X": ("time", "batch")}, ids=True)
    values = [writer.constant("depth", np.array(5)), writer.constant("levels", np.array([0, 1], np.float32))]
    model = read(writer, tmp_path, writer.recurrent("GRU", writer.node("OneHot", ["X", *values]), 5, 4))
    assert model.description.layers == (Embedding(5, 5), GRU)
    np.testing.assert_array_equal(model.weights["embedding/embeddings"], np.eye(5))


def test_a_gemm_on_joined_axes(tmp_path: Path) -> None:
    writer = GraphWriter(BATCH_MAJOR)
    first = writer.dense("X", 5, 3, seed=40)
    y = writer.recurrent("GRU", writer.node("Transpose", [first], perm=[1, 0, 2]), 3, 4)
    flat = writer.node("Reshape", [y, writer.ints("flat", -1, 4)])
    kernel, bias = writer.constant("kernel", noise((2, 4))), writer.constant("bias", noise((2,)))
    out = writer.node("Gemm", [flat, kernel, bias], transB=1, alpha=2.0, beta=0.5)
    model = read(writer, tmp_path, out)
    assert model.description.layers == (Dense(3), GRU, Dense(2))
    np.testing.assert_array_equal(model.weights["layer_1/dense/kernel"], 2 * noise((2, 4)).T)
    np.testing.assert_array_equal(model.weights["layer_1/dense/bias"], 0.5 * noise((2,)))


def test_a_function_without_a_dense_layer(tmp_path: Path) -> None:
    writer = GraphWriter(TIME_MAJOR)
    y = writer.node("Squeeze", [writer.recurrent("RNN", "X", 5, 4), writer.ints("one", 1)])
    model = read(writer, tmp_path, writer.node("Softmax", [y], axis=-1))
    assert model.description.layers == (RNN, Dense(4, "softmax"))
    inputs = noise((2, 3, 5))
    plain = read(writer, tmp_path, y)
    exponents = np.exp(run(plain, inputs)[0])
    assert_close(run(model, inputs)[0], exponents / exponents.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("kind", ["Gather", "Slice", "Y_h", "h_n[-1]"])
def test_the_last_step_alone(tmp_path: Path, kind: str) -> None:
    writer = GraphWriter(TIME_MAJOR)
    y = writer.recurrent("GRU", "X", 5, 4)
    if kind == "Gather":
        last = writer.node("Gather", [y, writer.constant("last", np.array(-1))], axis=0)
    elif kind == "Slice":
        bounds = [writer.ints("from", -1), writer.ints("to", (1 << 63) - 1), writer.ints("axis", 0)]
        last = writer.node("Squeeze", [writer.node("Slice", [y, *bounds]), writer.ints("zero", 0)])
    elif kind == "Y_h":
        last = "gru0_Y_h"
    else:
        below = writer.node("Squeeze", [y, writer.ints("one", 1)])
        writer.recurrent("GRU", below, 4, 4, seed=50)
        stacked = writer.node("Concat", ["gru0_Y_h", "gru50_Y_h"], axis=0)
        last = writer.node("Gather", [stacked, writer.constant("last", np.array(-1))], axis=0)
    model = read(writer, tmp_path, writer.dense(last, 4, 2))
    assert model.description.layers[-1] == Dense(2)
    assert "holds the last step alone" in model.ignored[-1]


def test_a_batch_of_one_and_a_step_alone(tmp_path: Path) -> None:
    """A graph for a device: one row, one step, vectors in and out; states in and out."""
    writer = GraphWriter({"X": (1, 5)})
    x = writer.node("Unsqueeze", ["X", writer.ints("zero", 0)])
    h = writer.node("Unsqueeze", [writer.input("h0", (1, 4)), "zero"])
    y = writer.recurrent("GRU", x, 5, 4, h=h)
    out = writer.dense(writer.node("Squeeze", [y, writer.ints("both", 0, 1)]), 4, 2)
    model = read(writer, tmp_path, out, "gru0_Y_h")
    assert model.description.layers == (GRU, Dense(2))


def test_weights_that_the_graph_puts_together(tmp_path: Path) -> None:
    """Exporters without constant folding leave the gates in their own order and move them in the graph."""
    writer = GraphWriter(TIME_MAJOR)
    y = writer.recurrent("LSTM", "X", 5, 4)
    want = read(writer, tmp_path, y).weights
    whole = writer.constants.pop("lstm0_W")
    pieces = [writer.constant(f"piece{i}", whole[0, 4 * i : 4 * i + 4]) for i in range(4)]
    writer.nodes.insert(0, writer.nodes.pop())
    writer.node("Unsqueeze", [writer.node("Concat", pieces, axis=0), writer.ints("zero", 0)], ["lstm0_W"])
    model = read(writer, tmp_path, y)
    assert all(np.array_equal(model.weights[name], array) for name, array in want.items())


# --- what cannot be followed ------------------------------------------------------------------------------------------


def squeezed(writer: GraphWriter) -> str:
    return writer.node("Squeeze", [writer.recurrent("GRU", "X", 5, 4), writer.ints("one", 1)])


def test_operations_that_cannot_be_served_are_named(tmp_path: Path) -> None:
    cases: dict[str, tuple[str, list[str], dict[str, Any]]] = {
        "Conv 'Conv_2': this operation is none that can be served": ("Conv", ["{h}", "kernel"], {}),
        "LeakyRelu 'LeakyRelu_2': this operation is none": ("LeakyRelu", ["{h}"], {}),
        "MatMul 'MatMul_2': multiplies values of the sequence by each other, as attention does": (
            "MatMul",
            ["{h}", "{h}"],
            {},
        ),
        "Add 'Add_2': adds a constant .bias. to what is no dense layer's product": ("Add", ["{h}", "bias"], {}),
        "Add 'Add_2': combines values that are not the two directions": ("Add", ["{h}", "{h}"], {}),
        "Softmax 'Softmax_2': expected a softmax over the features; it is over X.0.": ("Softmax", ["{h}"], {"axis": 0}),
        "Mul 'Mul_2': this arithmetic is none that can be served": ("Mul", ["{h}", "bias"], {}),
        "MatMul 'MatMul_2': kernel: expected a matrix with 4 rows; got shape .3, 3.": ("MatMul", ["{h}", "kernel"], {}),
        "MatMul 'MatMul_2': expected the sequence times a constant matrix": ("MatMul", ["kernel", "{h}"], {}),
        "Gather 'Gather_2': takes element 0 of X.0.; the last step, or one direction": ("Gather", ["{h}", "first"], {}),
        "Concat 'Concat_2': joins values that are not the two directions": ("Concat", ["{h}", "{h}"], {"axis": 2}),
        "Cast 'Cast_2': turns float32 into float16 on the way": ("Cast", ["{h}"], {"to": 10}),
        "Squeeze 'Squeeze_2': expected axis 2 to be of length 1; it is features .4.": ("Squeeze", ["{h}", "two"], {}),
        "Transpose 'Transpose_2': expected an order of 3 axes": ("Transpose", ["{h}"], {"perm": [0, 1]}),
        "Expand 'Expand_2': repeats values of the sequence": ("Expand", ["{h}", "two"], {}),
        "its input 'nowhere' is given by no node and no constant": ("Add", ["{h}", "nowhere"], {}),
    }
    for message, (op, inputs, attributes) in cases.items():
        writer = GraphWriter(TIME_MAJOR)
        h = squeezed(writer)
        writer.constant("kernel", noise((3, 3)))
        writer.constant("bias", noise((4,)))
        writer.constant("first", np.array(0))
        writer.ints("two", 2)
        out = writer.node(op, [each.format(h=h) for each in inputs], **attributes)
        with pytest.raises(ImportRefusedError, match=message):
            read(writer, tmp_path, out)


def test_a_recurrent_node_along_another_axis_is_refused(tmp_path: Path) -> None:
    writer = GraphWriter(TIME_MAJOR)
    turned = writer.node("Transpose", [squeezed(writer)], perm=[1, 0, 2])
    with pytest.raises(ImportRefusedError, match="runs along another axis than the recurrent nodes before it"):
        read(writer, tmp_path, writer.recurrent("GRU", turned, 4, 4, seed=60))


def test_parts_of_a_recurrent_layer_alone_are_refused(tmp_path: Path) -> None:
    writer = GraphWriter(TIME_MAJOR)
    y = writer.recurrent("GRU", "X", 5, 4, directions=2)
    forward = writer.node("Gather", [y, writer.constant("first", np.array(0))], axis=1)
    with pytest.raises(ImportRefusedError, match="a layer that runs backwards alone cannot be served"):
        read(writer, tmp_path, forward)
    with pytest.raises(ImportRefusedError, match="takes one direction alone of the layer below"):
        read(writer, tmp_path, writer.dense(forward, 4, 2))
    with pytest.raises(ImportRefusedError, match="runs on one direction alone of the layers below"):
        read(writer, tmp_path, writer.recurrent("GRU", forward, 4, 4, seed=61))
    with pytest.raises(ImportRefusedError, match="MatMul 'MatMul_5' computes it from a final state of GRU 'GRU_0'"):
        read(writer, tmp_path, writer.dense("gru0_Y_h", 4, 2, seed=62))
    writer = GraphWriter(TIME_MAJOR)
    y = writer.recurrent("GRU", "X", 5, 4, lengths=writer.input("lengths", ("batch",), "int32"))
    last = writer.node("Gather", [y, writer.constant("last", np.array(-1))], axis=0)
    with pytest.raises(ImportRefusedError, match="is not each row's own last step where rows have lengths"):
        read(writer, tmp_path, last)


def test_several_outputs_are_a_choice(tmp_path: Path) -> None:
    writer = GraphWriter(TIME_MAJOR)
    h = squeezed(writer)
    logits = writer.dense(h, 4, 2)
    with pytest.raises(ImportRefusedError, match=rf"several outputs: {logits}, {h} .*--set output={logits}"):
        read(writer, tmp_path, logits, h)
    model = read(writer, tmp_path, logits, h, output=h)
    assert model.description.layers == (GRU,)
    assert [line.partition(":")[0] for line in model.ignored] == ["MatMul 'MatMul_2'", "Add 'Add_3'"]
    with pytest.raises(ImportRefusedError, match=r"output: expected one of .*; got 'other'"):
        read(writer, tmp_path, logits, h, output="other")


def test_graphs_without_an_output_to_serve(tmp_path: Path) -> None:
    writer = GraphWriter(TIME_MAJOR)
    writer.recurrent("LSTM", "X", 5, 4)
    with pytest.raises(
        ImportRefusedError, match=r"lstm0_Y_c: expected an output of each step, or of the last; it is a final"
    ):
        read(writer, tmp_path, "lstm0_Y_c")
    with pytest.raises(ImportRefusedError, match="expected an output that depends on the graph's inputs; got X"):
        read(writer, tmp_path, "X")
    writer = GraphWriter(BATCH_MAJOR)
    with pytest.raises(
        ImportRefusedError, match=r"expected a graph with an LSTM, a GRU or an RNN node; .* depends on none"
    ):
        read(writer, tmp_path, writer.dense("X", 5, 4))
    writer = GraphWriter(TIME_MAJOR)
    random = writer.node("RandomNormal", [], shape=[1, 1, 4])
    with pytest.raises(ImportRefusedError, match="it cannot be followed: RandomNormal 'RandomNormal_0' computes it"):
        read(writer, tmp_path, random)
