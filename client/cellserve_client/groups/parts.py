"""A session group's members by the places where they are: what is asked of many is asked of each place at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import numpy as np
from google.protobuf.duration_pb2 import Duration

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from cellserve_client.deadlines import Deadline
from cellserve_client.fleet import Fleet, Pursuit, Replica, Spread
from cellserve_client.groups.members import GroupMembers
from cellserve_client.groups.opening import GroupPart
from cellserve_client.models import ModelInfo

# Asks one place about some positions of what is asked. Returns why some of them failed, by position; when it raises,
# all of them did.
Work: TypeAlias = Callable[[GroupPart, Array], Awaitable[dict[int, CellServeError]]]


class GroupParts:
    """The places of a group's members.

    Args:
        fleet: the connection.
        model: the group's.
        batch_size: rows of each session; None: one row without a batch dimension.
        ttl: of the sessions that are made; None: the server's default.
        members: the group's.

    Attributes:
        spread: where each member goes.
    """

    def __init__(
        self,
        fleet: Fleet,
        model: ModelInfo,
        batch_size: int | None,
        ttl: Duration | None,
        members: GroupMembers,
    ) -> None:
        self.spread = Spread(fleet)
        self._fleet = fleet
        self._model = model.resource_name
        self._pattern = stream_pb2.Open(model=self._model, batch_size=batch_size or 0, ttl=ttl)
        self._members = members
        self._parts: dict[int, GroupPart] = {}
        self._last_opening = 0
        # Held, so that a replica that does not know the model can be told it as long as the group lives.
        self._made_model = fleet.made_models.of(self._model)

    async def each(self, indices: Array, work: Work, deadline: Deadline) -> dict[int, CellServeError]:
        """Asks every place that is concerned, all at once, and again, elsewhere too, what is worth asking again.

        Args:
            indices: the members, or those that are about to be; the work's positions are those of this array.
            work: asks one place.
            deadline: of the whole.

        Returns:
            Why some have failed in the end, by position.
        """
        for part in self._parts.values():
            part.begin()
        pursuit = Pursuit(self._fleet, deadline, self._model)
        return await self._ask(indices, np.arange(len(indices)), work, pursuit)

    async def _ask(self, indices: Array, positions: Array, work: Work, pursuit: Pursuit) -> dict[int, CellServeError]:
        places = self.spread.places(indices[positions])
        numbers = np.unique(places).tolist()
        if len(numbers) == 1:
            return await self._ask_place(numbers[0], indices, positions, work, pursuit)
        asked = [
            self._ask_place(number, indices, positions[places == number], work, pursuit.branch()) for number in numbers
        ]
        failed: dict[int, CellServeError] = {}
        for errors in await _all(asked):
            failed.update(errors)
        return failed

    async def _ask_place(
        self, number: int, indices: Array, positions: Array, work: Work, pursuit: Pursuit
    ) -> dict[int, CellServeError]:
        part = self._part(number)
        try:
            errors = await work(part, positions)
        except CellServeError as refusal:
            errors = dict.fromkeys(positions.tolist(), refusal)
        if not errors:
            return {}
        # Those with errors of one kind go on together: to the same owner, or after the same pause.
        kinds: dict[tuple[object, ...], dict[int, CellServeError]] = defaultdict(dict)
        for position, error in errors.items():
            kinds[(type(error), error.reason, error.metadata.get("owner", ""))][position] = error
        if len(kinds) == 1:
            return await self._ask_again(part, indices, errors, work, pursuit)
        asked = [self._ask_again(part, indices, same, work, pursuit.branch()) for same in kinds.values()]
        failed: dict[int, CellServeError] = {}
        for still in await _all(asked):
            failed.update(still)
        return failed

    async def _ask_again(
        self, part: GroupPart, indices: Array, errors: dict[int, CellServeError], work: Work, pursuit: Pursuit
    ) -> dict[int, CellServeError]:
        positions = np.array(sorted(errors), np.int64)
        first = errors[int(positions[0])]
        try:
            await pursuit.failed(
                part.replica, first, _Followers(self.spread, indices[positions]), had_worked=part.has_ended_well
            )
        except CellServeError as last:
            return errors if last is first else dict.fromkeys(positions.tolist(), last)
        return await self._ask(indices, positions, work, pursuit)

    def _part(self, number: int) -> GroupPart:
        part = self._parts.get(number)
        if part is None:
            place = self.spread.place(number)
            assert place is not None, "members go to replicas of the fleet only"
            part = self._parts[number] = GroupPart(self._fleet, place, self._pattern, self._members, self)
        return part

    # --- for the parts --------------------------------------------------------------------------------------------

    def next_opening(self) -> int:
        """A number for one part on one stream, used once."""
        self._last_opening += 1
        return self._last_opening

    def release(self, indices: Array, *, delete: bool = False) -> None:
        """Gives handles back that members have, wherever that is.

        Args:
            delete: delete the sessions too.
        """
        opened = self._members.opened[indices]
        for part in list(self._parts.values()):
            left = indices[opened == part.opening] if part.opening else indices[:0]
            if left.size:
                part.release(left, delete=delete)
        self._members.opened[indices] = 0

    def leave(self) -> None:
        """Gives all handles back without waiting."""
        for part in self._parts.values():
            part.leave()


class _Followers:
    """Members that failed alike, as a ``Follower``."""

    def __init__(self, spread: Spread, indices: Array) -> None:
        self._spread = spread
        self._indices = indices

    @property
    def is_bound(self) -> bool:
        return self._spread.is_bound

    def follow(self, owner: Replica | None) -> None:
        self._spread.follow(self._indices, owner)


async def _all(asked: Sequence[Awaitable[dict[int, CellServeError]]]) -> list[dict[int, CellServeError]]:
    """Waits for all at once; when one ends in a way that is no answer, so do the others."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
