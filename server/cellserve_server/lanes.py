"""Lanes: what the engine keeps for each model - its slab, and how long its ticks take."""

from __future__ import annotations

from cellserve_server.models import LoadedModel
from cellserve_server.slab import Slab

SMOOTHING = 0.2


def metrics_label(model: LoadedModel) -> str:
    """What metrics call a model; all models that clients define share one word, so that labels stay few."""
    return "defined" if model.tenant is not None else model.name


class Lane:
    """One model's slab and timings. Compared and hashed by identity.

    Attributes:
        model: the model version.
        slab: the states of its sessions and runs.
        label: what metrics call the model.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.slab = Slab(model.leaf_sizes, model.description.dtype)
        self.label = metrics_label(model)
        self._seconds: dict[int, float] = {}  # by the size class of the tick: the bit length of its rows

    def predicted_seconds(self, rows: int) -> float | None:
        """How long a tick of so many rows will take, from those of its size class before; None: none was seen yet."""
        return self._seconds.get(rows.bit_length())

    def observe(self, rows: int, seconds: float) -> None:
        """Learns how long a tick took."""
        size_class = rows.bit_length()
        known = self._seconds.get(size_class, seconds)
        self._seconds[size_class] = known + SMOOTHING * (seconds - known)


class LaneTable:
    """The lanes by model; a model that has gone keeps its lane until the last row is given back."""

    def __init__(self) -> None:
        self._lanes: dict[LoadedModel, Lane] = {}
        self._gone: set[LoadedModel] = set()

    def __getitem__(self, model: LoadedModel) -> Lane:
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = Lane(model)
        return lane

    def __len__(self) -> int:
        return len(self._lanes)

    def slab_bytes(self) -> int:
        """The bytes of all slabs, free rows too. May be called by another thread."""
        return sum(lane.slab.nbytes for lane in list(self._lanes.values()))

    def slab_rows(self) -> int:
        """The rows that are given out, of all slabs. May be called by another thread."""
        return sum(lane.slab.rows_in_use for lane in list(self._lanes.values()))

    def forget(self, model: LoadedModel) -> None:
        """The model has gone: lets its lane go as soon as nobody uses it."""
        if model in self._lanes:
            self._gone.add(model)
            self.tidy(model)

    def tidy(self, model: LoadedModel) -> None:
        """Lets go of a lane that nobody uses whose model has gone."""
        if model in self._gone and self._lanes[model].slab.rows_in_use == 0:
            self._gone.discard(model)
            del self._lanes[model]
