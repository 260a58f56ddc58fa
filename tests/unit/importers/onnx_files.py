"""Writes ONNX files for tests, as exporters do: recurrent nodes with drawn weights, and what stands around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cellserve.tensors import Array
from tests.unit.importers.comparing import noise

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Shape = Sequence[int | str]


class GraphWriter:
    """Collects a graph's parts.

    Args:
        inputs: shapes by name; a text is a length that is left open.
        dtype: of the inputs that are no ids.
        opset: the version of ONNX's operators.
        ids: the inputs are ids.
        scale: what drawn weights are multiplied with; small, so that functions without bounds stay finite.
    """

    def __init__(
        self,
        inputs: Mapping[str, Shape],
        dtype: str = "float32",
        opset: int = 14,
        ids: bool = False,
        scale: float = 1.0,
    ) -> None:
        self.dtype = dtype
        self.opset = opset
        self.scale = scale
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self.outputs: list[str] = []
        self._inputs = dict(inputs)
        self._types = dict.fromkeys(inputs, "int64" if ids else dtype)

    def input(self, name: str, shape: Shape, dtype: str = "") -> str:
        """Another input."""
        self._inputs[name], self._types[name] = shape, dtype or self.dtype
        return name

    def constant(self, name: str, array: Array) -> str:
        """An initialiser."""
        self.constants[name] = array
        return name

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any) -> str:
        """A node; gives its first output's name."""
        names = list(outputs) or [f"{op.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{len(self.nodes)}", **attributes))
        return names[0]

    def ints(self, name: str, *values: int) -> str:
        """A constant of whole numbers."""
        return self.constant(name, np.array(values, np.int64))

    def recurrent(
        self,
        op: str,
        x: str,
        depth: int,
        hidden: int,
        *,
        directions: int = 1,
        has_bias: bool = True,
        has_peepholes: bool = False,
        lengths: str = "",
        h: str = "",
        c: str = "",
        seed: int = 0,
        **attributes: Any,
    ) -> str:
        """A recurrent node with drawn weights; gives the name of Y, beside which there are ``..._h`` and ``..._c``."""
        rows, name = GATES[op] * hidden, f"{op.lower()}{seed}"
        weights = {
            "W": noise((directions, rows, depth), seed),
            "R": noise((directions, rows, hidden), seed + 1),
            "B": noise((directions, 2 * rows), seed + 2) if has_bias else None,
            "P": noise((directions, 3 * hidden), seed + 3) if has_peepholes else None,
        }
        given = {
            label: "" if array is None else self.constant(f"{name}_{label}", (self.scale * array).astype(self.dtype))
            for label, array in weights.items()
        }
        inputs = [x, given["W"], given["R"], given["B"], lengths, h]
        inputs += [c, given["P"]] if op == "LSTM" else []
        while not inputs[-1]:
            inputs.pop()
        if directions == 2:
            attributes["direction"] = "bidirectional"
        outputs = [f"{name}_Y", f"{name}_Y_h", *([f"{name}_Y_c"] if op == "LSTM" else [])]
        return self.node(op, inputs, outputs, hidden_size=hidden, **attributes)

    def dense(self, x: str, depth: int, units: int, seed: int = 10) -> str:
        """MatMul and Add."""
        kernel = self.constant(f"kernel{seed}", noise((depth, units), seed).astype(self.dtype))
        bias = self.constant(f"bias{seed}", noise((units,), seed).astype(self.dtype))
        return self.node("Add", [self.node("MatMul", [x, kernel]), bias])

    def save(self, path: Path, *outputs: str) -> Path:
        """Writes the file."""

        def info(name: str, dtype: str, shape: Shape | None) -> Any:
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

        graph = helper.make_graph(
            self.nodes,
            "graph",
            [info(name, self._types[name], shape) for name, shape in self._inputs.items()],
            [info(name, self.dtype, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        path.write_bytes(model.SerializeToString())
        return path


def parsed(path: Path) -> Any:
    """The file's message, to be changed and written again."""
    return onnx.load_model_from_string(path.read_bytes())
