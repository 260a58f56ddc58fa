"""The memory of request_ids (AIP-155): a request that is repeated is not done again but gets the first answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from cellserve.errors import FieldInvalidError, QuotaExceededError
from cellserve_server.tenant_limits import TenantLimits

MAX_REQUEST_ID_CHARS = 128

Answer = TypeVar("Answer")
_Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class _Done:
    fingerprint: bytes
    answer: object
    forget_at: float


@dataclass(frozen=True)
class _UnderWay:
    fingerprint: bytes
    task: asyncio.Task[Any]


@dataclass
class _Own:
    """A tenant's requests: how many are under way, and the ids of the answered ones, in the order of forget_at."""

    under_way: int = 0
    done: deque[str] = field(default_factory=deque)

    def __len__(self) -> int:
        return self.under_way + len(self.done)


class RequestMemory:
    """Answers by (tenant, request_id), for a time and up to a number, of each tenant and of all.

    Beyond its own number a tenant's oldest is forgotten, beyond that of all the oldest of the tenant that has most: who
    asks little keeps its answers beside who asks much.

    Args:
        limits: of tenants.
        max_requests: how many of all are remembered, those under way among them.
        remember_s: how long, in seconds from the answer.
        clock: seconds, never going back by much.
    """

    def __init__(self, limits: TenantLimits, max_requests: int, remember_s: float, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._max_requests = max_requests
        self._remember_s = remember_s
        self._clock = clock
        self._done: OrderedDict[_Key, _Done] = OrderedDict()  # in the order of forget_at
        self._under_way: dict[_Key, _UnderWay] = {}
        self._by_tenant: dict[str, _Own] = {}  # who has none is not in it

    def __len__(self) -> int:
        return len(self._done) + len(self._under_way)

    async def once(
        self, tenant: str, request_id: str, fingerprint: bytes, do: Callable[[], Coroutine[Any, Any, Answer]]
    ) -> Answer:
        """Does a request, or gives the answer that the same request got before.

        The request is done to its end even when its caller goes away: the caller's retry then finds the answer. A
        repeat that comes while the first is under way waits for it. An error is not remembered: a repeat tries again.

        Args:
            request_id: the client's; empty: the request is simply done.
            fingerprint: equal for equal requests only.
            do: does the request and returns its answer, which is handed out again as it is: nobody may change it.

        Raises:
            FieldInvalidError: the id is too long, or was another request's.
            QuotaExceededError: as many requests as are remembered are under way.
            CellServeError: what ``do`` raised.
        """
        if not request_id:
            return await do()
        if len(request_id) > MAX_REQUEST_ID_CHARS:
            raise FieldInvalidError(
                f"request_id: expected at most {MAX_REQUEST_ID_CHARS} characters; got {len(request_id)}"
            )
        self._forget_old()
        key = (tenant, request_id)
        known = self._done.get(key) or self._under_way.get(key)
        if known is not None and known.fingerprint != fingerprint:
            raise FieldInvalidError(
                f"request_id: expected a new one for a new request; {request_id!r} was another request's",
                metadata={"field": "request_id", "request_id": request_id},
            )
        if isinstance(known, _Done):
            answer: Answer = known.answer  # type: ignore[assignment]
            return answer
        task = known.task if known is not None else self._begin(key, fingerprint, do)
        # Shielded: one caller's going away must not take the request from those who wait for it too.
        return await asyncio.shield(task)

    def _begin(
        self, key: _Key, fingerprint: bytes, do: Callable[[], Coroutine[Any, Any, Answer]]
    ) -> asyncio.Task[Answer]:
        tenant, _ = key
        own = self._by_tenant.get(tenant, _Own())
        own_most = self._limits.of(tenant).max_remembered_requests
        for under_way, most, whose in (
            (len(self._under_way), self._max_requests, ""),
            (own.under_way, own_most, " of a tenant"),
        ):
            if under_way >= most:
                raise QuotaExceededError(
                    f"request_id: expected at most {most} requests{whose} with one to be under way",
                    metadata={"quota": "max_remembered_requests", "limit": str(most)},
                    retry_after_s=1.0,
                )
        task = asyncio.ensure_future(do())
        self._under_way[key] = _UnderWay(fingerprint, task)
        own.under_way += 1
        self._by_tenant[tenant] = own
        task.add_done_callback(lambda done: self._finish(key, done))
        return task

    def _finish(self, key: _Key, task: asyncio.Task[Any]) -> None:
        fingerprint = self._under_way.pop(key).fingerprint
        tenant, request_id = key
        own = self._by_tenant[tenant]
        own.under_way -= 1
        # Asking for the exception also tells asyncio that it was seen, should every caller have gone.
        if task.cancelled() or task.exception() is not None:
            self._drop_if_empty(tenant)
            return
        self._done[key] = _Done(fingerprint, task.result(), self._clock() + self._remember_s)
        own.done.append(request_id)
        own_most = self._limits.of(tenant).max_remembered_requests
        while len(own) > own_most and own.done:
            self._forget_oldest(tenant)
        while len(self) > self._max_requests and self._done:
            self._forget_oldest(max(self._by_tenant, key=self._count_done))

    def _count_done(self, tenant: str) -> int:
        return len(self._by_tenant[tenant].done)

    def _forget_oldest(self, tenant: str) -> None:
        del self._done[tenant, self._by_tenant[tenant].done.popleft()]
        self._drop_if_empty(tenant)

    def _drop_if_empty(self, tenant: str) -> None:
        if not len(self._by_tenant[tenant]):
            del self._by_tenant[tenant]

    def _forget_old(self) -> None:
        now = self._clock()
        while self._done:
            (tenant, _), oldest = next(iter(self._done.items()))
            if oldest.forget_at > now:
                break
            self._forget_oldest(tenant)
