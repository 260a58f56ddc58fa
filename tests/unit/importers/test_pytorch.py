"""State dicts of PyTorch: against PyTorch's own results, and what they leave open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, BasicRNNCell, CudnnCompatibleGRUCell, LSTMCell, MultiRNNCell
from cellserve.specs import Bidirectional, Dense, Embedding
from cellserve.tensors import Array
from cellserve_server.importers import pytorch
from cellserve_server.importers.base import ImportedModel, ImportRefusedError
from tests.golden_cases import GOLDEN_FOLDER, FrameworkCase, framework_cases
from tests.unit.importers.comparing import assert_close, options_taken, run, save_safetensors, settings
from tests.unit.importers.torch_files import matrix, recurrent

CASES = [case for case in framework_cases() if case.framework == "torch"]
FILES = [(case, path) for case in CASES for path in case.files]
LSTM_FILE = GOLDEN_FOLDER / "torch_lstm_3_layers.pt"


def state_leaves(case: FrameworkCase, which: str) -> list[Array]:
    """A golden state as our leaves: PyTorch stacks the layers and directions, we have c before h in each."""
    h = case.arrays[f"{which}/h"]
    if h.ndim == 2:
        h = h[np.newaxis]
    if f"{which}/c" not in case.arrays:
        return list(h)
    c = case.arrays[f"{which}/c"]
    return [leaf for pair in zip(c[np.newaxis] if c.ndim == 2 else c, h, strict=True) for leaf in pair]


def check(case: FrameworkCase, path: Path) -> None:
    options = {"nonlinearity": case.entry["cell"]["nonlinearity"]} if "nonlinearity" in case.entry["cell"] else {}
    model = pytorch.read(path, settings(**options))
    inputs, lengths = case.arrays["inputs"], case.entry["sequence_length"]
    outputs, after = run(model, inputs, lengths, state_leaves(case, "initial_state"))
    assert_close(outputs, case.arrays["outputs"])
    want = state_leaves(case, "final_state")
    assert len(after) == len(want)
    for got, leaf in zip(after, want, strict=True):
        assert_close(got, leaf)


@pytest.mark.parametrize(("case", "path"), FILES, ids=[path.name for _, path in FILES])
def test_a_file_that_pytorch_wrote_gives_what_pytorch_gave(case: FrameworkCase, path: Path) -> None:
    assert pytorch.recognises(path)
    check(case, path)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_weights_of_a_golden_case_give_what_pytorch_gave(case: FrameworkCase, tmp_path: Path) -> None:
    arrays = {f"model.rnn.{name}": case.arrays[name] for name in case.entry["weights"]}
    check(case, save_safetensors(tmp_path / "weights.safetensors", arrays))


# --- what a module becomes --------------------------------------------------------------------------------------------


def read(tmp_path: Path, arrays: dict[str, Array], **options: str) -> ImportedModel:
    return pytorch.read(save_safetensors(tmp_path / "weights.safetensors", arrays), settings(**options))


def test_the_kind_is_told_by_the_rows(tmp_path: Path) -> None:
    layers = {gates: read(tmp_path, recurrent(gates, 3, 5)).description.layers for gates in (1, 3, 4)}
    assert layers == {
        1: (BasicRNNCell(5, "tanh"),),
        3: (CudnnCompatibleGRUCell(5),),
        4: (BasicLSTMCell(5, forget_bias=0.0),),
    }


def test_layers_become_a_stack(tmp_path: Path) -> None:
    arrays = recurrent(4, 3, 5) | recurrent(4, 5, 5, suffix="_l1")
    (layer,) = read(tmp_path, arrays).description.layers
    assert layer == MultiRNNCell([BasicLSTMCell(5, forget_bias=0.0)] * 2)


def test_a_projection_of_hidden_size_is_no_hidden_size(tmp_path: Path) -> None:
    arrays = recurrent(4, 3, 6)
    arrays["weight_hh_l0"] = arrays["weight_hh_l0"][:, :2]
    arrays["weight_hr_l0"] = np.ones((2, 6), np.float32)
    (layer,) = read(tmp_path, arrays).description.layers
    assert layer == LSTMCell(6, num_proj=2, forget_bias=0.0)


def test_without_biases_they_are_zeros(tmp_path: Path) -> None:
    model = read(tmp_path, recurrent(3, 3, 5, bias=False))
    assert all(not array.any() for name, array in model.weights.items() if name.endswith("bias"))


def test_both_directions_of_layers_become_layers(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {}
    for layer, depth in enumerate((3, 10)):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse"):
            arrays |= recurrent(3, depth, 5, suffix=suffix)
    cell = CudnnCompatibleGRUCell(5)
    assert read(tmp_path, arrays).description.layers == (Bidirectional(cell, cell), Bidirectional(cell, cell))


def test_the_nonlinearity_of_an_rnn_is_an_assumption(tmp_path: Path) -> None:
    assumed = read(tmp_path, recurrent(1, 3, 5)).assumptions
    given = read(tmp_path, recurrent(1, 3, 5), nonlinearity="relu").assumptions
    assert [(a.option, a.value, a.given) for a in (*assumed, *given)] == [
        ("nonlinearity", "tanh", False),
        ("nonlinearity", "relu", True),
    ]
    assert read(tmp_path, recurrent(4, 3, 5)).assumptions == ()
    with pytest.raises(ImportRefusedError, match="nonlinearity: expected one of tanh, relu; got 'sigmoid'"):
        read(tmp_path, recurrent(1, 3, 5), nonlinearity="sigmoid")


# --- modules around ---------------------------------------------------------------------------------------------------


def language_model() -> dict[str, Array]:
    return matrix(11, 3, "embedding", bias=False) | recurrent(4, 3, 5, "lstm.") | matrix(11, 5, "fc")


def test_an_embedding_and_a_linear_module_stand_around(tmp_path: Path) -> None:
    arrays = language_model()
    model = read(tmp_path, arrays)
    assert model.description.layers == (Embedding(11, 3), BasicLSTMCell(5, forget_bias=0.0), Dense(11))
    assert options_taken(model) == {"order": "embedding,lstm,fc", "head": "none"}
    ids = np.array([[0, 10, 3]], np.int32)
    embedded = arrays["embedding.weight"][ids]
    middle, _ = run(read(tmp_path, recurrent(4, 3, 5, "lstm.")), embedded)
    assert_close(run(model, ids)[0], middle @ arrays["fc.weight"].T + arrays["fc.bias"])


def test_the_head_takes_its_activation_by_option(tmp_path: Path) -> None:
    model = read(tmp_path, language_model(), head="softmax")
    assert model.description.layers[-1] == Dense(11, "softmax")
    with pytest.raises(ImportRefusedError, match="head: expected 1 of none, softmax, "):
        read(tmp_path, language_model(), head="gelu")


def test_several_linear_modules_need_their_activations(tmp_path: Path) -> None:
    arrays = recurrent(4, 3, 5, "lstm.") | matrix(7, 5, "head.0") | matrix(2, 7, "head.2")
    with pytest.raises(ImportRefusedError, match="between its 2 linear modules") as refused:
        read(tmp_path, arrays)
    assert refused.value.option == "head=relu,none"
    model = read(tmp_path, arrays, head="relu,softmax")
    assert model.description.layers[1:] == (Dense(7, "relu"), Dense(2, "softmax"))


def test_an_order_that_widths_leave_open_is_asked_for(tmp_path: Path) -> None:
    arrays = recurrent(4, 5, 5, "a.") | recurrent(3, 5, 5, "b.")
    with pytest.raises(ImportRefusedError, match="fit in several orders") as refused:
        read(tmp_path, arrays)
    assert refused.value.option in ("order=a,b", "order=b,a")
    model = read(tmp_path, arrays, order="b,a")
    assert model.description.layers == (CudnnCompatibleGRUCell(5), BasicLSTMCell(5, forget_bias=0.0))
    assert model.assumptions[0].given


def test_numbered_cells_are_in_their_order(tmp_path: Path) -> None:
    arrays = recurrent(4, 5, 5, "cells.10.", "") | recurrent(3, 5, 5, "cells.9.", "")
    model = read(tmp_path, arrays)
    assert options_taken(model) == {"order": "cells.9,cells.10"}


def test_a_matrix_that_could_be_both_is_asked_about(tmp_path: Path) -> None:
    arrays = matrix(11, 5, "tied", bias=False) | recurrent(4, 5, 5, "lstm.")
    with pytest.raises(ImportRefusedError, match="fit in several orders") as refused:
        read(tmp_path, arrays)
    assert refused.value.option == "embedding=tied"
    assert read(tmp_path, arrays, embedding="tied").description.layers[0] == Embedding(11, 5)
    assert read(tmp_path, arrays, embedding="none").description.layers[1] == Dense(11)


def test_the_names_of_a_language_model_tell_its_tied_matrices(tmp_path: Path) -> None:
    arrays = matrix(11, 5, "encoder", bias=False) | recurrent(1, 5, 5, "rnn.") | matrix(11, 5, "decoder")
    model = read(tmp_path, arrays)
    assert model.description.layers == (Embedding(11, 5), BasicRNNCell(5, "tanh"), Dense(11))


def test_an_order_leaves_other_tensors_out(tmp_path: Path) -> None:
    arrays = language_model() | {"norm.weight": np.ones(5, np.float32), "norm.bias": np.ones(5, np.float32)}
    with pytest.raises(ImportRefusedError, match=r"'norm.bias', 'norm.weight': of no module that") as refused:
        read(tmp_path, arrays)
    assert refused.value.option == "order=embedding,lstm,fc"
    model = read(tmp_path, arrays, order="lstm,fc")
    assert sorted(model.ignored) == [
        "embedding: not in the order that was given",
        "norm.bias: of no module that can be served",
        "norm.weight: of no module that can be served",
    ]


@pytest.mark.parametrize("order", ["lstm,lstm", "lstm,gru", ""])
def test_an_order_of_other_modules_is_refused(tmp_path: Path, order: str) -> None:
    with pytest.raises(ImportRefusedError, match="order: expected names among"):
        read(tmp_path, language_model(), order=order)


def test_an_order_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefusedError, match="fit in no order given: fc: 5 -> 11; lstm: 3 -> 5"):
        read(tmp_path, language_model(), order="fc,lstm")


# --- element types ----------------------------------------------------------------------------------------------------


def test_double_precision_stays(tmp_path: Path) -> None:
    arrays = {name: array.astype(np.float64) for name, array in recurrent(4, 3, 5).items()}
    assert read(tmp_path, arrays).description.dtype == np.float64


def test_half_precision_is_widened_when_asked(tmp_path: Path) -> None:
    arrays = {name: array.astype(np.float16) for name, array in recurrent(4, 3, 5).items()}
    with pytest.raises(ImportRefusedError, match="got float16 ") as refused:
        read(tmp_path, arrays)
    assert refused.value.option == "dtype=float32"
    model = read(tmp_path, arrays, dtype="float32")
    assert model.description.dtype == np.float32
    assert options_taken(model) == {"dtype": "float32"}
    assert model.assumptions[0].given


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {name: np.ones(array.shape, np.int32) for name, array in recurrent(4, 3, 5).items()}
    with pytest.raises(ImportRefusedError, match="weight_ih_l0: expected floating-point weights; got I32"):
        read(tmp_path, arrays)
