"""Steps a second: token buckets, one for all and one for each tenant. Pure: the clock is handed in, nothing waits here.

A bucket is charged once a message, with all steps of it. It may go into debt by one message: who comes then waits until
it is paid, which keeps the rate whatever the messages' sizes; a limit of the burst's size would refuse a message larger
than that for ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from cellserve.errors import QuotaExceededError
from cellserve_server.tenant_limits import MAX_KNOWN_TENANTS, TenantLimits

QUOTA = "max_steps_per_s"
# What may come at once after a pause: so many seconds' worth.
BURST_S = 1.0
# Less is none: a float of unix seconds has a quarter of a microsecond.
NO_DELAY_S = 1e-6


class TokenBucket:
    """Fills at a rate, up to what it holds, from which takers take; it may be in debt.

    Args:
        rate_per_s: tokens a second, above 0.
        now: seconds; it is full now.
    """

    def __init__(self, rate_per_s: float, now: float) -> None:
        self.rate_per_s = rate_per_s
        self._burst = max(rate_per_s * BURST_S, 1.0)
        self._tokens = self._burst
        self._filled_at = now

    def delay_s(self, now: float) -> float:
        """How long who comes now would have to wait, in seconds; 0: not at all."""
        if now > self._filled_at:
            self._tokens = min(self._tokens + (now - self._filled_at) * self.rate_per_s, self._burst)
            self._filled_at = now
        delay_s = -self._tokens / self.rate_per_s
        return delay_s if delay_s > NO_DELAY_S else 0.0

    def take(self, count: int, now: float) -> float:
        """Takes tokens in any case, those that are still to come too; how long they are not there yet, in seconds.

        Who waits so long stands in line: who takes after it waits longer.
        """
        delay_s = self.delay_s(now)
        self._tokens -= count
        return delay_s


class StepRates:
    """The steps a second of all, and of each tenant.

    Args:
        overall: steps a second of all; 0: as many as there are.
        limits: those of tenants.
        clock: seconds, never going back.
    """

    def __init__(self, overall: float, limits: TenantLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._overall = TokenBucket(overall, clock()) if overall else None
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def charge(self, tenant: str, steps: int) -> None:
        """Counts the steps of a call.

        Raises:
            QuotaExceededError: they come too soon, and were not counted; ``retry_after_s`` is when they would not.
        """
        if not self._limits.has_rates or not steps:
            return
        now = self._clock()
        own, limit = self._bucket_of(tenant, now), self._limits.of(tenant).max_steps_per_s
        for bucket, whose in ((own, "of this tenant"), (self._overall, "of all")):
            if bucket is not None and (delay_s := bucket.delay_s(now)):
                raise QuotaExceededError(
                    f"{QUOTA}: expected at most {bucket.rate_per_s:g} steps a second {whose}; these come "
                    f"{delay_s:.3f} s too soon",
                    metadata={"quota": QUOTA, "limit": f"{limit:g}"},
                    retry_after_s=delay_s,
                )
        self._take(own, steps, now)

    def reserve(self, tenant: str, steps: int) -> float:
        """Counts the steps of a stream's message, which come later if they come too soon; how much later, in seconds.

        A stream waits where a call is refused: were one message refused and the next one taken, its sessions would
        have run sequences with holes in them.
        """
        if not self._limits.has_rates or not steps:
            return 0.0
        now = self._clock()
        return self._take(self._bucket_of(tenant, now), steps, now)

    def _take(self, own: TokenBucket | None, steps: int, now: float) -> float:
        return max((bucket.take(steps, now) for bucket in (own, self._overall) if bucket is not None), default=0.0)

    def _bucket_of(self, tenant: str, now: float) -> TokenBucket | None:
        rate = self._limits.of(tenant).max_steps_per_s
        if not rate:
            return None
        bucket = self._buckets.get(tenant)
        if bucket is None or bucket.rate_per_s != rate:
            if bucket is None and len(self._buckets) >= MAX_KNOWN_TENANTS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[tenant] = TokenBucket(rate, now)
        self._buckets.move_to_end(tenant)
        return bucket
