"""The variables of a checkpoint as a tree of scopes, and the places in it where cells stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.tensorflow1_names import modern_name

MAX_DEPTH = 64
CORES = (
    "basic_rnn_cell",
    "basic_lstm_cell",
    "lstm_cell",
    "gru_cell",
    "cudnn_compatible_lstm_cell",
    "cudnn_compatible_gru_cell",
    "layer_norm_basic_lstm_cell",
)
STACK = "multi_rnn_cell"
WRAPPERS = ("output_projection_wrapper", "input_projection_wrapper", "embedding_wrapper")
# Scopes of TensorFlow's that compute what no cell here does; a cell under them is not all there is.
_AROUND = {
    "attention_wrapper": "an AttentionWrapper",
    "attention_cell_wrapper": "an AttentionCellWrapper",
    "attention_decoder": "an attention decoder",
    "highway_wrapper": "a HighwayWrapper",
}
_FOREIGN = {
    "ugrnn_cell": "a UGRNNCell",
    "nas_rnn": "a NASCell",
    "nas_cell": "a NASCell",
    "intersection_rnn_cell": "an IntersectionRNNCell",
    "phased_lstm_cell": "a PhasedLSTMCell",
    "coupled_input_forget_gate_lstm_cell": "a CoupledInputForgetGateLSTMCell",
    "conv_lstm_cell": "a ConvLSTMCell",
    "glstm_cell": "a GLSTMCell",
    "g_lstm_cell": "a GLSTMCell",
    "grid_rnn_cell": "a GridRNNCell",
    "time_freq_lstm_cell": "a TimeFreqLSTMCell",
    "grid_lstm_cell": "a GridLSTMCell",
    "bidirectional_grid_lstm_cell": "a BidirectionalGridLSTMCell",
    "sru_cell": "an SRUCell",
    "highway_rnn_cell": "a HighwayRNNCell",
}
_RUNNERS = ("rnn", "fw", "bw")
_NUMBERED = re.compile(r"(?P<base>.+?)_\d+")


@dataclass(frozen=True)
class Leaf:
    """A variable: its name in the checkpoint, its shape, and its dtype's name."""

    name: str
    shape: tuple[int, ...]
    type_name: str


@dataclass
class Scope:
    """A scope: its path, and the scopes and variables in it, by modern names."""

    path: str
    scopes: dict[str, Scope] = field(default_factory=dict)
    leaves: dict[str, Leaf] = field(default_factory=dict)

    def flat(self) -> dict[str, Leaf]:
        """All variables under the scope, by their names within it."""
        found = dict(self.leaves)
        for name, inner in self.scopes.items():
            found |= {f"{name}/{rest}": leaf for rest, leaf in inner.flat().items()}
        return found

    def at(self, path: str) -> Scope | None:
        """The scope of a path, in old or new spelling; None: there is none."""
        scope: Scope | None = self
        for part in modern_name(path).split("/"):
            scope = scope.scopes.get(part) if scope is not None else None
        return scope


@dataclass(frozen=True)
class Place:
    """A cell's place: the scope that it stands in, and its own scope there.

    Attributes:
        level: the scope around; wrappers of TensorFlow before 1.2 stand there beside their cell.
        core: the cell's own scope.
        kind: the cell's class as its scope is called, ``multi_rnn_cell``, or empty: a name of its own.
        refusal: why the cell cannot be served; empty: it can.
    """

    level: Scope
    core: Scope
    kind: str
    refusal: str = ""


def tree_of(variables: Mapping[str, Leaf]) -> Scope:
    """The tree of variables.

    Raises:
        ImportRefusedError: scopes are nested too deep, or two spellings of one name are both there.
    """
    root = Scope("")
    for name, leaf in variables.items():
        *parts, last = modern_name(name).split("/")
        if len(parts) > MAX_DEPTH:
            raise ImportRefusedError(f"{name[:200]}: expected scopes nested at most {MAX_DEPTH} deep")
        scope = root
        for part in parts:
            path = f"{scope.path}/{part}" if scope.path else part
            scope = scope.scopes.setdefault(part, Scope(path))
        if last in scope.leaves:
            raise ImportRefusedError(f"{name}: the same variable as {scope.leaves[last].name}, in another spelling")
        scope.leaves[last] = leaf
    return root


def base_name(name: str) -> str:
    """A scope's name without the number that TensorFlow adds to a second one: ``gru_cell_1``."""
    match = _NUMBERED.fullmatch(name)
    return match["base"] if match else name


def cells_in(scope: Scope, refusal: str = "") -> Iterator[Place]:
    """The places of all cells under a scope, outermost ones only."""
    for name, inner in scope.scopes.items():
        kind, reason = cell_kind(name, inner), refusal or refused(name)
        if kind == STACK or kind in WRAPPERS or kind in CORES:
            yield Place(scope, inner, kind, reason)
        elif base_name(name) in _FOREIGN:
            yield Place(scope, inner, "", f"{inner.path}: {_FOREIGN[base_name(name)]}, which is not served")
        elif runs_cells(scope) and _looks_like_cell(inner):
            yield Place(scope, inner, "", reason)
        else:
            yield from cells_in(inner, refusal or (f"{inner.path}: {reason}" if reason else ""))


def refused(name: str) -> str:
    """Why what stands in a scope of this name cannot be served alone; empty: it can."""
    around = _AROUND.get(base_name(name), "")
    return f"{around} stands around the cells, which is not served" if around else ""


def runs_cells(scope: Scope) -> bool:
    """Whether what is directly in a scope is a cell, whatever it is called."""
    last = scope.path.rpartition("/")[2]
    return base_name(last) in (*_RUNNERS, *WRAPPERS) or re.fullmatch(r"cell_\d+", last) is not None


def cell_kind(name: str, scope: Scope) -> str:
    """The class of the cell that a scope is, as its scope is called; empty: it has another name, or is no cell."""
    kind = next((kind for kind in (name, base_name(name)) if kind in (*CORES, STACK, *WRAPPERS)), "")
    if kind == STACK:
        return STACK if any(re.fullmatch(r"cell_\d+", inner) for inner in scope.scopes) else ""
    return kind if _looks_like_cell(scope) or "embedding" in scope.leaves else ""


def _looks_like_cell(scope: Scope) -> bool:
    return "kernel" in scope.leaves or {"gates", "candidate"} <= scope.scopes.keys()


def direction_of(place: Place) -> tuple[str, str] | None:
    """The path of the bidirectional layer that a cell belongs to, and ``fw`` or ``bw``; None: to none."""
    parts = place.level.path.split("/")
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] in ("fw", "bw"):
            return "/".join(parts[:index]), parts[index]
    return None
