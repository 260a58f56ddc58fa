"""What flows through an ONNX graph, as far as it has to be known: which axis of a tensor is time, batch or features.

A graph that an exporter wrote moves axes to and fro between the layers. To say that such a graph is a model of layers,
each value is followed by what its axes mean. An axis of a tensor is a product of parts (``Reshape`` joins and parts
them); a part is one of the input's own axes, the two directions of a bidirectional node, or the features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from cellserve.specs import Bidirectional
from cellserve.tensors import Array
from cellserve_server.importers.assembly import WeightedCell, WeightedLayer

DIRECTIONS = "directions"
FEATURES = "features"


@dataclass(frozen=True)
class Part:
    """A part of an axis: its meaning (``X[0]``, ``directions``, ``features``) and its length; None: any."""

    meaning: str
    length: int | None


Axis: TypeAlias = tuple[Part, ...]
"""The parts whose product an axis is, the slowest first; none: an axis of length 1 that means nothing."""


@dataclass(frozen=True, eq=False)
class CellStage:
    """A cell that ran over the sequence; ``backward``: from its end."""

    cell: WeightedCell
    node: str
    backward: bool = False


@dataclass(frozen=True, eq=False)
class BothStage:
    """Two cells that ran over the same sequence, from both ends."""

    forward: WeightedCell
    backward: WeightedCell
    node: str
    merge_mode: str = "concat"


@dataclass(frozen=True, eq=False)
class LayerStage:
    """A layer without a state; ``open`` tells whether a bias may still join it."""

    layer: WeightedLayer
    node: str
    open: bool = False


Stage: TypeAlias = CellStage | BothStage | LayerStage


@dataclass(frozen=True, eq=False)
class Flow:
    """The values on their way through the layers.

    Attributes:
        axes: what each axis of the tensor means.
        stages: the layers so far.
        source: the graph's input that they come from.
        type_name: of the elements; an integer type: ids.
        only_last: only the last step is left.
        half: of a bidirectional node's outputs only ``forward`` or ``backward``; empty: both.
        is_state: this is a final state as the node gave it, which a session keeps anyhow.
        has_lengths: rows had lengths of their own, so the last step in the tensor is not each row's last.
    """

    axes: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    source: str
    type_name: str
    only_last: bool = False
    half: str = ""
    is_state: bool = False
    has_lengths: bool = False

    @property
    def features(self) -> int | None:
        """The number of features, if the last axis is all of them and nothing else; else None."""
        last = self.axes[-1] if self.axes else ()
        meanings = [part.meaning for part in last]
        elsewhere = {meaning for axis in self.axes[:-1] for meaning in names(axis)}
        if meanings not in ([FEATURES], [DIRECTIONS, FEATURES]) or elsewhere & {FEATURES, DIRECTIONS}:
            return None
        return length_of(last)

    def moved(self, axes: Sequence[Axis]) -> Flow:
        """The same values, otherwise arranged."""
        return replace(self, axes=tuple(axes))


@dataclass(frozen=True, eq=False)
class Const:
    """A tensor that is known; ``name`` for messages."""

    array: Array
    name: str


@dataclass(frozen=True, eq=False)
class Dims:
    """A tensor of lengths, of any rank up to 1; each is a number or an axis, so a product of parts; None: not known."""

    lengths: tuple[int | Axis | None, ...]
    is_scalar: bool = False


@dataclass(frozen=True, eq=False)
class Zeros:
    """A tensor that is all zeros; of its shape only the last length is known, if that; None: it is not."""

    width: int | None = None


@dataclass(frozen=True, eq=False)
class InitialState:
    """A state that the graph is fed, or a piece of one: a session keeps it."""

    source: str


@dataclass(frozen=True, eq=False)
class FinalState:
    """A state that a node gives, or a piece of one, or several: a session keeps it.

    Attributes:
        node: for messages.
        layers: of several layers' h, one above the other in the first axis, each.
    """

    node: str
    layers: tuple[Flow, ...] = ()


@dataclass(frozen=True, eq=False)
class Lengths:
    """The lengths of the rows, as the graph is fed them."""

    source: str


@dataclass(frozen=True, eq=False)
class Unknown:
    """Something that is computed and was not followed; it does no harm unless a layer needs it."""

    why: str = field(default="")


Value: TypeAlias = Flow | Const | Dims | Zeros | InitialState | FinalState | Lengths | Unknown


def names(axis: Axis) -> list[str]:
    """The meanings of an axis' parts."""
    return [part.meaning for part in axis]


def length_of(axis: Axis) -> int | None:
    """The length of an axis; None: not known."""
    lengths = [part.length for part in axis]
    return None if None in lengths else math.prod(length for length in lengths if length is not None)


def layer_of(stage: Stage) -> WeightedLayer | WeightedCell:
    """What a stage computes."""
    if isinstance(stage, LayerStage):
        return stage.layer
    if isinstance(stage, CellStage):
        return stage.cell
    weights = stage.forward.scoped("fw/") | stage.backward.scoped("bw/")
    return WeightedLayer(Bidirectional(stage.forward.cell, stage.backward.cell, stage.merge_mode), weights)
