"""What the server does, second by second, for the last minutes: what the live charts show."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client.metrics_core import Metric

from cellserve_server.metrics.metrics import Metrics

SAMPLE_S = 1.0
SAMPLES_KEPT = 600
LATENCY = "cellserve_run_seconds"
NAMES = ("steps_total", "tick_rows_count", "tick_rows_sum", "sessions", "queue_runs")


class Reading(NamedTuple):
    """Counts since the server began, and what there is now.

    Attributes:
        steps: applied, by model.
        ticks, rows: passes of the engine, and the rows that they stepped.
        latencies: of steps; by the bounds of their buckets, ascending, in seconds, the last one infinite: how many were
            at most as long. Empty: there was none.
        sessions, queue_runs: how many there are.
    """

    steps: Mapping[str, float]
    ticks: float
    rows: float
    latencies: Mapping[float, float]
    sessions: float
    queue_runs: float


class Sample(NamedTuple):
    """A second.

    Attributes:
        time_s: its end, unix seconds.
        steps: a second, by model; those that made none are left out.
        p50_s, p99_s: what half, and all but a hundredth, took at most; None: there was none.
        tick_rows: rows of a tick, on average; None: there was none.
        ticks: a second.
        sessions, queue_runs: at its end.
    """

    time_s: float
    steps: dict[str, float]
    p50_s: float | None
    p99_s: float | None
    tick_rows: float | None
    ticks: float
    sessions: float
    queue_runs: float


class Sampler:
    """Takes a sample each second, in a thread of its own, as Prometheus would if it asked.

    Args:
        read: what there is; called by that thread.
        clock: unix seconds, never going back.
    """

    def __init__(self, read: Callable[[], Reading], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self._lock = threading.Lock()
        self._last: tuple[float, Reading] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cellserve-inspector", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, and waits for the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def since(self, time_s: float) -> list[Sample]:
        """The samples that are there and end after this time, the oldest first. May be called by any thread."""
        with self._lock:
            return [sample for sample in self._samples if sample.time_s > time_s]

    def take(self) -> None:
        """Takes a sample: of what has changed since the last one."""
        now, reading = self._clock(), self._read()
        before, self._last = self._last, (now, reading)
        if before is not None and now > before[0]:
            sample = _difference(before[1], reading, now, now - before[0])
            with self._lock:
                self._samples.append(sample)

    def _run(self) -> None:
        self.take()
        while not self._stopping.wait(SAMPLE_S):
            self.take()


def _difference(before: Reading, after: Reading, now: float, seconds: float) -> Sample:
    ticks = after.ticks - before.ticks
    latencies = {bound: count - before.latencies.get(bound, 0.0) for bound, count in after.latencies.items()}
    steps = {model: (count - before.steps.get(model, 0.0)) / seconds for model, count in after.steps.items()}
    return Sample(
        now,
        {model: rate for model, rate in steps.items() if rate},
        quantile(latencies, 0.5),
        quantile(latencies, 0.99),
        (after.rows - before.rows) / ticks if ticks else None,
        ticks / seconds,
        after.sessions,
        after.queue_runs,
    )


def quantile(counts: Mapping[float, float], part: float) -> float | None:
    """What ``part`` of the observations are at most, by a histogram; between bounds they are taken to lie evenly.

    Args:
        counts: by the bounds of its buckets, ascending, the last one infinite: how many observations were at most as
            large. What is above the last finite bound counts as that.

    Returns:
        None: there were none.
    """
    rank = part * max(counts.values(), default=0.0)
    low = below = 0.0
    for bound, count in counts.items():
        if count >= rank > 0:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return None


def reader_of(metrics: Metrics) -> Callable[[], Reading]:
    """Reads a server's metrics."""
    wanted = metrics.registry.restricted_registry(
        [*(f"cellserve_{name}" for name in NAMES), *(f"{LATENCY}_{part}" for part in ("bucket", "count", "sum"))]
    )

    return lambda: reading_of(wanted.collect(), LATENCY)


def reading_of(metrics: Iterable[Metric], latency: str) -> Reading:
    """The reading in what a registry of the server's metrics gives.

    Args:
        latency: the histogram of latencies, by its name.
    """
    sums: dict[str, float] = {}
    steps: dict[str, float] = {}
    buckets: dict[float, float] = {}
    for metric in metrics:
        for sample in metric.samples:
            if sample.labels.get("kind", "step") != "step":
                continue  # A sequence takes as long as it is.
            if sample.name == f"{latency}_bucket":
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
            elif sample.name == "cellserve_steps_total":
                steps[sample.labels["model"]] = steps.get(sample.labels["model"], 0.0) + sample.value
            else:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return Reading(
        steps,
        sums.get("cellserve_tick_rows_count", 0.0),
        sums.get("cellserve_tick_rows_sum", 0.0),
        dict(sorted(buckets.items())),
        sums.get("cellserve_sessions", 0.0),
        sums.get("cellserve_queue_runs", 0.0),
    )
