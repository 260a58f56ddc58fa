"""TensorFlow 1 checkpoints as models: the cells by their variables' names, an embedding and dense layers around them.

TensorFlow is not needed. What a checkpoint does not hold, such as ``forget_bias`` or functions, is asked of the user
or taken as TensorFlow's default, and noted as an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from cellserve.specs import Dense
from cellserve.tensors import Array
from cellserve_server.importers.assembly import WeightedLayer, assemble, model_dtype, require_finite
from cellserve_server.importers.base import Assumption, ImportedModel, ImportRefusedError, Settings
from cellserve_server.importers.tensorflow1_cells import CellReader
from cellserve_server.importers.tensorflow1_checkpoint import Checkpoint, find_prefix
from cellserve_server.importers.tensorflow1_names import training_leftovers
from cellserve_server.importers.tensorflow1_options import CellOptions
from cellserve_server.importers.tensorflow1_parts import Part, choose_parts, read_part
from cellserve_server.importers.tensorflow1_scopes import Leaf, tree_of
from cellserve_server.importers.tensorflow1_surroundings import about_options, choose_embedding, choose_head

FRAMEWORK = "tensorflow1"
_SHOWN = 5


def recognises(source: Path) -> bool:
    """Whether the source is a checkpoint: its prefix, one of its files, or a folder that has one."""
    try:
        return find_prefix(source) is not None
    except ImportRefusedError:
        return True  # It is one, and ``read`` says what is the matter with it.


def read(source: Path, settings: Settings) -> ImportedModel:
    """Reads a checkpoint.

    Raises:
        ImportRefusedError: it cannot be served exactly, is damaged, or says too little.
    """
    prefix = find_prefix(source)
    if prefix is None:
        raise ImportRefusedError(f"{source.name}: expected a TensorFlow checkpoint, its .index file or its folder")
    checkpoint = Checkpoint(prefix)
    leftovers = training_leftovers({name: stored.shape for name, stored in checkpoint.variables.items()})
    leaves = {
        name: Leaf(name, stored.shape, stored.type_name)
        for name, stored in checkpoint.variables.items()
        if name not in leftovers
    }
    parts, ids, notes = _recognise(leaves, settings)
    used = {leaf.name: leaf.type_name for part in parts for leaf in part.leaves.values()}
    dtype, dtype_notes = model_dtype(used, settings)
    arrays = {name: require_finite(checkpoint.read(name), name) for name in used}
    ignored = [f"{name}: {why}" for name, why in sorted(leftovers.items())]
    ignored += [
        f"{name} {leaf.type_name}{list(leaf.shape)}: stands in no layer that was recognised"
        for name, leaf in sorted(leaves.items())
        if name not in used
    ]
    layers = [WeightedLayer(part.layer, _weights(part, arrays)) for part in parts]
    return assemble(FRAMEWORK, layers, ids, dtype, [*notes, *dtype_notes], ignored, reference=None)


def _recognise(leaves: Mapping[str, Leaf], settings: Settings) -> tuple[list[Part], int | None, list[Assumption]]:
    """The layers, the width of the inputs (None: ids), and what was assumed."""
    options = CellOptions(settings)
    reader = CellReader(settings, options)
    notes: list[Assumption] = []
    recurrent = [read_part(candidate, reader) for candidate in choose_parts(tree_of(leaves), settings, notes)]
    for below, above in pairwise(recurrent):
        if above.input_size != below.output_size:
            raise ImportRefusedError(
                f"scope: {below.path} gives {below.output_size}, and {above.path} takes {above.input_size}"
            )
    cells = [part for each in recurrent for part in each.layers]
    used = {leaf.name for part in cells for leaf in part.leaves.values()}
    free = {name: leaf for name, leaf in leaves.items() if name not in used}
    notes += [*options.assumptions(), *reader.assumptions()]
    input_width = recurrent[0].input_size
    embedding = choose_embedding(free, input_width, settings, notes)
    head = choose_head(free, recurrent[-1].output_size, embedding, settings, notes)
    parts = [*([embedding] if embedding else []), *cells, *head]
    if settings.get("scope") is None:
        _require_nothing_else(free, parts, settings, recurrent[0].path)
    return parts, None if embedding else input_width, notes


def _require_nothing_else(
    free: Mapping[str, Leaf], parts: Sequence[Part], settings: Settings, recurrent_path: str
) -> None:
    """Raises if there are weights of layers that were not recognised: without them the model would be another one."""
    used = {leaf.name for part in parts for leaf in part.leaves.values()}
    decided = about_options(free, settings)
    unknown = [
        name
        for name, leaf in free.items()
        if name not in used and name not in decided and leaf.shape and leaf.type_name.startswith("float")
    ]
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else "")
        raise ImportRefusedError(
            f"{shown}: of no layer that was recognised. Dense layers and a table are named by head=KERNEL+BIAS and "
            "embedding=TABLE; who names the recurrent part has it served without the rest",
            option=f"scope={recurrent_path}",
        )


def _weights(part: Part, arrays: Mapping[str, Array]) -> dict[str, Array]:
    weights = {name: arrays[leaf.name] for name, leaf in part.leaves.items()}
    if isinstance(part.layer, Dense) and "dense/bias" not in weights:
        # A kernel that the user named alone.
        weights["dense/bias"] = np.zeros(part.layer.units, weights["dense/kernel"].dtype)
    return weights
