"""How many sessions a tenant has in the store, and how many more it may have there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from cellserve.errors import QuotaExceededError
from cellserve_server.stores.base import Store
from cellserve_server.tenant_limits import MAX_KNOWN_TENANTS, TenantLimits

QUOTA = "max_stored_sessions"
# Counting goes through all of a tenant's records. Between two counts what is made here is added; what ends, and what
# other replicas make, is not known.
RECOUNT_S = 60.0
# How often it is looked whether there is room again, at most.
RECOUNT_FULL_S = 1.0


class StoredQuota:
    """Counts seldom, so the limit is kept roughly: by what other replicas make within ``RECOUNT_S``.

    Args:
        store: where sessions are.
        limits: of tenants.
        clock: seconds, never going back.
    """

    def __init__(self, store: Store, limits: TenantLimits, clock: Callable[[], float]) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()  # by tenant: how many, and when counted

    async def take(self, tenant: str, wanted: int) -> int:
        """How many of so many sessions the tenant may make, which it is then to do.

        Raises:
            StoreUnavailableError: it is not known how many there are.
        """
        most = self._limits.of(tenant).max_stored_sessions
        count, counted_at = self._known.pop(tenant, (0, float("-inf")))
        lasts_s = RECOUNT_S if count + wanted <= most else RECOUNT_FULL_S
        now = self._clock()
        if now - counted_at >= lasts_s:
            count, counted_at = await self._store.count(tenant), now
        given = max(min(wanted, most - count), 0)
        if len(self._known) >= MAX_KNOWN_TENANTS:
            self._known.popitem(last=False)
        self._known[tenant] = (count + given, counted_at)
        return given

    def error(self, tenant: str) -> QuotaExceededError:
        """What is told of a session beyond it."""
        most = self._limits.of(tenant).max_stored_sessions
        return QuotaExceededError(
            f"{QUOTA}: expected at most {most} sessions of this tenant, idle ones in the store too",
            metadata={"quota": QUOTA, "limit": str(most)},
            retry_after_s=RECOUNT_FULL_S,
        )
