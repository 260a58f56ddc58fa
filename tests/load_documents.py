"""Documents of load tests as they could have come, drawn from a seed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from cellserve_client.load.document import (
    Client,
    FindMax,
    Kind,
    LoadDocument,
    Second,
    ServerMetrics,
    ServerSecond,
    Slo,
    Stage,
    Target,
    Term,
    Totals,
    Trial,
)
from cellserve_client.load.latencies import Latencies, Sample

STALL_SECOND = 17


@cache
def closed_document(seed: int = 0, seconds: int = 30, median_ms: float = 4.0) -> LoadDocument:
    """Single steps of 64 sessions, each sent when it had its answer; the server's metrics were not read."""
    random = np.random.default_rng(seed)
    whole, timeline = Latencies(), []
    for second in range(seconds):
        own = Sample.of(random.lognormal(np.log(median_ms / 1e3), 0.4, 200).tolist())
        whole.add(own)
        steps = int(random.normal(16_000, 300))
        timeline.append(Second(second, steps, steps, 0, own.at_ms(50), own.at_ms(99), own.at_ms(100), 64, None))
    steps = sum(second.steps for second in timeline)
    return LoadDocument(
        settings={"sessions": 64, "traffic": "step", "transport": "stream", "seconds": float(seconds), "seed": seed},
        server=Target("localhost:50051", "models/speaker-id/versions/1"),
        started="2026-01-02T03:04:05+00:00",
        seconds=float(seconds),
        mode="closed",
        totals=Totals(steps, steps, 0, steps / seconds, steps / seconds, None, 64, steps + 16_000),
        latency_ms=whole.summary(),
        service_ms=whole.summary(),
        percentiles=whole.percentiles(),
        histogram=whole.encoded(),
        by_kind={"step": Kind(steps, steps, 0, whole.summary(), whole.percentiles())},
        timeline=tuple(timeline),
        errors={},
        server_metrics=None,
        client=Client(1, 0.6, 0.8, False, None),
        stages=(Stage(float(seconds), 64, None),),
    )


@cache
def open_document(seed: int = 0) -> LoadDocument:
    """Steps and sequences by a schedule, in two stages, with a stall, errors, an objective, a search and metrics."""
    document = closed_document(seed)
    latency, steps, seconds = document.latency_ms, document.totals.steps, document.seconds
    stalled = [
        replace(second, errors=40, p99_ms=900.0, max_ms=1000.0) if second.second == STALL_SECOND else second
        for second in document.timeline
    ]
    timeline = [
        replace(second, requests=second.steps // 2, offered_per_second=8_000.0, sessions=64 + 4 * second.second)
        for second in stalled
    ]
    requests = sum(second.requests for second in timeline)
    metrics = [
        ServerSecond(second.second, float(second.steps), 40 + second.second % 7, 12.0 + second.second, 64.0, 1.1)
        for second in timeline
    ]
    single, sequences = closed_document(1, 10, 3.0).by_kind["step"], closed_document(2, 10, 9.0).by_kind["step"]
    return replace(
        document,
        settings={**document.settings, "rate": 8_000.0, "arrivals": "poisson", "traffic": "mixed:0.9"},
        mode="open",
        totals=Totals(requests, steps, 40, steps / seconds, requests / seconds, 8_000.0, 180, steps + 16_000),
        by_kind={"step": single, "sequence": sequences},
        timeline=tuple(timeline),
        errors={"QUEUE_FULL": 38, "UNAVAILABLE": 2},
        server_metrics=ServerMetrics(("http://localhost:9464/metrics",), steps + 16_000, tuple(metrics)),
        client=Client(2, 0.97, 12.0, True, "a process used 97 % of a core: more of them, --processes 4, send more"),
        stages=(Stage(10.0, None, 4_000.0), Stage(20.0, None, 8_000.0)),
        slo=Slo(
            "p99<20ms,errors<0.1%", (Term("p99<20ms", latency.p99, True), Term("errors<0.1%", 0.004, False)), False
        ),
        find_max=FindMax(
            4_000.0,
            (
                Trial(2_000.0, True, 4_000.0, replace(latency, p50=2.0, p99=5.0), 0.0),
                Trial(8_000.0, False, 15_000.0, replace(latency, p50=8.0, p99=90.0), 0.004, True),
                Trial(4_000.0, True, 8_000.0, replace(latency, p50=3.0, p99=11.0), 0.0),
            ),
        ),
        failure="0.4% of the requests failed",
    )
