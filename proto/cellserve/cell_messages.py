"""Cell descriptions <-> ``Cell`` messages. Adding a cell to the contract is one pair of functions and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from google.protobuf.message import Message

from cellserve.cells import (
    MAX_STACK,
    BasicLSTMCell,
    BasicRNNCell,
    CellDescription,
    GRUCell,
    MultiRNNCell,
    OutputProjectionWrapper,
)
from cellserve.errors import FieldInvalidError, InvalidArgumentError
from cellserve.v1 import cell_pb2

MAX_DEPTH = 16
MAX_CELLS = 1024

_ACTIVATION_NUMBERS = {
    None: cell_pb2.ACTIVATION_UNSPECIFIED,
    "tanh": cell_pb2.ACTIVATION_TANH,
    "relu": cell_pb2.ACTIVATION_RELU,
    "sigmoid": cell_pb2.ACTIVATION_SIGMOID,
    "identity": cell_pb2.ACTIVATION_IDENTITY,
}
_ACTIVATION_NAMES = {number: name for name, number in _ACTIVATION_NUMBERS.items()}


class _Kind(NamedTuple):
    field: str  # of the oneof in Cell
    description: type[Any]
    encode: Callable[[Any, _Encoder], Message]
    decode: Callable[[Any, _Decoder, str, str | None], CellDescription]


def cell_to_proto(cell: CellDescription) -> cell_pb2.Cell:
    """Packs a description; cells that are one object used several times keep that by ``share_id``."""
    return _Encoder(cell).encode(cell)


def cell_from_proto(message: cell_pb2.Cell, field: str = "cell") -> CellDescription:
    """Unpacks a description; cells with an equal ``share_id`` become one object again.

    Raises:
        FieldInvalidError: a field is missing, out of its range or contradicts another; it is named.
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
        kind = next((kind for kind in _KINDS if type(cell) is kind.description), None)
        if kind is None:
            raise FieldInvalidError(f"cell: the contract has no message for {type(cell).__name__}")
        share_id = self._share_ids.get(id(cell), 0)
        message = cell_pb2.Cell(name=getattr(cell, "name", None), share_id=share_id)
        getattr(message, kind.field).CopyFrom(kind.encode(cell, self))
        return message


def _walk(cell: CellDescription) -> Iterator[CellDescription]:
    """A cell and all inside; a shared one comes as often as it is used."""
    yield cell
    for use in cell.inner_uses(1, ""):
        yield from _walk(use.cell)


class _Decoder:
    def __init__(self) -> None:
        self._shared: dict[int, tuple[cell_pb2.Cell, CellDescription]] = {}
        self._depth = 0
        self._count = 0

    def decode(self, message: cell_pb2.Cell, field: str) -> CellDescription:
        self._count += 1
        if self._count > MAX_CELLS:
            raise FieldInvalidError(f"{field}: expected at most {MAX_CELLS} cells in all")
        if message.share_id in self._shared:
            known_message, known = self._shared[message.share_id]
            if known_message != message:
                raise FieldInvalidError(
                    f"{field}.share_id: expected cells of one description; those with {message.share_id} differ"
                )
            return known
        name = message.WhichOneof("kind")
        kind = next((kind for kind in _KINDS if kind.field == name), None)
        if kind is None:
            raise FieldInvalidError(f"{field}: expected one kind of cell; got an empty message")
        if self._depth == MAX_DEPTH:
            raise FieldInvalidError(f"{field}: expected cells nested at most {MAX_DEPTH} deep")
        self._depth += 1
        try:
            cell = kind.decode(getattr(message, name), self, f"{field}.{name}", message.name or None)
        except InvalidArgumentError as error:
            if error.message.startswith(f"{field}."):
                raise  # An inner cell's error names its place already.
            raise FieldInvalidError(f"{field}.{name}: {error.message}") from error
        self._depth -= 1
        if message.share_id:
            self._shared[message.share_id] = (message, cell)
        return cell


