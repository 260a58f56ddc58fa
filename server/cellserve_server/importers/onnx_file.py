"""ONNX files as plain Python: nodes, constants, inputs and outputs. The only place that needs the package onnx."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellserve.tensors import Array
from cellserve_server.importers.base import ImportRefusedError

SUFFIX = ".onnx"
MAX_FILE_BYTES = (1 << 31) - 1
MAX_NODES = 20_000
_OWN_DOMAINS = ("", "ai.onnx")
# ``ModelProto``: 1 is ir_version, a small number; after it come other fields of lengths or of one number.
_BEGINNING = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42\x72]")


@dataclass(frozen=True)
class Node:
    """An operation.

    Attributes:
        op: its kind: ``LSTM``.
        name: its name, or that of its first output.
        inputs: names of values; empty: an input that is left out.
        outputs: names of values; empty: an output that nobody asks for.
        attributes: by name; tensors are arrays, texts are str. A subgraph is None.
        domain: where the kind is defined; empty: ONNX itself.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    domain: str = ""

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"{self.op} {self.name!r}"

    def refuse(self, why: str, option: str = "") -> ImportRefusedError:
        """The error that names this node."""
        return ImportRefusedError(f"{self.label}: {why}", option)


@dataclass(frozen=True)
class GraphInput:
    """What a graph is fed: its name, its dtype's name, and its shape. None: any length, or for all of it any shape."""

    name: str
    type_name: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """A model: its nodes in the file's order, the inputs that are not constants, the names of its outputs."""

    nodes: tuple[Node, ...]
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Constant]
    opset: int


class Constant:
    """An initialiser, read when it is asked for: what nothing needs is never looked at."""

    def __init__(self, tensor: Any, folder: Path) -> None:
        self._tensor = tensor
        self._folder = folder

    def read(self) -> Array:
        """The array.

        Raises:
            ImportRefusedError: it is damaged, lies in a file elsewhere, or its type is not numpy's.
        """
        onnx = _onnx()
        name, tensor = self._tensor.name, self._tensor
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._read_external(onnx)
        try:
            array: Array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ImportRefusedError(f"{name}: expected a tensor of shape {list(tensor.dims)}; {error}") from error
        return _numbers(array, name)

    def _read_external(self, onnx: Any) -> Array:
        """Of a tensor in a file beside the model: its bytes there."""
        name, tensor = self._tensor.name, self._tensor
        entries = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
        location = entries.get("location", "")
        if not location or location in (".", "..") or re.search(r"[/\\\0]", location):
            raise ImportRefusedError(f"{name}: expected external data in a file beside the model; got {location!r}")
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
            offset = int(entries.get("offset", "0"))
        except (KeyError, ValueError, TypeError) as error:
            raise ImportRefusedError(f"{name}: its external data is not described soundly: {error}") from error
        shape = tuple(tensor.dims)
        size = math.prod(shape) * dtype.itemsize
        path = self._folder / location
        if offset < 0 or size < 0 or not path.is_file() or path.stat().st_size < offset + size:
            raise ImportRefusedError(f"{name}: expected {size} bytes at {offset} of {location}; they are not there")
        with path.open("rb") as file:
            file.seek(offset)
            array: Array = np.frombuffer(file.read(size), dtype).reshape(shape)
        return _numbers(array, name)


def looks_like_onnx(source: Path) -> bool:
    """Whether a file is called ``.onnx``, or begins as such a file does. ONNX has no magic number."""
    if not source.is_file():
        return False
    if source.name.endswith(SUFFIX):
        return True
    with source.open("rb") as file:
        return _BEGINNING.match(file.read(3)) is not None


