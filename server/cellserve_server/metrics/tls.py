"""Metrics of TLS. There are none where it is not spoken."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

OUTCOMES = ("ok", "failed")


class TlsMetrics:
    """Until when the server's certificate is good, and whether changed ones could be used.

    Args:
        registry: where its metrics are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._expiry = Gauge(
            "cellserve_tls_certificate_expiry_seconds",
            "Until when the server's certificate is good, in unix time.",
            registry=registry,
        )
        reloads = Counter(
            "cellserve_tls_reloads",
            "Times that changed files were read, by outcome: failed leaves those before in use.",
            ("outcome",),
            registry=registry,
        )
        self._reloads = {outcome: reloads.labels(outcome) for outcome in OUTCOMES}

    def watch(self, *, expiry: Callable[[], float]) -> None:
        """Says where a gauge gets its value from. Called by another thread."""
        self._expiry.set_function(expiry)

    def reloaded(self, outcome: str) -> None:
        """Changed files were read: ``ok``, or ``failed``."""
        self._reloads[outcome].inc()
