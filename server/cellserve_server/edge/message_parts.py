"""How many parts a message has, before it is decoded. Pure.

Two bytes of a message can become some two hundred of memory: an empty message within it, again and again. So 16 MiB
could ask for more than a gigabyte, and for seconds of the event loop, before anything could be checked. What is meant
has few parts, however large: a tensor is one text of bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # how fields are written; groups, 3 and 4, have no length
VARINT_BYTES_MAX: Final = 10
# Smaller messages are decoded as they are: a hundred times as much is still little, and most are small.
COUNTED_FROM_BYTES: Final = 1 << 20

# Those of Python's descriptors and of C's are two classes.
Descriptor: TypeAlias = Any
_Fields: TypeAlias = dict[int, "Descriptor | None"]


class PartCounter:
    """Counts the parts of messages of one type: its fields, those of messages within it, and numbers in a row.

    Args:
        descriptor: of the type.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self._root = descriptor
        self._known: dict[str, _Fields] = {}  # as many as there are types within the type

    def has_more_than(self, data: bytes, most: int) -> bool:
        """Whether a message has more parts than so many. It looks at no more of them than that.

        Of what is no message it says whatever comes of what there is; decoding finds out.
        """
        count = 0
        ahead: list[tuple[int, int, Descriptor]] = [(0, len(data), self._root)]
        try:
            while ahead:
                position, end, descriptor = ahead.pop()
                fields = self._known.get(descriptor.full_name) or self._fields_of(descriptor)
                while position < end and count <= most:
                    count += 1
                    # Written out for numbers of one byte: a call for each would take twice the time.
                    tag = data[position]
                    position += 1
                    if tag >= 0x80:
                        tag, position = _varint(data, position - 1)
                    wire_type = tag & 7
                    if wire_type == DELIMITED:
                        length = data[position]
                        position += 1
                        if length >= 0x80:
                            length, position = _varint(data, position - 1)
                        if length and tag >> 3 in fields:
                            inner = fields[tag >> 3]
                            if inner is not None:
                                ahead.append((position, min(position + length, end), inner))
                            else:  # Numbers in a row; each takes a byte at least, and mostly more.
                                count += length // VARINT_BYTES_MAX
                        position += length
                    elif wire_type == VARINT:
                        _, position = _varint(data, position)
                    elif wire_type == FIXED64:
                        position += 8
                    elif wire_type == FIXED32:
                        position += 4
        except IndexError:
            return False  # It ends within a number.
        return count > most

    def _fields_of(self, descriptor: Descriptor) -> _Fields:
        """The fields that have parts: by number the type of a message, None where numbers stand in a row."""
        fields: _Fields = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                fields[field.number] = field.message_type
            elif field.is_repeated and field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
                fields[field.number] = None
        self._known[descriptor.full_name] = fields
        return fields


def message_class_of(decode: Callable[[bytes], Any] | None) -> type[Message]:
    """The class whose ``FromString`` a method's requests are decoded by, as the generated stubs have it."""
    found: Any = getattr(decode, "__self__", None)
    assert isinstance(found, type), "a decoder that is no message's"
    assert issubclass(found, Message), "a decoder that is no message's"
    return found


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of the wire, and where it ends.

    Raises:
        IndexError: the bytes end before.
    """
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    value, shift = byte & 0x7F, 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 7 * VARINT_BYTES_MAX:
            return value, position
        shift += 7
