"""What is read of servers at one moment, as they tell it; ``figures`` makes what is shown of two of these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cellserve_client.models import ModelInfo
from cellserve_client.server_metrics import Snapshot
from cellserve_client.session_info import SORTS, SessionInfo

# It answered; it refuses because it stops, or for another reason; it does not answer, or is not ready to.
Answer: TypeAlias = Literal["given", "draining", "refused", "none"]


@dataclass(frozen=True)
class Asked:
    """Which sessions are asked for.

    Attributes:
        sort: one of ``session_info.SORTS``: the greatest, or the latest, first.
        reverse: the other way round.
        id_contains: only those with this in their ids.
        model: only those of this model; None: all.
        limit: at most so many, from 1 to ``session_info.MAX_SORTED``.
    """

    sort: str = "rate"
    reverse: bool = False
    id_contains: str = ""
    model: str | None = None
    limit: int = 100

    @property
    def order_by(self) -> str:
        """The order as servers take it."""
        return SORTS[self.sort] if self.reverse else f"{SORTS[self.sort]} desc"

    def ordered(self, sessions: Iterable[tuple[str, SessionInfo]]) -> list[tuple[str, SessionInfo]]:
        """Those of several replicas, each with its replica's address, in this order and no more than asked for."""
        field = SORTS[self.sort]
        found = sorted(sessions, key=lambda pair: getattr(pair[1], field), reverse=not self.reverse)
        return found[: self.limit]


@dataclass(frozen=True)
class ReplicaReading:
    """One server at one moment.

    Attributes:
        address: ``host:port``.
        answer: whether it answered.
        trouble: why it did not; empty: it did.
        page: of its metrics; None: it could not be read.
        page_trouble: why not.
        models: as of the last time when it told them.
        sessions: those that were asked for, in order.
    """

    address: str
    answer: Answer
    trouble: str
    page: Snapshot | None
    page_trouble: str
    models: tuple[ModelInfo, ...]
    sessions: tuple[SessionInfo, ...]


@dataclass(frozen=True)
class Reading:
    """All servers at one moment.

    Attributes:
        time: unix seconds.
        asked: for which sessions.
        replicas: in the order in which they were named.
    """

    time: float
    asked: Asked
    replicas: tuple[ReplicaReading, ...]
