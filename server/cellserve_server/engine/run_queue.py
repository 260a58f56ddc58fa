"""How much work is under way, whose it is, and who waits for room.

Streams wait for room and calls are refused, both beyond the limits of all, and beyond their tenant's. Streams fill at
most three quarters; only who has less than an equal part of the queue is let in beyond that, and beside those who wait.
So who comes to a queue that others keep full does not wait for them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import NamedTuple

from cellserve.errors import QueueFullError
from cellserve_server.config import ServerConfig
from cellserve_server.keys import NOBODY, Client
from cellserve_server.tenant_limits import TenantLimits

# Streams, which wait for room, leave a part of the queue to those who send single calls, which are refused.
STREAM_SHARE = 0.75


class _Turn(NamedTuple):
    """Somebody who waits for room."""

    granted: asyncio.Future[None]
    runs: int
    size_bytes: int
    client: Client


class _UnderWay:
    """What a tenant, or one of its clients, has under way.

    Attributes:
        runs, size_bytes: as of ``RunQueue``.
        clients: a tenant's, by their connections.
    """

    __slots__ = ("clients", "runs", "size_bytes")

    def __init__(self) -> None:
        self.runs = 0
        self.size_bytes = 0
        self.clients: dict[str, _UnderWay] = {}


class RunQueue:
    """Counts the runs under way (the steps of blocks among them) and their bytes, within limits.

    Args:
        config: the limits.
        limits: those of tenants; None: as the settings say.

    Attributes:
        runs: that wait or are under way.
        size_bytes: of their inputs, outputs and working states.
        idle: set while there is none.
        stream_runs, stream_bytes: what streams fill at most.
    """

    def __init__(self, config: ServerConfig, limits: TenantLimits | None = None) -> None:
        self.runs = 0
        self.size_bytes = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._config = config
        self._limits = limits or TenantLimits(config)
        self._tenants: dict[str, _UnderWay] = {}
        self._lines: OrderedDict[str, deque[_Turn]] = OrderedDict()  # by tenant; none is empty
        self._is_granted = False  # Somebody has room and has not used it yet.
        self._is_closed = False
        self.stream_runs = int(config.max_queued_runs * STREAM_SHARE)
        self.stream_bytes = int(config.max_queued_bytes * STREAM_SHARE)

    def add(self, runs: int, size_bytes: int, client: Client = NOBODY) -> None:
        """So many runs are under way from now on."""
        self.runs += runs
        self.size_bytes += size_bytes
        self.idle.clear()
        tenant = self._tenants.setdefault(client.tenant, _UnderWay())
        tenant.runs += runs
        tenant.size_bytes += size_bytes
        own = tenant.clients.setdefault(client.connection, _UnderWay())
        own.runs += runs
        own.size_bytes += size_bytes

    def remove(self, runs: int, size_bytes: int, client: Client = NOBODY) -> None:
        """So many are over."""
        self.runs -= runs
        self.size_bytes -= size_bytes
        if not self.runs:
            self.idle.set()
        tenant = self._tenants[client.tenant]
        tenant.runs -= runs
        tenant.size_bytes -= size_bytes
        own = tenant.clients[client.connection]
        own.runs -= runs
        own.size_bytes -= size_bytes
        if not own.runs:
            del tenant.clients[client.connection]
            if not tenant.runs:
                del self._tenants[client.tenant]
        if self._lines:
            self._grant()

    @property
    def tenants(self) -> int:
        """How many tenants have any under way."""
        return len(self._tenants)

    def runs_of(self, tenant: str) -> int:
        """How many runs of a tenant wait or are under way."""
        under_way = self._tenants.get(tenant)
        return 0 if under_way is None else under_way.runs

    def require_room(self, size_bytes: int, client: Client = NOBODY) -> None:
        """Refuses one run more when the queue is full. Where there is none, any is taken.

        Raises:
            QueueFullError: with what there is and what the limits are.
        """
        if not self.runs:
            return
        most_runs, most_bytes = self._config.max_queued_runs, self._config.max_queued_bytes
        if self._lines and not self._is_modest(1, size_bytes, client):
            # Streams wait. Calls that fill up whatever becomes free would have them wait for ever.
            most_runs, most_bytes = max(most_runs - self.stream_runs, 1), max(most_bytes - self.stream_bytes, 1)
        if self.runs >= most_runs or self.size_bytes + size_bytes > most_bytes:
            raise self.full(f"{self.runs} of {most_runs} runs, {self.size_bytes} of {most_bytes} bytes", most_runs)
        tenant, own = self._tenants.get(client.tenant), self._limits.of(client.tenant)
        if tenant is None:
            return
        most_runs, most_bytes = own.max_queued_runs, own.max_queued_bytes
        if tenant.runs >= most_runs or tenant.size_bytes + size_bytes > most_bytes:
            of_these = f"{tenant.runs} of {most_runs} runs, {tenant.size_bytes} of {most_bytes} bytes"
            raise self.full(f"{of_these} that this tenant may have in it", most_runs)

    def full(self, how: str, limit: int) -> QueueFullError:
        """What is told where there is no room."""
        return QueueFullError(
            f"the queue is full: {how}",
            metadata={"quota": "max_queued_runs", "limit": str(limit)},
            retry_after_s=self._config.queue_full_retry_ms / 1000,
        )

    async def wait_for_room(self, runs: int, size_bytes: int, client: Client = NOBODY) -> None:
        """Waits until a stream may add so many runs, which it is to do at once.

        Of a tenant's streams those who came before come first; tenants take turns.

        Returns at once when the queue is closed: adding is refused then.
        """
        if self._is_closed or self._is_let_in(runs, size_bytes, client, is_first=not self._lines):
            return
        turn = _Turn(asyncio.get_running_loop().create_future(), runs, size_bytes, client)
        self._lines.setdefault(client.tenant, deque()).append(turn)
        try:
            await turn.granted
        finally:
            if turn in self._lines.get(client.tenant, ()):
                self._leave_line(turn)
            else:
                self._is_granted = False
            # After what the one who goes on now adds.
            asyncio.get_running_loop().call_soon(self._grant)

    def close(self) -> None:
        """Nobody waits for room any more: the server stops."""
        self._is_closed = True
        self._grant()

    def _is_let_in(self, runs: int, size_bytes: int, client: Client, *, is_first: bool) -> bool:
        """Whether a stream may add so much now; behind others only if it is modest."""
        if self._is_modest(runs, size_bytes, client):
            return self._is_within_tenants(runs, size_bytes, client.tenant, 1.0)
        has_room = is_first and self._has_stream_room(runs, size_bytes)
        return has_room and self._is_within_tenants(runs, size_bytes, client.tenant, STREAM_SHARE)

    def _has_stream_room(self, runs: int, size_bytes: int) -> bool:
        return not self.runs or (
            self.runs + runs <= self.stream_runs and self.size_bytes + size_bytes <= self.stream_bytes
        )

    def _is_within_tenants(self, runs: int, size_bytes: int, tenant: str, share: float) -> bool:
        """Whether that is within a share of what a tenant may have; one that has nothing may have anything."""
        under_way = self._tenants.get(tenant)
        if under_way is None:
            return True
        own = self._limits.of(tenant)
        return (
            under_way.runs + runs <= own.max_queued_runs * share
            and under_way.size_bytes + size_bytes <= own.max_queued_bytes * share
        )

    def _is_modest(self, runs: int, size_bytes: int, client: Client) -> bool:
        """Whether there is room for a client that would have less than an equal part of the queue with this."""
        tenant = self._tenants.get(client.tenant)
        own = None if tenant is None else tenant.clients.get(client.connection)
        clients = 1 if tenant is None else len(tenant.clients) + (own is None)
        # A part more than there are clients, so that one who has none yet finds some.
        parts = (len(self._tenants) + (tenant is None)) * clients + 1
        have_runs, have_bytes = (0, 0) if own is None else (own.runs, own.size_bytes)
        most_runs, most_bytes = self._config.max_queued_runs, self._config.max_queued_bytes
        return (
            max(self.runs + runs, (have_runs + runs) * parts) <= most_runs
            and max(self.size_bytes + size_bytes, (have_bytes + size_bytes) * parts) <= most_bytes
        )

    def _grant(self) -> None:
        if self._is_granted:
            return
        is_first = True
        for tenant, line in self._lines.items():
            _, runs, size_bytes, client = turn = line[0]
            if self._is_closed or self._is_let_in(runs, size_bytes, client, is_first=is_first):
                self._leave_line(turn)
                self._is_granted = True
                if not turn.granted.done():
                    turn.granted.set_result(None)
                return
            if self._is_within_tenants(runs, size_bytes, tenant, STREAM_SHARE):
                is_first = False  # It waits for the others: small ones that keep coming would starve it.

    def _leave_line(self, turn: _Turn) -> None:
        """Takes somebody out of line; the tenant's next one comes after those of the others."""
        tenant = turn.client.tenant
        line = self._lines[tenant]
        line.remove(turn)
        if line:
            self._lines.move_to_end(tenant)
        else:
            del self._lines[tenant]
