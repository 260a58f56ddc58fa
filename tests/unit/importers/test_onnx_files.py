"""ONNX files that are damaged, hostile or beyond what is read: refused, with nothing run and nothing allocated."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from cellserve_server.importers import onnx_graph
from cellserve_server.importers.base import ImportRefusedError
from tests.golden_cases import GOLDEN_FOLDER
from tests.unit.importers.comparing import noise, settings
from tests.unit.importers.onnx_files import GraphWriter, parsed

GOLDEN = GOLDEN_FOLDER / "onnx_lstm.onnx"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound file, to be damaged."""
    writer = GraphWriter({"X": ("time", "batch", 5)})
    return writer.save(tmp_path / "model.onnx", writer.recurrent("GRU", "X", 5, 4))


def refused(path: Path) -> str:
    with pytest.raises(ImportRefusedError) as caught:
        onnx_graph.read(path, settings())
    return str(caught.value)


def test_a_file_is_known_by_its_name_or_its_beginning(path: Path, tmp_path: Path) -> None:
    assert onnx_graph.recognises(path)
    other = tmp_path / "model.bin"
    other.write_bytes(path.read_bytes())
    assert onnx_graph.recognises(other)
    other.write_bytes(b"\x80\x02}q\x00.")
    assert not onnx_graph.recognises(other)
    assert not onnx_graph.recognises(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "model.onnx: expected an ONNX model with a graph; it has no nodes"),
        (b"not an ONNX file at all", "model.onnx: expected an ONNX model; it was cut off or is none: "),
        (GOLDEN.read_bytes()[:-30], "model.onnx: expected an ONNX model; it was cut off or is none: "),
    ],
)
def test_what_is_no_model_is_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    assert refused(path).startswith(message)


def test_no_damage_gives_another_error() -> None:
    """Whatever byte is changed: it is refused, or it is a model all the same; never another exception."""


@pytest.mark.parametrize("seed", range(4))
def test_any_damage_is_refused_or_harmless(tmp_path: Path, seed: int) -> None:
    whole = GOLDEN.read_bytes()
    random = np.random.default_rng(seed)
    for _ in range(60):
        changed = bytearray(whole)
        for position in random.integers(len(whole), size=int(random.integers(1, 4))):
            changed[int(position)] = int(random.integers(256))
        path = tmp_path / "model.onnx"
        path.write_bytes(bytes(changed[: int(random.integers(1, 2 * len(whole)))]))
        try:
            onnx_graph.read(path, settings())
        except ImportRefusedError:
            continue


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "a tensor one element short": (
        lambda model: setattr(model.graph.initializer[0], "raw_data", model.graph.initializer[0].raw_data[:-4]),
        r"gru0_W: expected a tensor of shape \[1, 12, 5\]; ",
    ),
    "a shape off by one": (
        lambda model: model.graph.initializer[0].dims.__setitem__(1, 13),
        "gru0_W: expected a tensor",
    ),
    "an unknown type": (
        lambda model: setattr(model.graph.initializer[0], "data_type", 99),
        "gru0_W: expected a tensor",
    ),
    "a type of our own": (
        lambda model: setattr(model.graph.node[0], "domain", "com.example"),
        "GRU 'GRU_0': an operation of com.example, which is not known here",
    ),
    "no operators": (lambda model: model.ClearField("opset_import"), "expected the version of ONNX's operators"),
    "a node that depends on itself": (
        lambda model: model.graph.node[0].input.__setitem__(5, "gru0_Y"),
        "GRU 'GRU_0': it depends on itself through gru0_Y",
    ),
    "two makers of one value": (
        lambda model: model.graph.node.append(helper.make_node("Identity", ["X"], ["gru0_Y"], name="other")),
        "Identity 'other': it gives gru0_Y, which GRU 'GRU_0' gives, too",
    ),
    "an input that is no tensor": (
        lambda model: model.graph.input[0].CopyFrom(
            helper.make_tensor_sequence_value_info("X", onnx.TensorProto.FLOAT, None)
        ),
        "X: expected a tensor as the graph's input; got sequence_type",
    ),
    "an input of any shape": (
        lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"),
        "expected values of the sequence; the graph does not say how many axes its input X has",
    ),
    "sparse weights": (lambda model: model.graph.sparse_initializer.add(), "sparse weights cannot be read"),
    "too many nodes": (
        lambda model: model.graph.node.extend([helper.make_node("Identity", ["X"], ["y"])] * 20_001),
        "expected at most 20000 nodes; got 20002",
    ),
    "an attribute of the wrong type": (
        lambda model: model.graph.node[0].attribute.append(helper.make_attribute("clip", "wide")),
        "GRU 'GRU_0': its inputs or attributes do not fit it: ",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_what_cannot_be_read_is_refused_by_what_it_is(
    path: Path, change: Callable[[Any], object], message: str
) -> None:
    model = parsed(path)
    if len(model.graph.node[0].input) < 6:
        model.graph.node[0].input.extend([""] * (6 - len(model.graph.node[0].input)))
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ImportRefusedError, match=message):
        onnx_graph.read(path, settings())


