"""How many streams are open, and whether another one may be opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cellserve.errors import QuotaExceededError

STREAMS_RETRY_S = 1.0


class StreamAdmission:
    """Counts streams, within the limits of all and of each tenant.

    Args:
        max_streams: open at once, of all.

    Attributes:
        max_streams: as given.
    """

    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams
        self._open_by: Counter[str] = Counter()  # by tenant; who has none is not in it

    def __len__(self) -> int:
        return self._open_by.total()

    @contextmanager
    def stream(self, tenant: str, most_of_tenant: int) -> Iterator[None]:
        """A tenant's stream is open for the block.

        Raises:
            QuotaExceededError: there are as many as may be, of all or of the tenant.
        """
        of_all, of_tenant = (len(self), self.max_streams, ""), (self._open_by[tenant], most_of_tenant, " of a tenant")
        for have, most, whose in (of_all, of_tenant):
            if have >= most:
                raise QuotaExceededError(
                    f"expected at most {most} streams{whose} at once (max_streams); this would be one more",
                    metadata={"quota": "max_streams", "limit": str(most)},
                    retry_after_s=STREAMS_RETRY_S,
                )
        self._open_by[tenant] += 1
        try:
            yield
        finally:
            self._open_by[tenant] -= 1
            if not self._open_by[tenant]:
                del self._open_by[tenant]
