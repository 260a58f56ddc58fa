"""Writes TensorFlow checkpoints for tests, in the format of ``tf.train.Saver``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cellserve.tensors import Array
from cellserve_server.importers.crc32c import masked_crc32c

MAGIC = 0xDB4775248B80FB57
TYPE_NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
RESTART_EVERY = 3


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def record(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def header(shards: int, big_endian: bool = False) -> bytes:
    return number(1, shards) + (number(2, 1) if big_endian else b"") + record(3, number(1, 1))


def entry(type_number: int, shape: tuple[int, ...], shard: int, offset: int, data: bytes) -> bytes:
    dimensions = b"".join(record(2, number(1, length)) for length in shape)
    parts = [number(1, type_number), record(2, dimensions)]
    parts += [number(3, shard)] if shard else []
    parts += [number(4, offset)] if offset else []
    return b"".join(parts) + number(5, len(data)) + varint(6 << 3 | 5) + masked_crc32c(data).to_bytes(4, "little")


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block: keys are cut where they begin as the one before, but for every third, a restart point."""
    out, restarts, before = b"", [], b""
    for index, (key, value) in enumerate(entries):
        shared = 0
        if index % RESTART_EVERY:
            shared = next(
                (i for i, (a, b) in enumerate(zip(before, key, strict=False)) if a != b), min(len(before), len(key))
            )
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    for restart in restarts or [0]:
        out += restart.to_bytes(4, "little")
    return out + len(restarts or [0]).to_bytes(4, "little")


def table(entries: Mapping[bytes, bytes], block_entries: int = 4, compression: int = 0) -> bytes:
    """A table of so many entries a block."""
    out = b""

    def placed(content: bytes) -> bytes:
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        out += content + bytes([compression]) + masked_crc32c(content + bytes([compression])).to_bytes(4, "little")
        return handle

    ordered = sorted(entries.items())
    groups = [ordered[start : start + block_entries] for start in range(0, len(ordered), block_entries)]
    index = [(group[-1][0], placed(block(group))) for group in groups]
    meta_handle = placed(block([]))
    footer = meta_handle + placed(block(index))
    return out + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def save_checkpoint(folder: Path, arrays: Mapping[str, Array], name: str = "model.ckpt-7", shards: int = 1) -> Path:
    """Writes a checkpoint with a ``checkpoint`` file beside it, and gives its prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [b""] * shards
    entries = {b"": header(shards)}
    for index, (variable, array) in enumerate(sorted(arrays.items())):
        shard = index % shards
        raw = np.ascontiguousarray(array).tobytes()
        entries[variable.encode()] = entry(TYPE_NUMBERS[array.dtype.name], array.shape, shard, len(data[shard]), raw)
        data[shard] += raw
    prefix = folder / name
    (folder / f"{name}.index").write_bytes(table(entries))
    for shard, content in enumerate(data):
        (folder / f"{name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n')
    return prefix
