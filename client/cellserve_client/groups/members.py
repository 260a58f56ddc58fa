"""The members of a session group, in columns: a million of them have no Python object each but their ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cellserve.errors import CellServeError, DtypeMismatchError, FieldInvalidError, ShapeMismatchError
from cellserve.tensors import Array


class GroupMembers:
    """Sessions by index. An index stays a session's until it leaves; then another one may get it.

    Attributes:
        step_counts: by index: the steps applied, as far as is known, int64.
        lives: by index: a number that tells one life (uid) of a session from another, int64.
        unsettled: by index: the id of a run whose outcome is not known.
        doubted: by index: the id of a run that was not applied when the server was asked.
        absent: by index: why a member cannot be stepped any more.
        opened: by index: the number of the opening (a part's on one stream) on which it has its handle; 0: none. int64.
    """

    def __init__(self) -> None:
        self.step_counts: Array = np.zeros(0, np.int64)
        self.lives: Array = np.zeros(0, np.int64)
        self.opened: Array = np.zeros(0, np.int64)
        self.unsettled: dict[int, int] = {}
        self.doubted: dict[int, int] = {}
        self.absent: dict[int, CellServeError] = {}
        self._ids: list[str] = []
        self._is_member: Array = np.zeros(0, bool)
        self._free: list[int] = []
        self._all: Array | None = None

    def __len__(self) -> int:
        return len(self.indices())

    def indices(self) -> Array:
        """The indices of all members, ascending, int64."""
        if self._all is None:
            self._all = np.flatnonzero(self._is_member)
        return self._all

    def id_of(self, index: int) -> str:
        """The session's id."""
        return self._ids[index]

    def ids_of(self, indices: Array) -> list[str]:
        """The sessions' ids."""
        ids = self._ids
        return [ids[index] for index in indices.tolist()]

    def reserve(self, ids: Sequence[str]) -> Array:
        """Gives indices to sessions that are about to join; freed ones first."""
        reused = [self._free.pop() for _ in range(min(len(self._free), len(ids)))]
        begin, added = len(self._ids), len(ids) - len(reused)
        for index, id_ in zip(reused, ids, strict=False):
            self._ids[index] = id_
        self._ids.extend(ids[len(reused) :])
        if added:
            self.step_counts = np.concatenate([self.step_counts, np.zeros(added, np.int64)])
            self.lives = np.concatenate([self.lives, np.zeros(added, np.int64)])
            self.opened = np.concatenate([self.opened, np.zeros(added, np.int64)])
            self._is_member = np.concatenate([self._is_member, np.zeros(added, bool)])
        return np.array([*reused, *range(begin, begin + added)], np.int64)

    def join(self, indices: Array) -> None:
        """They are members from now on."""
        self._is_member[indices] = True
        self._all = None

    def leave(self, indices: Array) -> None:
        """They are no members, or have not become any; their indices are free."""
        self._is_member[indices] = False
        self.opened[indices] = 0
        self._all = None
        for index in indices.tolist():
            self._free.append(index)
            self._ids[index] = ""
            for known in (self.unsettled, self.doubted, self.absent):
                known.pop(index, None)
        self._free.sort(reverse=True)  # The smallest are given again first.

    def chosen(self, members: npt.ArrayLike | None) -> Array:
        """Indices that a caller names, int64; None: all.

        Raises:
            DtypeMismatchError, ShapeMismatchError: not a vector of integers.
            FieldInvalidError: an index twice, or of no member.
        """
        if members is None:
            return self.indices()
        indices = np.asarray(members)
        if indices.ndim != 1:
            raise ShapeMismatchError(f"members: expected a vector of indices; got shape {list(indices.shape)}")
        if indices.size == 0:
            return np.zeros(0, np.int64)
        if indices.dtype.kind not in "iu":
            raise DtypeMismatchError(f"members: expected integers; got {indices.dtype.name}")
        known = (indices >= 0) & (indices < len(self._is_member))
        known[known] = self._is_member[indices[known]]
        if not known.all():
            raise FieldInvalidError(f"members: expected indices of members; got {int(indices[~known][0])}")
        indices = indices.astype(np.int64)
        if len(np.unique(indices)) != len(indices):
            raise FieldInvalidError("members: expected each index once; got one twice")
        return indices
