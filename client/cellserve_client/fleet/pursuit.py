"""One request's way through the replicas: what follows upon each error, until it is answered or given up."""

from __future__ import annotations

import asyncio
from typing import Protocol

from cellserve.errors import (
    CellServeError,
    ModelNotFoundError,
    SessionMovedError,
    StoreUnavailableError,
    UnavailableError,
)
from cellserve_client.deadlines import Deadline
from cellserve_client.fleet.replica import Replica

# So many times one request is sent to a replica that is cut off from its store, before others are asked.
STORE_REFUSALS = 3
# So many times in a row a session is followed at once; from then on with a pause, lest two replicas pull at it.
MOVES_AT_ONCE = 2


class Follower(Protocol):
    """What is told where a session has moved to: a ``Way``, or the members of a group."""

    @property
    def is_bound(self) -> bool:
        """Whether no other replica will do."""
        ...

    def follow(self, owner: Replica | None) -> None:
        """Another replica has the session; None: it is not known which."""
        ...


class Helpers(Protocol):
    """What a pursuit needs of the fleet."""

    @property
    def was_reached(self) -> bool:
        """Whether any replica has ever answered."""
        ...

    @property
    def up_count(self) -> int:
        """How many replicas are up."""
        ...

    def replica_at(self, address: str) -> Replica | None:
        """The replica of this address; None: it is none of the client's."""
        ...

    async def make_model(self, replica: Replica, name: str, deadline: Deadline) -> bool:
        """Has a replica make a model that this client has described. False: it has not described it."""
        ...

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns when a replica has come up or gone down, or the time is over."""
        ...


class Pursuit:
    """What to do about the errors of one request, or of one step of many sessions.

    Args:
        fleet: the replicas.
        deadline: of all attempts together.
        model: that the request names, so that it can be made where it is not known; empty: none.
    """

    def __init__(self, fleet: Helpers, deadline: Deadline, model: str = "") -> None:
        self._fleet = fleet
        self._deadline = deadline
        self._model = model
        self._attempt = 0
        self._moves = 0
        self._store_refusals = 0
        self._was_made_at: set[int] = set()

    def branch(self) -> Pursuit:
        """For a part of what it was for, from here on."""
        part = Pursuit(self._fleet, self._deadline, self._model)
        part._attempt, part._moves, part._store_refusals = self._attempt, self._moves, self._store_refusals
        part._was_made_at = set(self._was_made_at)
        return part

    async def failed(
        self, replica: Replica, error: CellServeError, follower: Follower, *, had_worked: bool = False
    ) -> None:
        """Returns when the next attempt is due; the follower tells where.

        Args:
            replica: that was asked.
            error: what came of it.
            had_worked: a stream that had answered before has ended: the attempts are counted from there.

        Raises:
            CellServeError: the error: there is to be no other attempt.
        """
        error = await replica.transport.explained(error, self._deadline)
        if isinstance(error, SessionMovedError):
            await self._follow(replica, error, follower)
        elif isinstance(error, ModelNotFoundError) and await self._make(replica):
            return
        elif isinstance(error, UnavailableError) and not follower.is_bound:
            await self._leave(replica, error)
        else:
            if isinstance(error, UnavailableError):
                replica.note_failure()  # For what is not bound to it.
            self._attempt = 1 if had_worked else self._attempt + 1
            await replica.transport.before_retry(error, self._attempt, self._deadline)

    async def _follow(self, replica: Replica, error: SessionMovedError, follower: Follower) -> None:
        owner = self._fleet.replica_at(error.metadata.get("owner", ""))
        is_news = owner is not None and owner is not replica
        follower.follow(owner if is_news else None)
        self._moves += 1
        if not is_news or follower.is_bound or self._moves > MOVES_AT_ONCE:
            await self._pause(replica, error, self._moves)

    async def _make(self, replica: Replica) -> bool:
        """Makes the model where it is not known, once: the name is made of the content, the same comes out."""
        if not self._model or replica.number in self._was_made_at:
            return False
        self._was_made_at.add(replica.number)
        return await self._fleet.make_model(replica, self._model, self._deadline)

    async def _leave(self, replica: Replica, error: UnavailableError) -> None:
        """The next replica is asked at once; when none is up, the first that comes up again."""
        policy = replica.transport.retrier.policy
        if isinstance(error, StoreUnavailableError) and policy.max_attempts > 1:
            self._store_refusals += 1
            if self._store_refusals < STORE_REFUSALS:
                await self._pause(replica, error, self._store_refusals)
                return
            self._store_refusals = 0
        replica.note_failure()
        if policy.max_attempts == 1:
            raise error
        if self._fleet.up_count:
            return
        self._attempt += 1
        if not self._fleet.was_reached:
            # A wrong address should be told soon.
            if self._attempt >= policy.max_first_contact_attempts:
                raise error
            await self._pause(replica, error, self._attempt)
            return
        while not self._fleet.up_count:
            if self._deadline.remaining_s() <= 0:
                raise error
            await self._fleet.wait_for_change(self._deadline.remaining_s())
        # Many have waited for the same moment: they are not to come all at once.
        await self._pause(replica, error, self._attempt)

    async def _pause(self, replica: Replica, error: CellServeError, attempt: int) -> None:
        """Waits as long as before a retry, without drawing on a budget: the deadline ends this."""
        delay_s = replica.transport.retrier.pause_s(error, attempt)
        if delay_s >= self._deadline.remaining_s():
            raise error
        await replica.transport.sleep(delay_s)


def is_being_cancelled() -> bool:
    """Whether somebody cancelled the running task, in contrast to the request under it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
