"""Metrics of identity: who was not let in, and why. Neither tenants nor what was shown are told apart."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter

OUTCOMES = ("ok", "failed")


class IdentityMetrics:
    """Counts refusals and files that were read again.

    Args:
        registry: where its metrics are shown.
        refusals: why credentials may be refused.
    """

    def __init__(self, registry: CollectorRegistry, refusals: Sequence[str]) -> None:
        refused = Counter(
            "cellserve_authentication_failures",
            "Requests without good credentials, by reason.",
            ("reason",),
            registry=registry,
        )
        self._refused = {why: refused.labels(why) for why in refusals}
        reloads = Counter(
            "cellserve_identity_reloads",
            "Times that changed files of tokens and keys were read: failed leaves what was before in use.",
            ("outcome",),
            registry=registry,
        )
        self._reloads = {outcome: reloads.labels(outcome) for outcome in OUTCOMES}

    def refused(self, why: str) -> None:
        """Somebody was not let in, or not any longer."""
        self._refused[why].inc()

    def reloaded(self, is_good: bool) -> None:
        """A changed file was read."""
        self._reloads["ok" if is_good else "failed"].inc()
