"""The handles of a stream's group: small numbers that the client chose for sessions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cellserve.errors import FieldInvalidError
from cellserve.tensors import Array
from cellserve_server.sessions.session import Session

FIRST_COLUMNS = 64


class Handle(NamedTuple):
    """What a handle stands for: a session, in the life that it was opened in, by its id and by its number."""

    session: Session
    uid: str
    life: int


class Handles:
    """Sessions by handle, and beside them columns, by which many are looked up at once.

    Args:
        most: handles from this number on are taken too, but are not in the columns; so one large number cannot ask for
            much memory.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_handle: dict[int, Handle] = {}
        self._columns = np.zeros((2, FIRST_COLUMNS), np.int64)  # seat + 1 and life of each handle; zeros: none

    def __len__(self) -> int:
        return len(self._by_handle)

    def __contains__(self, handle: int) -> bool:
        return handle in self._by_handle

    def values(self) -> list[Handle]:
        """What all handles stand for."""
        return list(self._by_handle.values())

    def get(self, handle: int) -> Handle:
        """What a handle stands for.

        Raises:
            FieldInvalidError: it was not opened.
        """
        known = self._by_handle.get(handle)
        if known is None:
            raise FieldInvalidError(f"handles: expected one that was opened in the group; got {handle}")
        return known

    def open(self, handle: int, session: Session) -> None:
        """Has a handle stand for a session that lives."""
        life = session.life
        self._by_handle[handle] = Handle(session, session.uid, life)
        if handle < self._most:
            if handle >= self._columns.shape[1]:
                self._grow(handle)
            self._columns[:, handle] = session.seat + 1, life

    def close(self, handle: int) -> Handle:
        """Forgets a handle that is open."""
        if handle < self._columns.shape[1]:
            self._columns[:, handle] = 0
        return self._by_handle.pop(handle)

    def look_up(self, handles: Array) -> tuple[Array, Array]:
        """The seats and the lives of the sessions under handles, int64 each; -1 and 0 where the columns have none."""
        # Any other where a handle is beyond the columns, and then set to none. (Not "wrap": numpy subtracts in a loop.)
        found = self._columns.take(handles, axis=1, mode="clip")
        known = handles < self._columns.shape[1]
        return np.where(known, found[0] - 1, -1), np.where(known, found[1], 0)

    def _grow(self, handle: int) -> None:
        columns = np.zeros((2, min(max(handle + 1, 2 * self._columns.shape[1]), self._most)), np.int64)
        columns[:, : self._columns.shape[1]] = self._columns
        self._columns = columns
