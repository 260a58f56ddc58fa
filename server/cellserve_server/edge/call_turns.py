"""Whose unary call is looked at next, while several tenants use the server.

grpc hands calls over in the order in which they came, whoever sent them, and slowly. A tenant that has hundreds under
way, each sent again as soon as it is answered, would have hundreds before every call of another one. So while there are
others few of a tenant's calls are worked on at once; the rest wait here, where they are in nobody's way, and not in
grpc's line. Calls that take long, as those of sequences do, hold nobody up: after a while they do not count any more.
So long do those count that were refused, which cost as much as others: they come again at once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cellserve.errors import QueueFullError

# Calls of one tenant that are worked on while there are others. No more than grpc hands over meanwhile: else its line,
# where nobody takes turns, is the longer one.
MOST_AT_ONCE = 2
LONG_S = 0.02


class _Tenant:
    """What a tenant has.

    Attributes:
        at_work: calls whose turn it is, by when it came, the oldest first; without those that take long.
        line: calls that wait, each with the bytes of its request.
        line_bytes: of all of them.
        timer: forgets those at work that take long; there is one while there is a line, or one that was refused.
    """

    __slots__ = ("at_work", "line", "line_bytes", "name", "timer")

    def __init__(self, name: str) -> None:
        self.name = name
        self.at_work: dict[object, float] = {}
        self.line: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self.line_bytes = 0
        self.timer: asyncio.TimerHandle | None = None


class CallTurns:
    """Lets unary calls in.

    Args:
        is_shared: whether several tenants have work in the engine; tenants with calls here are known.
        most_bytes: of a tenant's requests that wait.
        retry_s: what RetryInfo says to those beyond, in seconds.

    Attributes:
        waiting: calls that wait for their turn.
    """

    def __init__(self, is_shared: Callable[[], bool], most_bytes: Callable[[str], int], retry_s: float) -> None:
        self._has_shared_work = is_shared
        self._most_bytes = most_bytes
        self._retry_s = retry_s
        self.waiting = 0
        self._tenants: dict[str, _Tenant] = {}  # those that have calls

    @asynccontextmanager
    async def turn(self, name: str, size_bytes: int) -> AsyncIterator[None]:
        """Waits for the turn of a tenant's call; it is the call's for the block.

        Args:
            size_bytes: of its request.

        Raises:
            QueueFullError: the requests of this tenant that wait are too large.
        """
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(name)
        call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        has_to_wait = len(tenant.at_work) >= MOST_AT_ONCE and self._is_shared()
        if has_to_wait:
            self._forget_long(tenant)
            has_to_wait = len(tenant.at_work) >= MOST_AT_ONCE
        if has_to_wait or tenant.line:
            self._require_room(tenant, size_bytes)
            tenant.line[call] = size_bytes
            tenant.line_bytes += size_bytes
            self.waiting += 1
            self._watch(tenant)
        else:
            self._let_in(tenant, call)
        is_over = True
        try:
            await call
            yield
        except QueueFullError:
            is_over = not self._is_shared()
            raise
        finally:
            if call in tenant.line:  # Its caller has gone.
                self._leave_line(tenant, call)
            if is_over:
                tenant.at_work.pop(call, None)
                self._move_up(tenant)
                self._forget_empty(tenant)
            elif tenant.at_work:
                self._watch(tenant)

    def _is_shared(self) -> bool:
        return len(self._tenants) > 1 or self._has_shared_work()

    def _require_room(self, tenant: _Tenant, size_bytes: int) -> None:
        most = self._most_bytes(tenant.name)
        if tenant.line and tenant.line_bytes + size_bytes > most:
            raise QueueFullError(
                f"the queue is full: the calls of this tenant that wait have {tenant.line_bytes} of {most} bytes",
                metadata={"quota": "max_queued_bytes", "limit": str(most)},
                retry_after_s=self._retry_s,
            )

    def _let_in(self, tenant: _Tenant, call: asyncio.Future[None]) -> None:
        tenant.at_work[call] = asyncio.get_running_loop().time()
        call.set_result(None)

    def _move_up(self, tenant: _Tenant) -> None:
        """Lets in as many as may be at work."""
        while tenant.line and (len(tenant.at_work) < MOST_AT_ONCE or not self._is_shared()):
            call = next(iter(tenant.line))
            self._leave_line(tenant, call)
            if not call.done():  # Else its caller has gone.
                self._let_in(tenant, call)

    def _leave_line(self, tenant: _Tenant, call: asyncio.Future[None]) -> None:
        tenant.line_bytes -= tenant.line.pop(call)
        self.waiting -= 1

    def _forget_empty(self, tenant: _Tenant) -> None:
        if tenant.at_work or tenant.line:
            return
        if tenant.timer is not None:
            tenant.timer.cancel()
            tenant.timer = None
        if self._tenants.get(tenant.name) is tenant:
            del self._tenants[tenant.name]

    def _watch(self, tenant: _Tenant) -> None:
        if tenant.timer is None:
            oldest = next(iter(tenant.at_work.values()))
            tenant.timer = asyncio.get_running_loop().call_at(oldest + LONG_S, self._leave_out_long, tenant)

    def _leave_out_long(self, tenant: _Tenant) -> None:
        tenant.timer = None
        self._forget_long(tenant)
        self._move_up(tenant)
        self._forget_empty(tenant)
        if tenant.at_work:
            self._watch(tenant)

    @staticmethod
    def _forget_long(tenant: _Tenant) -> None:
        long_ago = asyncio.get_running_loop().time() - LONG_S
        for call in list(itertools.takewhile(lambda call: tenant.at_work[call] <= long_ago, tenant.at_work)):
            del tenant.at_work[call]