def test_constants_that_grow_without_bound_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellserve_server.importers.onnx_graph.MAX_CONST_ELEMENTS", 1000)
    writer = GraphWriter({"X": ("time", "batch", 5)})
    h = writer.constant("h", noise((1, 1, 4)))
    for _ in range(30):
        h = writer.node("Concat", [h, h], axis=1)
    y = writer.recurrent("GRU", "X", 5, 4, h=h)
    assert "expected constants of at most 1000 elements" in refused(writer.save(tmp_path / "model.onnx", y))
    writer = GraphWriter({"X": ("time", "batch", 5)})
    filled = writer.node(
        "ConstantOfShape", [writer.ints("shape", 1 << 20, 1 << 20)], value=helper.make_tensor("v", 1, [1], [1.0])
    )
    y = writer.recurrent("GRU", "X", 5, 4, h=filled)
    assert "initial_h: expected zeros or an input" in refused(writer.save(tmp_path / "model.onnx", y))


# --- weights in a file beside the model -------------------------------------------------------------------------------


def external(path: Path, **entries: str) -> None:
    """Moves the first weight into a file of its own; what is given stands in the model in place of the truth."""
    model = parsed(path)
    tensor = model.graph.initializer[0]
    (path.parent / "weights.bin").write_bytes(b"1234" + tensor.raw_data)
    truth = {"location": "weights.bin", "offset": "4", "length": str(len(tensor.raw_data))}
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {**truth, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def test_weights_beside_the_model_are_read(path: Path) -> None:
    want = onnx_graph.read(path, settings()).weights
    external(path)
    model = onnx_graph.read(path, settings())
    assert all(np.array_equal(model.weights[name], array) for name, array in want.items())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"location": "../weights.bin"},
            "gru0_W: expected external data in a file beside the model; got '../weights.bin'",
        ),
        ({"location": "/etc/passwd"}, "got '/etc/passwd'"),
        ({"location": ".."}, r"got '\.\.'"),
        ({"location": ""}, "got ''"),
        ({"location": "missing.bin"}, "expected 240 bytes at 4 of missing.bin; they are not there"),
        ({"offset": "5"}, "expected 240 bytes at 5 of weights.bin; they are not there"),
        ({"offset": "-4"}, "expected 240 bytes at -4 of weights.bin; they are not there"),
        ({"offset": "far"}, "its external data is not described soundly: invalid literal"),
    ],
)
def test_weights_elsewhere_are_refused(path: Path, entries: dict[str, str], message: str) -> None:
    external(path, **entries)
    with pytest.raises(ImportRefusedError, match=message):
        onnx_graph.read(path, settings())


def test_without_the_package_it_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_onnx(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("cellserve_server.importers.onnx_file.importlib.import_module", without_onnx)
    assert "the package onnx is needed, which is not installed: pip install 'cellserve-server[onnx]'" in refused(path)


def test_nothing_of_a_file_is_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "eval", None)
    monkeypatch.setattr(builtins, "exec", None)
    onnx_graph.read(path, settings())
