"""What importers share: cells with their weights, put together as a model whose variables have our names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellserve.cells import CellDescription, MultiRNNCell
from cellserve.errors import CellServeError
from cellserve.specs import (
    IDS,
    ArraySpec,
    Bidirectional,
    Layer,
    ModelDescription,
    model_from_proto,
    model_to_proto,
    place_layers,
)
from cellserve.tensors import Array
from cellserve_server.importers.base import Assumption, ImportedModel, ImportRefusedError, Settings
from cellserve_server.models.weights import prepare_weights

FLOATS = ("float32", "float64")
HALVES = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")


@dataclass(frozen=True)
class WeightedCell:
    """A cell with its weights under the cell's own names: ``kernel``, ``gates/bias``."""

    cell: CellDescription
    weights: Mapping[str, Array]

    def scoped(self, prefix: str = "") -> dict[str, Array]:
        """The weights under the names that they have in a model, behind a prefix."""
        return {f"{prefix}{self.cell.scope()}/{name}": array for name, array in self.weights.items()}


@dataclass(frozen=True)
class WeightedLayer:
    """A layer with its weights under the names that they have when the layer is a model's first."""

    layer: Layer
    weights: Mapping[str, Array]


def cell_layer(cell: WeightedCell) -> WeightedLayer:
    """A layer that is one cell."""
    return WeightedLayer(cell.cell, cell.scoped())


def stack(cells: Sequence[WeightedCell]) -> WeightedCell:
    """A stack of cells, the lowest first; one cell alone stays that cell."""
    if len(cells) == 1:
        return cells[0]
    weights: dict[str, Array] = {}
    for index, cell in enumerate(cells):
        weights |= cell.scoped(f"cell_{index}/")
    return WeightedCell(MultiRNNCell([cell.cell for cell in cells]), weights)


def stack_layer(cells: Sequence[WeightedCell]) -> WeightedLayer:
    """A layer that is a stack of cells, the lowest first; one cell alone stays a cell."""
    return cell_layer(stack(cells))


def bidirectional_layer(forward: WeightedCell, backward: WeightedCell, merge_mode: str = "concat") -> WeightedLayer:
    """A layer of a cell from each end of the sequence."""
    layer = Bidirectional(forward.cell, backward.cell, merge_mode)
    return WeightedLayer(layer, forward.scoped("fw/") | backward.scoped("bw/"))


def assemble(
    framework: str,
    layers: Sequence[WeightedLayer],
    input_width: int | None,
    dtype: np.dtype[Any],
    assumptions: Iterable[Assumption],
    ignored: Iterable[str],
    reference: Callable[[Array], Array] | None,
) -> ImportedModel:
    """Makes the model of these layers, and checks it as the server will.

    Args:
        framework: where it comes from.
        layers: the lowest first.
        input_width: of the inputs; None: ids.
        dtype: of the model; the weights are brought to it.
        assumptions, ignored, reference: as in ``ImportedModel``.

    Raises:
        ImportRefusedError: the model is beyond what the server computes, or its weights do not fit.
    """
    spec = ArraySpec("inputs", IDS, ()) if input_width is None else ArraySpec("inputs", dtype, (input_width,))
    try:
        bare = ModelDescription((spec,), tuple(layer.layer for layer in layers), (), dtype)
        description = model_from_proto(model_to_proto(bare))
        weights: dict[str, Array] = {}
        for placed, layer in zip(place_layers(description), layers, strict=True):
            weights |= {placed.prefix + name: array.astype(dtype) for name, array in layer.weights.items()}
        prepared = prepare_weights(description, weights)
    except CellServeError as error:
        raise ImportRefusedError(f"the model that the source holds cannot be served: {error}") from error
    return ImportedModel(framework, description, prepared, tuple(assumptions), tuple(ignored), reference)


def model_dtype(found: Mapping[str, str], settings: Settings) -> tuple[np.dtype[Any], list[Assumption]]:
    """The dtype of a model from those of its weights.

    Args:
        found: the name of the dtype of each array, by the array's name; of Keras's dtype policies too.
        settings: ``dtype`` settles what the weights leave open.

    Raises:
        ImportRefusedError: the weights are of a type that the server does not compute in, or of several.
    """
    names = sorted(set(found.values()))
    given = settings.get("dtype")
    if given not in (None, *FLOATS):
        raise ImportRefusedError(f"dtype: expected one of {', '.join(FLOATS)}; got {given!r}")
    if not names:
        raise ImportRefusedError("expected weights; the source has none")
    for name, kind in found.items():
        if kind not in (*FLOATS, *HALVES):
            raise ImportRefusedError(f"{name}: expected floating-point weights; got {kind}")
    if given is not None:
        because = f"the source has {' and '.join(names)}"
        return np.dtype(given), [Assumption("dtype", given, because, given=True)] if names != [given] else []
    if len(names) == 1 and names[0] in FLOATS:
        return np.dtype(names[0]), []
    first = {kind: name for name, kind in reversed(list(found.items()))}
    shown = ", ".join(f"{kind} ({first[kind]})" for kind in names)
    raise ImportRefusedError(
        f"expected weights all of float32 or all of float64; got {shown}. Served in float32 they give slightly other "
        "results than the framework computes in its own type",
        option="dtype=float32",
    )


def require_finite(array: Array, name: str) -> Array:
    """The array, if all of it is finite numbers.

    Raises:
        ImportRefusedError: there is a NaN or an infinity; its position is named.
    """
    finite = np.isfinite(array)
    if not finite.all():
        position = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise ImportRefusedError(f"{name}: expected finite numbers; got {array[position]} at {list(position)}")
    return array


def chosen(settings: Settings, option: str, default: str, allowed: Sequence[str], because: str) -> Assumption:
    """What the user gave for an option, or its default, as the assumption that it is.

    Raises:
        ImportRefusedError: the value is none of those allowed.
    """
    given = settings.get(option)
    value = default if given is None else given
    if value not in allowed:
        raise ImportRefusedError(f"{option}: expected one of {', '.join(allowed)}; got {value!r}")
    return Assumption(option, value, because, given=given is not None)
