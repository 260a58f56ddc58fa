"""The ``.index`` file of a TensorFlow checkpoint: a sorted table of keys and values, in LevelDB's format.

Source: LevelDB's ``doc/table_format.md``. A table is blocks, an index block that says where they are, and a footer of
48 bytes that says where the index block is. A block is entries whose keys are cut where they begin as the key before
does, a list of restart points (of no use here: everything is read), and a trailer of five bytes: how it is
compressed and the masked CRC-32C of all before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.crc32c import masked_crc32c

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
MAX_TABLE_BYTES = 1 << 26
MAX_ENTRIES = 1 << 18
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_UNCOMPRESSED, _SNAPPY = 0, 1
_MAX_VARINT_BYTES = 10


class DamagedError(Exception):
    """Bytes are not what the format says; the message says where, the caller adds the file."""


def ends_with_magic(path: Path) -> bool:
    """Whether a file ends as such a table does."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(MAGIC)))
        return file.read() == MAGIC


def read_table(path: Path) -> dict[bytes, bytes]:
    """All entries of a table.

    Raises:
        ImportRefusedError: the file is too large, damaged or compressed.
    """
    with path.open("rb") as file:
        data = file.read(MAX_TABLE_BYTES + 1)
    if len(data) > MAX_TABLE_BYTES:
        raise ImportRefusedError(f"{path.name}: expected at most {MAX_TABLE_BYTES} bytes; got more")
    try:
        return _entries(data)
    except DamagedError as error:
        raise ImportRefusedError(f"{path.name}: {error}") from error


def _entries(data: bytes) -> dict[bytes, bytes]:
    if len(data) < _FOOTER_BYTES:
        raise DamagedError(f"expected a footer of {_FOOTER_BYTES} bytes; the file has {len(data)}, it was cut off")
    footer = data[-_FOOTER_BYTES:]
    if not footer.endswith(MAGIC):
        raise DamagedError(
            f"expected the magic number {MAGIC[::-1].hex()} of a checkpoint's index at the end; "
            f"got {footer[-8:][::-1].hex()}"
        )
    position = 0
    for _ in range(2):  # The handle of the meta index, of which TensorFlow makes no use, is passed over.
        offset, position = varint(footer, position)
        size, position = varint(footer, position)
    entries: dict[bytes, bytes] = {}
    for _, handle in _block_entries(_block(data, offset, size)):
        block_offset, after = varint(handle, 0)
        block_size, _ = varint(handle, after)
        for key, value in _block_entries(_block(data, block_offset, block_size)):
            if len(entries) == MAX_ENTRIES:
                raise DamagedError(f"expected at most {MAX_ENTRIES} entries; got more")
            if key in entries:
                raise DamagedError(f"the key {key!r} stands twice in the table")
            entries[key] = value
    return entries


def _block(data: bytes, offset: int, size: int) -> bytes:
    if offset + size + _TRAILER_BYTES > len(data):
        raise DamagedError(f"expected a block at bytes {offset} to {offset + size}; the file ends at {len(data)}")
    kind = data[offset + size]
    stored = int.from_bytes(data[offset + size + 1 : offset + size + _TRAILER_BYTES], "little")
    if masked_crc32c(memoryview(data)[offset : offset + size + 1]) != stored:
        raise DamagedError(f"the checksum of the block at byte {offset} is wrong: the file is damaged")
    if kind != _UNCOMPRESSED:
        name = "snappy" if kind == _SNAPPY else f"method {kind}"
        raise DamagedError(
            f"the block at byte {offset} is compressed ({name}); TensorFlow's Saver writes uncompressed indexes"
        )
    return data[offset : offset + size]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(block) < 4:
        raise DamagedError(f"expected a block of 4 bytes or more; got {len(block)}")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise DamagedError("a block's list of restart points is longer than the block")
    key, position = b"", 0
    while position < end:
        shared, position = varint(block, position)
        added, position = varint(block, position)
        value_bytes, position = varint(block, position)
        if shared > len(key) or position + added + value_bytes > end:
            raise DamagedError("an entry of a block reaches past the block's end")
        key = key[:shared] + block[position : position + added]
        position += added + value_bytes
        yield key, block[position - value_bytes : position]


def varint(data: bytes, position: int) -> tuple[int, int]:
    """An integer in seven bits a byte, the lowest first, and the position after it.

    Raises:
        DamagedError: it has no end.
    """
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if position >= len(data):
            raise DamagedError("a number reaches past the end of its record")
        octet = data[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
    raise DamagedError(f"expected a number of at most {_MAX_VARINT_BYTES} bytes")
