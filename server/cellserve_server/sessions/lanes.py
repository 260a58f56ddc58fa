"""Lanes: what the engine keeps for each model - the seats of its sessions, and how long its ticks take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.seats import Seats, StateBudget
from cellserve_server.sessions.session import Session

SMOOTHING = 0.2


def metrics_label(model: LoadedModel) -> str:
    """What metrics call a model; all models that clients define share one word, so that labels stay few."""
    return "defined" if model.tenant is not None else model.name


class Lane:
    """One model's seats and timings. Compared and hashed by identity.

    Args:
        model: the model version.
        budget: what the memory for states is taken from.
        moved: as of ``Seats``.

    Attributes:
        model: the model version.
        label: what metrics call the model.
    """

    def __init__(self, model: LoadedModel, budget: StateBudget, moved: int) -> None:
        self.model = model
        self._budget = budget
        self._moved = moved
        self.label = metrics_label(model)
        self._seats: dict[int, Seats[Session]] = {}
        self._seconds: dict[int, float] = {}  # of one step, by the size class of the tick: the bit length of its rows

    def seats(self, rows: int) -> Seats[Session]:
        """The seats of its sessions of so many rows."""
        seats = self._seats.get(rows)
        if seats is None:
            seats = self._seats[rows] = Seats(self.model.leaf_sizes, self.model.description.dtype, rows, self._budget)
            seats.moved = self._moved
        return seats

    def tables(self) -> list[Seats[Session]]:
        """All its seats."""
        return list(self._seats.values())

    @property
    def rows_in_use(self) -> int:
        """The rows of states, and of the copies from before their last runs, that sessions have."""
        return sum(2 * seats.taken * rows for rows, seats in list(self._seats.items()))

    @property
    def sessions(self) -> int:
        """How many there are."""
        return sum(seats.taken for seats in list(self._seats.values()))

    @property
    def nbytes(self) -> int:
        """The bytes set aside for states, whoever has them."""
        return sum(seats.nbytes for seats in list(self._seats.values()))

    def predicted_seconds(self, rows: int) -> float | None:
        """How long a step of so many rows will compute, by those before; None: none was seen yet.

        It is what those of its size class took, at most what those of the next larger class took, or what those of the
        next smaller one took, for each doubling twice.
        """
        size_class = rows.bit_length()
        known = self._seconds.get(size_class)
        if known is not None or not self._seconds:
            return known
        larger = [other for other in self._seconds if other > size_class]
        if larger:
            return self._seconds[min(larger)]
        nearest = max(self._seconds)
        return self._seconds[nearest] * 2.0 ** (size_class - nearest)

    def observe(self, rows: int, seconds: float) -> None:
        """Learns how much processor time a step took."""
        size_class = rows.bit_length()
        known = self._seconds.get(size_class, seconds)
        self._seconds[size_class] = known + SMOOTHING * (seconds - known)


class LaneTable:
    """The lanes by model; a model that has gone keeps its lane until the last seat is given back.

    Args:
        budget: what the memory for states is taken from.

    Attributes:
        moved: as of ``Seats``; to be set before there is any session.
    """

    def __init__(self, budget: StateBudget) -> None:
        self.moved = 0
        self._budget = budget
        self._lanes: dict[LoadedModel, Lane] = {}
        self._gone: set[LoadedModel] = set()

    def __getitem__(self, model: LoadedModel) -> Lane:
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = Lane(model, self._budget, self.moved)
        return lane

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def tables(self) -> list[Seats[Session]]:
        """The seats of all models."""
        return [seats for lane in self._lanes.values() for seats in lane.tables()]

    def idlest(self, spared: int) -> list[Session]:
        """The sessions that do nothing, and that the store has as they are: those used longest ago first.

        Args:
            spared: as of ``Seats.idle``.
        """
        idle = [(seats, *seats.idle(spared)) for seats in self.tables()]
        used = np.concatenate([times for _, _, times in idle] or [np.empty(0)])
        found = [seats.occupants[seat] for seats, places, _ in idle for seat in places.tolist()]
        return [session for place in np.argsort(used).tolist() if (session := found[place]) is not None]

    def slab_bytes(self) -> int:
        """The bytes of all states, free places too. May be called by another thread."""
        return sum(lane.nbytes for lane in list(self._lanes.values()))

    def slab_rows(self) -> int:
        """The rows that are given out, of all states. May be called by another thread."""
        return sum(lane.rows_in_use for lane in list(self._lanes.values()))

    def sessions_by_model(self) -> dict[str, int]:
        """How many sessions there are, by what metrics call their models. May be called by another thread."""
        counts: Counter[str] = Counter()
        for lane in list(self._lanes.values()):
            counts[lane.label] += lane.sessions
        return counts

    def forget(self, model: LoadedModel) -> None:
        """The model has gone: lets its lane go as soon as nobody uses it."""
        if model in self._lanes:
            self._gone.add(model)
            self.tidy(model)

    def tidy(self, model: LoadedModel) -> None:
        """Lets go of a lane that nobody uses whose model has gone."""
        if model in self._gone and self._lanes[model].rows_in_use == 0:
            self._gone.discard(model)
            del self._lanes[model]
