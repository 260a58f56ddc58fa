"""Errors that were answered: all are counted, and those that tell of overload are logged now and then."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from cellserve.errors import CellServeError, QueueFullError, QuotaExceededError
from cellserve_server.metrics import SessionMetrics

LOGGED_REASONS = (QueueFullError.reason, QuotaExceededError.reason)
LOG_INTERVAL_S = 10.0


class Refusals:
    """Told of every error that a caller gets, whether as an RPC's status or as a part of a stream's answer.

    Args:
        metrics: counts them.
        clock: seconds, never going back; a reason is logged at most once in ``LOG_INTERVAL_S``.
    """

    def __init__(self, metrics: SessionMetrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._log = structlog.get_logger("cellserve.refusals")
        self._unlogged = dict.fromkeys(LOGGED_REASONS, 0)
        self._log_at = dict.fromkeys(LOGGED_REASONS, float("-inf"))

    def note(self, error: CellServeError) -> None:
        """A caller gets this error; one without a reason is none of ours to count."""
        reason = error.reason
        if not reason:
            return
        self._metrics.refused(reason)
        if reason not in self._unlogged:
            return
        self._unlogged[reason] += 1
        now = self._clock()
        if now >= self._log_at[reason]:
            self._log.warning("refused", reason=reason, count=self._unlogged[reason], last=error.message)
            self._unlogged[reason] = 0
            self._log_at[reason] = now + LOG_INTERVAL_S
