"""Files of ``cellserve sessions export``: the sessions of a store, and the models that they need, as entries.

``cellserve/v1/record.proto`` has the format.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO

from google.protobuf.message import DecodeError

from cellserve.v1 import record_pb2

MAGIC = b"CSx\x01"
_HEAD = Struct("<II")
# No session and no model that a server takes is larger.
MAX_ENTRY_BYTES = (1 << 31) - 1


class SessionFileError(Exception):
    """The file is none, is damaged, or was cut short; the message says where."""


def write_header(file: BinaryIO) -> None:
    """Begins a file."""
    file.write(MAGIC)


def write_entry(file: BinaryIO, entry: record_pb2.ExportEntry) -> None:
    """Writes an entry."""
    body = entry.SerializeToString()
    file.write(_HEAD.pack(len(body), zlib.crc32(body)))
    file.write(body)


def read_entries(file: BinaryIO) -> Iterator[record_pb2.ExportEntry]:
    """The entries of a file, in order, the end among them.

    Raises:
        SessionFileError: it is not a file of this format, or is not whole.
    """
    magic = file.read(len(MAGIC))
    if magic[:3] != MAGIC[:3]:
        raise SessionFileError("expected a file of `cellserve sessions export`; it begins with other bytes")
    if magic != MAGIC:
        raise SessionFileError(f"the file has format {magic[3:].hex()}; this release reads up to 01")
    number = 0
    while True:
        entry = _read_entry(file, number)
        yield entry
        if entry.WhichOneof("kind") == "end":
            return
        number += 1


def _read_entry(file: BinaryIO, number: int) -> record_pb2.ExportEntry:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise SessionFileError(f"the file was cut short: its end is missing after {number} entries")
    length, checksum = _HEAD.unpack(head)
    if length > MAX_ENTRY_BYTES:
        raise SessionFileError(f"entry {number}: expected at most {MAX_ENTRY_BYTES} bytes; got {length}")
    body = file.read(length)
    if len(body) < length:
        raise SessionFileError(f"the file was cut short: entry {number} has {len(body)} of {length} bytes")
    if zlib.crc32(body) != checksum:
        raise SessionFileError(f"entry {number} fails its checksum")
    try:
        return record_pb2.ExportEntry.FromString(body)
    except DecodeError as error:
        raise SessionFileError(f"entry {number} is no entry") from error
