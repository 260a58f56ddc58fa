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
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()  # when each tenant last brought work, the latest at the end

    def note(self, tenant: str) -> None:
        """A tenant has brought work."""
        self._seen[tenant] = self._clock()
        self._seen.move_to_end(tenant)

    @property
    def is_shared(self) -> bool:
        """Whether several tenants have brought work lately."""
        if len(self._seen) < 2:
            return False
        long_ago = self._clock() - LATELY_S
        while len(self._seen) > 1 and next(iter(self._seen.values())) < long_ago:
            self._seen.popitem(last=False)
        return len(self._seen) > 1
