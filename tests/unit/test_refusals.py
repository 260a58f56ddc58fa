"""Errors that were answered: counted by reason, and logged now and then."""

from __future__ import annotations

import structlog
from structlog.testing import capture_logs

from cellserve.errors import (
    DeadlineExceededError,
    FieldInvalidError,
    InternalError,
    QueueFullError,
    QuotaExceededError,
)
from cellserve_server.edge.refusals import LOG_INTERVAL_S, Refusals
from cellserve_server.incidents import internal_error
from cellserve_server.metrics import Metrics
from tests.clocks import ManualClock


def _count(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("cellserve_refusals_total", {"reason": reason})


def test_every_reason_is_counted_and_overload_is_logged_now_and_then(clock: ManualClock) -> None:
    metrics = Metrics()
    with capture_logs() as lines:
        refusals = Refusals(metrics.sessions, clock)
        for _ in range(5):
            refusals.note(QueueFullError("full"))
        refusals.note(QuotaExceededError("too many"))
        refusals.note(FieldInvalidError("wrong"))
        refusals.note(DeadlineExceededError("late"))
        clock.advance(LOG_INTERVAL_S)
        refusals.note(QueueFullError("still full"))
    assert [(line["event"], line["reason"], line["count"], line["last"]) for line in lines] == [
        ("refused", "QUEUE_FULL", 1, "full"),
        ("refused", "QUOTA_EXCEEDED", 1, "too many"),
        ("refused", "QUEUE_FULL", 5, "still full"),
    ]
    counts = {reason: _count(metrics, reason) for reason in ("QUEUE_FULL", "QUOTA_EXCEEDED", "FIELD_INVALID", "other")}
    assert counts == {"QUEUE_FULL": 6, "QUOTA_EXCEEDED": 1, "FIELD_INVALID": 1, "other": 0}


def test_reasons_that_are_not_ours_share_a_label() -> None:
    metrics = Metrics()
    for reason in ("NEWER", "NEWEST"):
        metrics.sessions.refused(reason)
    assert _count(metrics, "other") == 2
    assert _count(metrics, "NEWER") is None


def test_the_slab_is_watched() -> None:
    metrics = Metrics()
    metrics.sessions.watch(sessions=lambda: 0, state_bytes=lambda: 0, slab_bytes=lambda: 640, slab_rows=lambda: 10)
    assert metrics.registry.get_sample_value("cellserve_slab_bytes") == 640
    assert metrics.registry.get_sample_value("cellserve_slab_rows") == 10


def test_an_incident_is_logged_whole_and_answered_with_an_id() -> None:
    with capture_logs() as lines:
        bug = RuntimeError("the secret inside")
        error = internal_error(structlog.get_logger("test"), lambda: "id-7", bug, {"method": "Step"})
    assert isinstance(error, InternalError)
    assert error.message == "internal error id-7; the server's log says more"
    assert error.metadata == {"incident": "id-7"}
    (line,) = lines
    assert (line["event"], line["incident"], line["method"], line["exc_info"]) == (
        "internal_error",
        "id-7",
        "Step",
        bug,
    )