def read_graph(source: Path) -> Graph:
    """Reads a file.

    Raises:
        ImportRefusedError: the package onnx is missing; the file is damaged, too large, or holds no graph.
    """
    onnx = _onnx()
    with source.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImportRefusedError(f"{source.name}: expected at most {MAX_FILE_BYTES} bytes; got more")
    decode_error = importlib.import_module("google.protobuf.message").DecodeError
    try:
        model = onnx.ModelProto.FromString(data)
    except decode_error as error:
        raise ImportRefusedError(
            f"{source.name}: expected an ONNX model; it was cut off or is none: {error}"
        ) from error
    graph = model.graph
    if not graph.node:
        raise ImportRefusedError(f"{source.name}: expected an ONNX model with a graph; it has no nodes")
    if len(graph.node) > MAX_NODES:
        raise ImportRefusedError(f"{source.name}: expected at most {MAX_NODES} nodes; got {len(graph.node)}")
    opsets = {_text(entry.domain): entry.version for entry in model.opset_import}
    opset = next((opsets[domain] for domain in _OWN_DOMAINS if domain in opsets), 0)
    if opset < 1:
        raise ImportRefusedError(f"{source.name}: expected the version of ONNX's operators; the file says none")
    if graph.sparse_initializer:
        raise ImportRefusedError(f"{source.name}: sparse weights cannot be read")
    constants = {_text(tensor.name): Constant(tensor, source.parent) for tensor in graph.initializer}
    return Graph(
        nodes=tuple(_node(onnx, node) for node in graph.node),
        inputs=tuple(_input(onnx, info) for info in graph.input if info.name not in constants),
        outputs=tuple(_text(info.name) for info in graph.output),
        constants=constants,
        opset=opset,
    )


def _numbers(array: Array, name: str) -> Array:
    # V: bfloat16, which numpy does not know by itself.
    if array.dtype.kind not in "fiubV":
        raise ImportRefusedError(f"{name}: expected real numbers; got {array.dtype.name}")
    return array


def _text(value: str | bytes) -> str:
    """A text of the file's; what is no UTF-8 comes as bytes."""
    if isinstance(value, bytes):
        raise ImportRefusedError(f"expected names in UTF-8; got {value[:100]!r}")
    return value


def _onnx() -> Any:
    try:
        for part in ("helper", "numpy_helper"):
            importlib.import_module(f"onnx.{part}")
        return importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        raise ImportRefusedError(
            "to read an ONNX file the package onnx is needed, which is not installed: "
            "pip install 'cellserve-server[onnx]'"
        ) from error


def _node(onnx: Any, node: Any) -> Node:
    outputs = tuple(map(_text, node.output))
    name = _text(node.name) or next((output for output in outputs if output), "without a name")
    return Node(
        op=_text(node.op_type),
        name=name,
        inputs=tuple(map(_text, node.input)),
        outputs=outputs,
        attributes={_text(attribute.name): _attribute(onnx, node, attribute) for attribute in node.attribute},
        domain="" if node.domain in _OWN_DOMAINS else _text(node.domain),
    )


def _attribute(onnx: Any, node: Any, attribute: Any) -> Any:
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return None
    try:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.TENSOR:
            return _numbers(onnx.numpy_helper.to_array(value), f"{node.op_type} {node.name!r}: {attribute.name}")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ImportRefusedError(f"{node.op_type} {node.name!r}: {attribute.name}: {error}") from error
    return _decoded(value)


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_decoded(item) for item in value]
    return value


def _input(onnx: Any, info: Any) -> GraphInput:
    name = _text(info.name)
    if not info.type.HasField("tensor_type"):
        raise ImportRefusedError(
            f"{info.name}: expected a tensor as the graph's input; got {info.type.WhichOneof('value')}"
        )
    tensor = info.type.tensor_type
    try:
        type_name = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except (KeyError, ValueError, TypeError):
        type_name = f"element type {tensor.elem_type}"
    if not tensor.HasField("shape"):
        return GraphInput(name, type_name, None)
    shape = tuple(dim.dim_value if dim.WhichOneof("value") == "dim_value" else None for dim in tensor.shape.dim)
    return GraphInput(name, type_name, shape)
