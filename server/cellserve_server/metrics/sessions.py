"""Metrics of sessions, and of what was refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from cellserve.errors import all_reasons
from cellserve_server.metrics.counts import CountsByLabel

# Why sessions end, and, from ``evicted`` on, only leave memory for the store.
ENDINGS = ("expired", "deleted", "unloaded", "evicted", "moved", "doubted", "released")
OTHER_REASONS = "other"
# What a session was taken from the store after: nobody held it, its holder let it go, or did not (which may be this
# server before a restart, or before it sent the session away).
CLAIMS = ("free", "released", "fenced")


class SessionMetrics:
    """Counts sessions, and errors that were answered.

    All children are there from the start: what comes into being with its first event has no rate for it.

    Args:
        registry: where its metrics are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._sessions = Gauge("cellserve_sessions", "Sessions in memory.", registry=registry)
        self._state_bytes = Gauge("cellserve_state_bytes", "Bytes of these sessions' states.", registry=registry)
        self._slab_bytes = Gauge("cellserve_slab_bytes", "Bytes set aside for states.", registry=registry)
        self._slab_rows = Gauge("cellserve_slab_rows", "Rows set aside for states.", registry=registry)
        self._created = Counter("cellserve_sessions_created", "Sessions made.", registry=registry)
        ended = Counter(
            "cellserve_sessions_ended",
            "Sessions that ended, or left memory for the store, by reason.",
            ("reason",),
            registry=registry,
        )
        self._ended = {reason: ended.labels(reason) for reason in ENDINGS}
        claims = Counter(
            "cellserve_sessions_claimed", "Sessions taken from the store, by how.", ("how",), registry=registry
        )
        self._claims = {how: claims.labels(how) for how in CLAIMS}
        refusals = Counter("cellserve_refusals", "Errors answered, by reason.", ("reason",), registry=registry)
        self._refusals = {reason: refusals.labels(reason) for reason in (*sorted(all_reasons()), OTHER_REASONS)}

    def watch(
        self,
        *,
        sessions: Callable[[], int],
        state_bytes: Callable[[], int],
        slab_bytes: Callable[[], int],
        slab_rows: Callable[[], int],
    ) -> None:
        """Says where gauges get their values from. Called by another thread: the functions read one number each."""
        self._sessions.set_function(sessions)
        self._state_bytes.set_function(state_bytes)
        self._slab_bytes.set_function(slab_bytes)
        self._slab_rows.set_function(slab_rows)

    def watch_models(self, count_by_model: Callable[[], Mapping[str, int]]) -> None:
        """Says where the numbers of sessions by model come from. Called by another thread. Once only."""
        self._registry.register(
            CountsByLabel("cellserve_model_sessions", "Sessions in memory, by model.", "model", count_by_model)
        )

    def session_created(self) -> None:
        """A session was made."""
        self._created.inc()

    def session_ended(self, reason: str) -> None:
        """A session ended (``expired``, ``deleted``, ``unloaded``) or left memory for the store (``evicted``, ...)."""
        self._ended[reason].inc()

    def claimed(self, how: str) -> None:
        """A session was taken from the store: ``free``, ``released`` by its holder, or ``fenced``."""
        self._claims[how].inc()

    def refused(self, reason: str) -> None:
        """A request, or a part of one, was answered with an error of this reason."""
        self._refusals.get(reason, self._refusals[OTHER_REASONS]).inc()
