"""The recurrent parts of a checkpoint: which cells belong together, and which of several are meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cellserve.specs import Bidirectional, Layer
from cellserve_server.importers.base import Assumption, ImportRefusedError, Settings
from cellserve_server.importers.tensorflow1_cells import CellReader, FoundCell
from cellserve_server.importers.tensorflow1_names import modern_name
from cellserve_server.importers.tensorflow1_scopes import Leaf, Place, Scope, cells_in, direction_of

_SHOWN = 8
_STACK_LEVEL = re.compile(r"(?P<stack>(?:.*/)?stack_bidirectional_rnn(?:_\d+)?)/cell_(?P<number>\d+)(?:/.*)?")


@dataclass(frozen=True)
class Part:
    """A layer, and the checkpoint's variables by the names that the layer's have when it is a model's first."""

    layer: Layer
    leaves: Mapping[str, Leaf]


@dataclass(frozen=True)
class RecurrentPart:
    """The layers that run as one RNN, the lowest first. ``input_size`` None: ids."""

    path: str
    layers: tuple[Part, ...]
    input_size: int | None
    output_size: int


@dataclass(frozen=True)
class Candidate:
    """What may be a recurrent part: for each layer one place, or those of the forward and the backward cell."""

    path: str
    layers: tuple[tuple[Place, ...], ...]


def choose_parts(tree: Scope, settings: Settings, notes: list[Assumption]) -> list[Candidate]:
    """The recurrent parts to serve, the lowest first: the only one, or those that the user names, which is noted.

    Raises:
        ImportRefusedError: there is none, or there are several and the user named none.
    """
    candidates = _candidates(list(cells_in(tree)))
    given = settings.get("scope")
    if given is not None:
        notes.append(
            Assumption("scope", given, "which recurrent parts there are to serve, and in which order", given=True)
        )
        return [_named(tree, candidates, path.strip()) for path in given.split(",")]
    if not candidates:
        names = ", ".join(leaf.name for leaf in list(tree.flat().values())[:_SHOWN])
        raise ImportRefusedError(
            f"no recurrent cell was recognised among the variables {names or '(there are none)'}; a cell with a name "
            "of its own, called directly, is found by that name",
            option="scope=my_cell" if names else "",
        )
    if len(candidates) > 1:
        names = ", ".join(candidate.path for candidate in candidates[:_SHOWN])
        raise ImportRefusedError(
            f"several recurrent parts: {names}; name the one to serve, or several that run one on the other as a,b",
            option=f"scope={candidates[0].path}",
        )
    return candidates


def _named(tree: Scope, candidates: Sequence[Candidate], given: str) -> Candidate:
    path = modern_name(given)
    inside = [each for each in candidates if each.path == path or each.path.startswith(f"{path}/")]
    if len(inside) > 1:
        names = ", ".join(each.path for each in inside[:_SHOWN])
        raise ImportRefusedError(f"scope: expected one recurrent part under {given}; got {names}")
    if inside:
        return inside[0]
    scope = tree.at(path)
    if scope is not None and ("kernel" in scope.leaves or {"gates", "candidate"} <= scope.scopes.keys()):
        return Candidate(path, ((Place(Scope(path), scope, ""),),))
    names = ", ".join(each.path for each in candidates[:_SHOWN]) or "none"
    raise ImportRefusedError(f"scope: expected one of {names}; got {given!r}")


def _candidates(places: Sequence[Place]) -> list[Candidate]:
    places = _without_wrappers_beside(places)
    candidates: dict[str, Candidate] = {}
    pairs: dict[str, dict[str, list[Place]]] = {}
    for place in places:
        direction = direction_of(place)
        if direction is not None:
            pairs.setdefault(direction[0], {}).setdefault(direction[1], []).append(place)
    for path, both in pairs.items():
        forward, backward = both.get("fw", []), both.get("bw", [])
        if len(forward) == len(backward) == 1:
            candidates[path] = Candidate(path, ((forward[0], backward[0]),))
    for place in places:
        direction = direction_of(place)
        if direction is None or direction[0] not in candidates:
            candidates[place.core.path] = Candidate(place.core.path, ((place,),))
    return _with_stacks(candidates)


def _without_wrappers_beside(places: Sequence[Place]) -> list[Place]:
    """The places without the wrappers that stand beside their only cell, as TensorFlow before 1.2 had it."""
    beside = [place for place in places if place.kind.endswith("_wrapper") and not place.core.scopes]
    others = [place for place in places if place not in beside]
    levels = [place.level.path for place in others]
    kept = [place for place in beside if levels.count(place.level.path) != 1]
    return [*others, *kept]


def _with_stacks(candidates: Mapping[str, Candidate]) -> list[Candidate]:
    """The candidates, those of one ``stack_bidirectional_dynamic_rnn`` made into one."""
    stacks: dict[str, dict[int, Candidate]] = {}
    joined: list[Candidate] = []
    for path, candidate in candidates.items():
        match = _STACK_LEVEL.fullmatch(path)
        if match is None:
            joined.append(candidate)
        else:
            stacks.setdefault(match["stack"], {})[int(match["number"])] = candidate
    for path, levels in stacks.items():
        if sorted(levels) != list(range(len(levels))):
            raise ImportRefusedError(f"{path}: expected layers cell_0 and so on; got {sorted(levels)}")
        layers = tuple(layer for number in sorted(levels) for layer in levels[number].layers)
        joined.append(Candidate(path, layers))
    return sorted(joined, key=lambda candidate: candidate.path)


def read_part(candidate: Candidate, reader: CellReader) -> RecurrentPart:
    """Recognises the cells of a recurrent part.

    Raises:
        ImportRefusedError: a cell cannot be served, or the layers do not fit one another.
    """
    layers = [[reader.read(place) for place in places] for places in candidate.layers]
    widths = [_input_size(candidate.path, found) for found in layers]
    outputs = [sum(each.cell.output_size for each in found) for found in layers]
    for (_, output), (width, _) in pairwise(zip(widths, outputs, strict=True)):
        if width != output:
            raise ImportRefusedError(f"{candidate.path}: a layer gives {output}, and the one above takes {width}")
    return RecurrentPart(candidate.path, tuple(map(_layer, layers)), widths[0], outputs[-1])


def _input_size(path: str, found: Sequence[FoundCell]) -> int | None:
    sizes = {each.input_size for each in found}
    if len(sizes) > 1:
        raise ImportRefusedError(
            f"{path}: expected both directions to take the same inputs; got {sorted(map(str, sizes))}"
        )
    return found[0].input_size


def _layer(found: Sequence[FoundCell]) -> Part:
    if len(found) == 1:
        return Part(found[0].cell, found[0].leaves)
    forward, backward = found
    leaves = {f"fw/{name}": leaf for name, leaf in forward.leaves.items()}
    leaves |= {f"bw/{name}": leaf for name, leaf in backward.leaves.items()}
    return Part(Bidirectional(forward.cell, backward.cell), leaves)
