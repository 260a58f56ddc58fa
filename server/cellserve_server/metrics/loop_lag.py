"""How late the event loop comes to what is due: every session waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Gauge

from cellserve_server.metrics.tallies import TalliedHistogram

# No timer of an idle server rings more often.
SAMPLE_S = 1.0
KEPT_SAMPLES = 60
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """Samples how late the loop is.

    Args:
        registry: where its metrics are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        histogram = TalliedHistogram(
            "cellserve_loop_lag_seconds",
            "How late the event loop came to what was due, once a second.",
            (),
            LAG_SECONDS,
            registry,
        )
        self._lags = histogram.labels()
        self._recent: deque[float] = deque(maxlen=KEPT_SAMPLES)
        longest = Gauge("cellserve_loop_lag_max_seconds", "The longest of these in the last minute.", registry=registry)
        longest.set_function(lambda: max(self._recent.copy(), default=0.0))

    async def sample(self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        """Samples until it is cancelled.

        Args:
            clock: seconds, never going back.
            sleep: as ``asyncio.sleep``, on this clock.
        """
        while True:
            due = clock() + SAMPLE_S
            await sleep(SAMPLE_S)
            lag_s = max(clock() - due, 0.0)
            self._lags.observe(lag_s)
            self._recent.append(lag_s)