def _activation(number: cell_pb2.Activation) -> str | None:
    if number not in _ACTIVATION_NAMES:
        raise FieldInvalidError(f"activation: expected a known one; got number {int(number)}")
    return _ACTIVATION_NAMES[number]


def _encode_rnn(cell: BasicRNNCell, _: _Encoder) -> Message:
    return cell_pb2.BasicRnnCell(num_units=cell.num_units, activation=_ACTIVATION_NUMBERS[cell.activation])


def _decode_rnn(message: cell_pb2.BasicRnnCell, _: _Decoder, __: str, name: str | None) -> CellDescription:
    return BasicRNNCell(message.num_units, _activation(message.activation), name=name)


def _encode_lstm(cell: BasicLSTMCell, _: _Encoder) -> Message:
    return cell_pb2.BasicLstmCell(
        num_units=cell.num_units,
        forget_bias=cell.forget_bias,
        activation=_ACTIVATION_NUMBERS[cell.activation],
        state_is_concatenated=not cell.state_is_tuple,
    )


def _decode_lstm(message: cell_pb2.BasicLstmCell, _: _Decoder, __: str, name: str | None) -> CellDescription:
    return BasicLSTMCell(
        message.num_units,
        message.forget_bias if message.HasField("forget_bias") else 1.0,
        not message.state_is_concatenated,
        _activation(message.activation),
        name=name,
    )


def _encode_gru(cell: GRUCell, _: _Encoder) -> Message:
    return cell_pb2.GruCell(num_units=cell.num_units, activation=_ACTIVATION_NUMBERS[cell.activation])


def _decode_gru(message: cell_pb2.GruCell, _: _Decoder, __: str, name: str | None) -> CellDescription:
    return GRUCell(message.num_units, _activation(message.activation), name=name)


def _encode_multi(cell: MultiRNNCell, encoder: _Encoder) -> Message:
    cells = [encoder.encode(inner) for inner in cell.cells]
    return cell_pb2.MultiRnnCell(cells=cells, state_is_concatenated=not cell.state_is_tuple)


def _decode_multi(message: cell_pb2.MultiRnnCell, decoder: _Decoder, field: str, name: str | None) -> CellDescription:
    if name is not None:
        raise FieldInvalidError("name: a MultiRNNCell has no name of its own")
    if not 1 <= len(message.cells) <= MAX_STACK:
        raise FieldInvalidError(f"cells: expected 1 to {MAX_STACK}; got {len(message.cells)}")
    cells = [decoder.decode(inner, f"{field}.cells[{index}]") for index, inner in enumerate(message.cells)]
    return MultiRNNCell(cells, not message.state_is_concatenated)


def _encode_projection(cell: OutputProjectionWrapper, encoder: _Encoder) -> Message:
    return cell_pb2.OutputProjectionWrapper(
        cell=encoder.encode(cell.cell),
        output_size=cell.output_size,
        activation=_ACTIVATION_NUMBERS[cell.activation],
    )


def _decode_projection(
    message: cell_pb2.OutputProjectionWrapper, decoder: _Decoder, field: str, name: str | None
) -> CellDescription:
    inner = decoder.decode(message.cell, f"{field}.cell")
    return OutputProjectionWrapper(inner, message.output_size, _activation(message.activation), name=name)


_KINDS = (
    _Kind("basic_rnn_cell", BasicRNNCell, _encode_rnn, _decode_rnn),
    _Kind("basic_lstm_cell", BasicLSTMCell, _encode_lstm, _decode_lstm),
    _Kind("gru_cell", GRUCell, _encode_gru, _decode_gru),
    _Kind("multi_rnn_cell", MultiRNNCell, _encode_multi, _decode_multi),
    _Kind("output_projection_wrapper", OutputProjectionWrapper, _encode_projection, _decode_projection),
)
