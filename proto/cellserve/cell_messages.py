"""Cell descriptions <-> ``Cell`` messages. A description's fields have the names of its message's.

Adding a cell: its message in ``cell.proto``, its description in ``cellserve/cells/``, and one line in ``_KINDS``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cellserve import cells
from cellserve.cells import ACTIVATIONS, MAX_STACK, CellDescription
from cellserve.errors import FieldInvalidError, InvalidArgumentError, shown
from cellserve.v1 import cell_pb2

MAX_DEPTH = 16
MAX_CELLS = 1024

_KINDS: dict[str, type[CellDescription]] = {
    "basic_rnn_cell": cells.BasicRNNCell,
    "basic_lstm_cell": cells.BasicLSTMCell,
    "gru_cell": cells.GRUCell,
    "multi_rnn_cell": cells.MultiRNNCell,
    "output_projection_wrapper": cells.OutputProjectionWrapper,
    "lstm_cell": cells.LSTMCell,
    "cudnn_compatible_gru_cell": cells.CudnnCompatibleGRUCell,
    "layer_norm_basic_lstm_cell": cells.LayerNormBasicLSTMCell,
    "residual_wrapper": cells.ResidualWrapper,
    "dropout_wrapper": cells.DropoutWrapper,
    "input_projection_wrapper": cells.InputProjectionWrapper,
    "embedding_wrapper": cells.EmbeddingWrapper,
    "min_gru_cell": cells.MinGRUCell,
    "min_lstm_cell": cells.MinLSTMCell,
}
_FIELDS = {description: field for field, description in _KINDS.items()}
_ACTIVATION_PREFIX = "ACTIVATION_"


def cell_to_proto(cell: CellDescription) -> cell_pb2.Cell:
    """Packs a description; cells that are one object used several times keep that by ``share_id``.

    Raises:
        FieldInvalidError: the contract has no message for the cell.
    """
    return _Encoder(cell).encode(cell)


def cell_from_proto(message: cell_pb2.Cell, field: str = "cell") -> CellDescription:
    """Unpacks a description; cells with an equal ``share_id`` become one object again.

    Raises:
        InvalidArgumentError: a field is missing, out of its range or contradicts another; it is named.
    """
    return _Decoder().decode(message, field)


class _Encoder:
    def __init__(self, root: CellDescription) -> None:
        seen: set[int] = set()
        self._share_ids: dict[int, int] = {}
        for cell in _walk(root):
            if id(cell) in seen:
                self._share_ids.setdefault(id(cell), len(self._share_ids) + 1)
            seen.add(id(cell))

    def encode(self, cell: CellDescription) -> cell_pb2.Cell:
        kind = _FIELDS.get(type(cell))
        if kind is None:
            raise FieldInvalidError(f"cell: the contract has no message for {type(cell).__name__}")
        message = cell_pb2.Cell(name=getattr(cell, "name", None), share_id=self._share_ids.get(id(cell), 0))
        options = getattr(message, kind)
        options.SetInParent()
        for item in fields(cell):  # type: ignore[arg-type]  # Every description is a dataclass.
            self._encode_option(options, item.name, getattr(cell, item.name))
        return message

    def _encode_option(self, options: Any, name: str, value: Any) -> None:
        if name == "state_is_tuple":
            options.state_is_concatenated = not value
        elif name == "name" or value is None:
            return
        elif name == "cells":
            options.cells.extend(self.encode(inner) for inner in value)
        elif isinstance(value, CellDescription):
            getattr(options, name).CopyFrom(self.encode(value))
        elif isinstance(value, str):
            setattr(options, name, cell_pb2.Activation.Value(_ACTIVATION_PREFIX + value.upper()))
        else:
            setattr(options, name, value)


def _walk(cell: CellDescription) -> Iterator[CellDescription]:
    """A cell and all inside; a shared one comes as often as it is used."""
    yield cell
    for inner in (getattr(cell, "cell", None), *getattr(cell, "cells", ())):
        if inner is not None:
            yield from _walk(inner)


class _Decoder:
    def __init__(self) -> None:
        self._shared: dict[int, tuple[cell_pb2.Cell, CellDescription]] = {}
        self._depth = 0
        self._count = 0

    def decode(self, message: cell_pb2.Cell, field: str) -> CellDescription:
        if message.share_id in self._shared:
            known_message, known = self._shared[message.share_id]
            self._add(sum(1 for _ in _walk(known)), field)  # A cell that is used again counts with all inside.
            if known_message != message:
                raise FieldInvalidError(
                    f"{field}.share_id: expected cells of one description; those with {message.share_id} differ"
                )
            return known
        self._add(1, field)
        kind = message.WhichOneof("kind")
        if kind is None:
            raise FieldInvalidError(f"{field}: expected one kind of cell; got an empty message")
        if self._depth == MAX_DEPTH:
            raise FieldInvalidError(f"{field}: expected cells nested at most {MAX_DEPTH} deep")
        self._depth += 1
        cell = self._decode_kind(message, kind, f"{field}.{kind}")
        self._depth -= 1
        if message.share_id:
            self._shared[message.share_id] = (message, cell)
        return cell

    def _add(self, count: int, field: str) -> None:
        self._count += count
        if self._count > MAX_CELLS:
            raise FieldInvalidError(f"{field}: expected at most {MAX_CELLS} cells in all")

    def _decode_kind(self, message: cell_pb2.Cell, kind: str, field: str) -> CellDescription:
        description = _KINDS[kind]
        names = {item.name for item in fields(description)}  # type: ignore[arg-type]
        options = self._options(getattr(message, kind), names, field)
        if message.name and "name" not in names:
            raise FieldInvalidError(
                f"{field}: a {description.__name__} has no name of its own; got {shown(message.name)}"
            )
        if message.name:
            options["name"] = message.name
        try:
            return description(**options)
        except InvalidArgumentError as error:
            raise FieldInvalidError(f"{field}: {error.message}") from error

    def _options(self, message: Message, names: set[str], field: str) -> dict[str, Any]:
        """The arguments of the description: what is set, and of plain numbers and flags whatever there is."""
        options: dict[str, Any] = {}
        for item in message.DESCRIPTOR.fields:
            value = getattr(message, item.name)
            if item.name == "state_is_concatenated":
                options["state_is_tuple"] = not value
            elif item.name == "cells":
                options["cells"] = self._decode_all(value, f"{field}.cells")
            elif item.type == FieldDescriptor.TYPE_ENUM:
                options |= {item.name: _activation(value, f"{field}.{item.name}")} if value else {}
            elif item.type == FieldDescriptor.TYPE_MESSAGE:
                options[item.name] = self.decode(value, f"{field}.{item.name}")
            elif not item.has_presence or message.HasField(item.name):
                options[item.name] = value
        assert options.keys() <= names, "a description lacks a field of its message"
        return options

    def _decode_all(self, messages: Any, field: str) -> list[CellDescription]:
        if not 1 <= len(messages) <= MAX_STACK:
            raise FieldInvalidError(f"{field}: expected 1 to {MAX_STACK}; got {len(messages)}")
        return [self.decode(inner, f"{field}[{index}]") for index, inner in enumerate(messages)]


def _activation(number: int, field: str) -> str:
    descriptor = cell_pb2.Activation.DESCRIPTOR.values_by_number.get(number)
    name = "" if descriptor is None else descriptor.name.removeprefix(_ACTIVATION_PREFIX).lower()
    if name not in ACTIVATIONS:
        raise FieldInvalidError(f"{field}: expected a known activation; got number {number}")
    return name
