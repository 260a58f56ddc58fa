"""Whether several tenants share the server just now."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

# So long a tenant counts as one of those who share, after it has brought work.
LATELY_S = 2.0


class Sharing:
    """Notes who brings work.

    Args:
        under_way: how many tenants have work under way.
        clock: seconds, never going back.
    """

    def __init__(self, under_way: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._under_way = under_way
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()  # when each tenant last brought work, the latest at the end

    def note(self, tenant: str) -> None:
        """A tenant has brought work."""
        self._seen[tenant] = self._clock()
        self._seen.move_to_end(tenant)
        self._forget_old()

    @property
    def is_shared(self) -> bool:
        """Whether several tenants have work under way, or have brought some lately."""
        if self._under_way() > 1:
            return True
        if len(self._seen) > 1:
            self._forget_old()
        return len(self._seen) > 1

    def _forget_old(self) -> None:
        long_ago = self._clock() - LATELY_S
        while next(iter(self._seen.values())) < long_ago and len(self._seen) > 1:
            self._seen.popitem(last=False)
