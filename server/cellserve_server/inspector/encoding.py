"""The bytes of the inspector's answers about a watch: a JSON header, and arrays that a browser reads without copying.

    uint32   length of the header in bytes
    header   UTF-8 JSON; its ``arrays`` say dtype, shape and offset of each array, counted from the end of the header
    arrays   little-endian, row-major, each at a multiple of eight bytes

The header is padded with spaces so that the arrays begin at a multiple of eight bytes too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cellserve.tensors import Array

ALIGNMENT_BYTES = 8
LENGTH_BYTES = 4
# A screen has no more rows to give to one part of a state.
MAX_BANDS = 512


def encode(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Packs arrays by name behind a header, to which ``arrays`` is added; int64 goes as float64, for browsers."""
    pieces, entries, offset = [], {}, 0
    for name, array in arrays.items():
        values = np.ascontiguousarray(array, _dtype_for_browsers(array.dtype))
        entries[name] = {"dtype": values.dtype.name, "shape": list(values.shape), "offset": offset}
        padding = -values.nbytes % ALIGNMENT_BYTES
        pieces += [values.tobytes(), bytes(padding)]
        offset += values.nbytes + padding
    text = json.dumps({**header, "arrays": entries}, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT_BYTES)
    return b"".join((len(text).to_bytes(LENGTH_BYTES, "little"), text, *pieces))


def bands(leaf: Array) -> tuple[Array, int]:
    """A leaf with at most MAX_BANDS columns, and how many units each of them stands for.

    A column that stands for several units has that value of theirs which is furthest from 0: an average would hide the
    one unit that is saturated.

    Args:
        leaf: ``[count, units]``.
    """
    count, units = leaf.shape
    width = -(-units // MAX_BANDS)
    if width <= 1:
        return leaf, 1
    columns = -(-units // width)
    padded = np.zeros((count, columns * width), leaf.dtype)
    padded[:, :units] = leaf
    groups = padded.reshape(count, columns, width)
    furthest = np.abs(groups).argmax(axis=2)  # The first NaN, if there is one.
    return np.take_along_axis(groups, furthest[:, :, np.newaxis], axis=2)[:, :, 0], width


def _dtype_for_browsers(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype == np.int64:
        dtype = np.dtype(np.float64)
    return dtype.newbyteorder("<")
