"""onnxruntime beside the served model: nodes of drawn options, and graphs of drawn layers."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.tensors import Array
from cellserve_server.importers import onnx_graph
from cellserve_server.importers.verify import verify_import
from tests.unit.importers.comparing import assert_close, run, settings
from tests.unit.importers.comparing import noise as drawn
from tests.unit.importers.onnx_files import GraphWriter

pytestmark = pytest.mark.onnxruntime

FUNCTIONS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("Tanh", (), ()),
    ("Sigmoid", (), ()),
    ("Relu", (), ()),
    ("Softsign", (), ()),
    ("Softplus", (), ()),
    ("Elu", (1.0,), ()),
    ("LeakyRelu", (0.2,), ()),
    ("HardSigmoid", (0.2,), (0.5,)),
    ("HardSigmoid", (1 / 6,), (0.5,)),
    ("ScaledTanh", (1.0,), (1.0,)),
    ("Affine", (1.0,), (0.0,)),
    ("ThresholdedRelu", (0.0,), ()),
)


@pytest.fixture(scope="module")
def runtime() -> Any:
    module = importlib.import_module("onnxruntime")
    module.set_default_logger_severity(4)
    return module


def drawn_attributes(draw: random.Random, op: str, directions: int) -> dict[str, Any]:
    count = {"LSTM": 3, "GRU": 2, "RNN": 1}[op] * directions
    attributes: dict[str, Any] = {}
    if draw.random() < 0.7:
        chosen = [draw.choice(FUNCTIONS) for _ in range(count)]
        attributes["activations"] = [name for name, _, _ in chosen]
        attributes["activation_alpha"] = [alpha for _, alphas, _ in chosen for alpha in alphas]
        attributes["activation_beta"] = [beta for _, _, betas in chosen for beta in betas]
        attributes = {key: value for key, value in attributes.items() if value}
    if draw.random() < 0.3:
        attributes["clip"] = draw.uniform(0.2, 2.0)
    if op == "GRU":
        attributes["linear_before_reset"] = draw.randint(0, 1)
    if draw.random() < 0.6:
        attributes["has_bias"] = draw.random() < 0.7
    return attributes


@pytest.mark.parametrize("seed", range(80))
def test_a_node_of_drawn_options(runtime: Any, tmp_path: Path, seed: int) -> None:
    """With states, lengths, and the final states compared as well."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    op, directions = draw.choice(("LSTM", "GRU", "RNN")), draw.randint(1, 2)
    depth, hidden, rows, time = (draw.randint(1, 6) for _ in range(4))
    writer = GraphWriter({"X": ("time", "batch", depth)}, scale=0.4)
    attributes = drawn_attributes(draw, op, directions)
    if op == "LSTM":
        attributes["has_peepholes"] = draw.random() < 0.4
    states: dict[str, Any] = {"h": writer.input("h0", (directions, "batch", hidden))}
    if op == "LSTM":
        states["c"] = writer.input("c0", (directions, "batch", hidden))
    lengths = [draw.randint(1, time) for _ in range(rows)]
    given = writer.input("lengths", ("batch",), "int32")
    y = writer.recurrent(op, "X", depth, hidden, directions=directions, lengths=given, seed=0, **states, **attributes)
    name = y.removesuffix("_Y")
    outputs = [y, f"{name}_Y_h", *([f"{name}_Y_c"] if op == "LSTM" else [])]
    path = writer.save(tmp_path / "model.onnx", *outputs)
    inputs = noise.normal(0, 1, (rows, time, depth)).astype(np.float32)
    before = {key: noise.normal(0, 1, (directions, rows, hidden)).astype(np.float32) for key in states}
    feeds = {"X": inputs.swapaxes(0, 1), "lengths": np.array(lengths, np.int32)}
    session = runtime.InferenceSession(str(path))
    want = session.run(outputs, feeds | {f"{key}0": array for key, array in before.items()})

    got, after = run(onnx_graph.read(path, settings()), inputs, lengths, as_leaves(before))
    assert_close(got, want[0].transpose(2, 0, 1, 3).reshape(rows, time, -1))
    final = as_leaves(dict(zip(("h", "c"), want[1:], strict=False)))
    for leaf, wanted in zip(after, final, strict=True):
        assert_close(leaf, wanted)


def as_leaves(states: dict[str, Array]) -> list[Array]:
    """Of each direction c, if there is one, and h."""
    parts = [states[key] for key in ("c", "h") if key in states]
    return [part[direction] for direction in range(len(parts[0])) for part in parts]


@pytest.mark.parametrize("seed", range(40))
def test_a_graph_of_drawn_layers(runtime: Any, tmp_path: Path, seed: int) -> None:
    """A table or a dense layer below, one to three recurrent nodes, dense layers above; batch first or time first."""
    draw = random.Random(seed)
    batch_first, ids, static = draw.random() < 0.5, draw.random() < 0.4, draw.random() < 0.3
    lead: list[int | str] = [draw.randint(1, 4), draw.randint(1, 5)] if static else ["first", "second"]
    depth = draw.randint(2, 5)
    writer = GraphWriter({"X": lead if ids else [*lead, depth]}, ids=ids, opset=draw.choice((11, 12, 13, 17)))
    x = "X"
    if ids:
        x = writer.node("Gather", [writer.constant("table", drawn((7, depth), seed)), x])
    elif draw.random() < 0.3:
        x, depth = writer.node("Tanh", [writer.dense(x, depth, 3)]), 3
    if batch_first:
        x = writer.node("Transpose", [x], perm=[1, 0, 2])
    for layer in range(draw.randint(1, 3)):
        op, directions, hidden = draw.choice(("LSTM", "GRU", "RNN")), draw.randint(1, 2), draw.randint(2, 4)
        y = writer.recurrent(op, x, depth, hidden, directions=directions, seed=20 * layer + 100)
        turned = writer.node("Transpose", [y], perm=[0, 2, 1, 3])
        x, depth = writer.node("Reshape", [turned, writer.ints(f"shape{layer}", 0, 0, -1)]), directions * hidden
    if batch_first:
        x = writer.node("Transpose", [x], perm=[1, 0, 2])
    for layer in range(draw.randint(0, 2)):
        x, depth = writer.dense(x, depth, 3, seed=layer + 1), 3
        function = draw.choice(("Relu", "Sigmoid", "Tanh", "Softmax", ""))
        if function:
            axis: dict[str, Any] = {"axis": 2} if function == "Softmax" else {}
            x = writer.node(function, [x], **axis)
    model = onnx_graph.read(writer.save(tmp_path / "model.onnx", x), settings())
    result = verify_import(model)
    assert result.why_not == ""
    assert result.largest_difference is not None
    assert result.largest_difference < 1e-5
