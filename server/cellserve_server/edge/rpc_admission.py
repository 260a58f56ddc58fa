"""How many RPCs are under way, and whether another one may begin."""

from __future__ import annotations

import asyncio
from collections import Counter

from cellserve.errors import QueueFullError
from cellserve_server.tenant_limits import TenantLimits


class RpcAdmission:
    """Counts RPCs, within the limits of all and of each tenant.

    Args:
        limits: of tenants.
        max_rpcs: under way at once, of all.
        retry_s: what RetryInfo says to those above the limits, in seconds.

    Attributes:
        active: RPCs that are under way.
        limits, max_rpcs: as given.
    """

    def __init__(self, limits: TenantLimits, max_rpcs: int, retry_s: float) -> None:
        self.active = 0
        self.limits = limits
        self.max_rpcs = max_rpcs
        self._retry_s = retry_s
        self._awaited = 0
        self._active_by: Counter[str] = Counter()  # by tenant; who has none is not in it
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Waits until none is under way, those apart that nobody waits for."""
        await self._idle.wait()

    def active_of(self, tenant: str) -> int:
        """How many of them are a tenant's."""
        return self._active_by[tenant]

    def enter(self, tenant: str, *, is_awaited: bool = True) -> None:
        """An RPC begins.

        Args:
            is_awaited: whether ``wait_idle`` waits for it.

        Raises:
            QueueFullError: there are as many as there may be.
        """
        own = self.limits.of(tenant).max_concurrent_rpcs
        for active, most, whose in ((self.active, self.max_rpcs, ""), (self._active_by[tenant], own, " of a tenant")):
            if active >= most:
                raise QueueFullError(
                    f"expected at most {most} RPCs{whose} at once (max_concurrent_rpcs); this would be one more",
                    metadata={"quota": "max_concurrent_rpcs", "limit": str(most)},
                    retry_after_s=self._retry_s,
                )
        self.active += 1
        self._active_by[tenant] += 1
        if is_awaited:
            self._awaited += 1
            self._idle.clear()

    def leave(self, tenant: str, *, is_awaited: bool = True) -> None:
        """An RPC that entered ends; the arguments are those of ``enter``."""
        self.active -= 1
        self._active_by[tenant] -= 1
        if not self._active_by[tenant]:
            del self._active_by[tenant]
        if is_awaited:
            self._awaited -= 1
            if self._awaited == 0:
                self._idle.set()
