"""Ids: rows of tables, and whether a table has them."""

from __future__ import annotations

import numpy as np

from cellserve.cells import CellDescription, EmbeddingWrapper
from cellserve.errors import FieldInvalidError
from cellserve.specs import Embedding, Layer
from cellserve.tensors import Array


def look_up(table: Array, ids: Array) -> Array:
    """The row of ``table`` ``[size, depth]`` for each id: an array of the ids' shape, with ``depth`` behind it.

    Ids out of range are refused by ``check_ids``, at the edge. They do come here in the padding of sequences, where
    any id may stand and any row of the table will do.
    """
    return np.take(table, ids, axis=0, mode="clip")


def vocabulary_size(layer: Layer) -> int | None:
    """How many ids a model's first layer knows; None: it takes vectors.

    Cells that hand their inputs on, such as a stack or ``DropoutWrapper``, hand them to their first cell inside.
    """
    if isinstance(layer, Embedding):
        return layer.vocabulary_size
    if not isinstance(layer, CellDescription) or not layer.takes_ids():
        return None
    cell: CellDescription = layer
    while not isinstance(cell, EmbeddingWrapper):
        cell = next(cell.inner_uses(0, "")).cell
    return cell.embedding_classes


def check_ids(ids: Array, size: int, lengths: Array | None, field: str) -> None:
    """Checks ids ``[batch]`` or ``[batch, time]``; with ``lengths``, those within each row's length.

    Raises:
        FieldInvalidError: an id is not from 0 to ``size - 1``; its position is named.
    """
    wrong = (ids < 0) | (ids >= size)
    if lengths is not None:
        wrong &= np.arange(ids.shape[1]) < lengths[:, np.newaxis]
    if not wrong.any():
        return
    position = tuple(int(index) for index in np.argwhere(wrong)[0])
    where = field + "".join(f"[{index}]" for index in position)
    raise FieldInvalidError(
        f"{where}: expected an id from 0 to {size - 1}; got {int(ids[position])}",
        metadata={"field": where, "actual": str(int(ids[position]))},
    )
