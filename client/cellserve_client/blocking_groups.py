"""Session groups of the blocking client."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import numpy.typing as npt

from cellserve.tensors import Array
from cellserve_client import groups
from cellserve_client.arrays import Inputs, Outputs
from cellserve_client.blocking_sessions import Connection
from cellserve_client.models import ModelInfo


class SessionGroup:
    """Sessions that are stepped together; see ``groups.SessionGroup``. ``with`` deletes them in the end."""

    def __init__(self, connection: Connection, group: groups.SessionGroup) -> None:
        # The connection is held, so that it lives as long as its groups.
        self._connection = connection
        self._group = group

    def __len__(self) -> int:
        """How many members there are."""
        return len(self._group)

    @property
    def model(self) -> ModelInfo:
        """The model version that they run on."""
        return self._group.model

    @property
    def batch_size(self) -> int | None:
        """The rows of each; None: one row without a batch dimension."""
        return self._group.batch_size

    @property
    def members(self) -> Array:
        """The indices of all members, ascending, int64: the order of rows when ``step`` is not told another."""
        return self._group.members

    @property
    def ids(self) -> list[str]:
        """The sessions' ids, in the order of ``members``."""
        return self._group.ids

    @property
    def step_counts(self) -> Array:
        """The steps that each has applied, as far as this client knows, in the order of ``members``; int64."""
        return self._group.step_counts

    def step(self, inputs: Inputs, *, members: npt.ArrayLike | None = None, timeout_s: float | None = None) -> Outputs:
        """One step of all members, or of some; see ``groups.SessionGroup.step``."""
        return self._connection.run(self._group.step(inputs, members=members, timeout_s=timeout_s))

    def add(
        self, count: int | None = None, *, ids: Sequence[str] | None = None, timeout_s: float | None = None
    ) -> Array:
        """Sessions join; see ``groups.SessionGroup.add``. Returns their indices."""
        return self._connection.run(self._group.add(count, ids=ids, timeout_s=timeout_s))

    def remove(self, members: npt.ArrayLike, *, delete: bool = True, timeout_s: float | None = None) -> None:
        """Members leave; see ``groups.SessionGroup.remove``."""
        self._connection.run(self._group.remove(members, delete=delete, timeout_s=timeout_s))

    def close(self, *, timeout_s: float | None = None) -> None:
        """Deletes all sessions on the server; see ``groups.SessionGroup.close``."""
        self._connection.run(self._group.close(timeout_s=timeout_s))

    def detach(self) -> list[str]:
        """Leaves the sessions on the server. This object is done with. Returns their ids."""

        async def detach() -> list[str]:
            return self._group.detach()

        return self._connection.run(detach())

    def __enter__(self) -> SessionGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.run(self._group.__aexit__(kind, error, trace))
