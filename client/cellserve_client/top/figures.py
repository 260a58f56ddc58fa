"""What is shown: rates, latencies and ages, computed from two readings. Pure.

What is not known is None: what only a page of metrics tells where there is none, and rates as long as there is one
reading alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cellserve_client.models import ModelInfo
from cellserve_client.server_metrics import Change, Snapshot
from cellserve_client.session_info import SessionInfo
from cellserve_client.top.reading import Reading, ReplicaReading

# What metrics call all models that clients defined.
DEFINED = "defined"
FAILED_OUTCOMES = ("error", "deadline")


@dataclass(frozen=True)
class ReplicaFigures:
    """One server.

    Attributes:
        address: ``host:port``.
        status: ``serving``, ``not serving`` (it loads, or has lost its store), ``draining``, ``refused`` (it does not
            answer us), or ``away``.
        trouble: why it does not answer; empty: it does.
        version: of the server.
        up_s: for how long its process has run, in seconds.
        steps_per_second: between the readings.
        p50_s, p99_s: of runs, from arrival to answer, between the readings, in seconds.
        queue_runs: runs that wait or are under way.
        sessions: in memory.
        state_bytes: of their states.
        rss_bytes: the process's memory.
    """

    address: str
    status: str
    trouble: str
    version: str | None
    up_s: float | None
    steps_per_second: float | None
    p50_s: float | None
    p99_s: float | None
    queue_runs: int | None
    sessions: int | None
    state_bytes: int | None
    rss_bytes: int | None


@dataclass(frozen=True)
class ModelFigures:
    """One model of all servers; those that clients defined are together one, as they are in metrics.

    Attributes:
        name: of the model.
        versions: how many there are.
        broken: how many of them could not be loaded.
        steps_per_second, errors_per_second: between the readings; errors are runs that failed or came too late.
        rows_per_tick: the mean batch.
        tick_s: what a tick took on the mean, in seconds.
        sessions: in memory.
    """

    name: str
    versions: int
    broken: int
    steps_per_second: float | None
    rows_per_tick: float | None
    tick_s: float | None
    sessions: int | None
    errors_per_second: float | None


@dataclass(frozen=True)
class SessionFigures:
    """One session.

    Attributes:
        id: its id.
        replica: the address of the server that has it.
        model: its model version, as ``name/versions/1``.
        rows: its batch size; None: one row, without a batch dimension.
        steps: its step count.
        steps_per_second: lately, as its server says.
        idle_s: since it was used, in seconds.
        expires_in_s: until it goes if nobody uses it, in seconds.
        age_s: since it was made, in seconds.
    """

    id: str
    replica: str
    model: str
    rows: int | None
    steps: int
    steps_per_second: float
    idle_s: float
    expires_in_s: float
    age_s: float


@dataclass(frozen=True)
class Figures:
    """All that is shown of one moment.

    Attributes:
        time: unix seconds.
        steps_per_second: of all servers.
        notes: what is missing, in sentences.
    """

    time: float
    steps_per_second: float | None
    replicas: tuple[ReplicaFigures, ...]
    models: tuple[ModelFigures, ...]
    sessions: tuple[SessionFigures, ...]
    notes: tuple[str, ...]


def figures_of(reading: Reading, before: Reading | None) -> Figures:
    """What a reading says, with what has changed since the one before; None: there was none."""
    earlier = {} if before is None else {replica.address: replica.page for replica in before.replicas}
    changes = {
        replica.address: Change(page, replica.page)
        for replica in reading.replicas
        if replica.page is not None and (page := earlier.get(replica.address)) is not None
    }
    replicas = tuple(
        _replica_figures(replica, reading.time, changes.get(replica.address)) for replica in reading.replicas
    )
    sessions = ((replica.address, info) for replica in reading.replicas for info in replica.sessions)
    return Figures(
        reading.time,
        _sum(replica.steps_per_second for replica in replicas),
        replicas,
        tuple(_models_figures(reading.replicas, list(changes.values()))),
        tuple(_session_figures(*pair, reading.time) for pair in reading.asked.ordered(sessions)),
        tuple(_notes(reading.replicas)),
    )


def _replica_figures(replica: ReplicaReading, now: float, change: Change | None) -> ReplicaFigures:
    page = replica.page
    started = None if page is None else page.value("process_start_time_seconds")
    return ReplicaFigures(
        replica.address,
        _status(replica),
        replica.trouble,
        version=None if page is None else next(iter(page.by_label("cellserve_build_info", "version")), None),
        up_s=None if started is None else max(now - started, 0.0),
        steps_per_second=None if change is None else change.rate("cellserve_steps_total"),
        p50_s=None if change is None else change.quantile("cellserve_run_seconds", 0.5),
        p99_s=None if change is None else change.quantile("cellserve_run_seconds", 0.99),
        queue_runs=_whole(page, "cellserve_queue_runs"),
        sessions=_whole(page, "cellserve_sessions"),
        state_bytes=_whole(page, "cellserve_state_bytes"),
        rss_bytes=_whole(page, "process_resident_memory_bytes"),
    )


def _status(replica: ReplicaReading) -> str:
    page = replica.page
    match replica.answer:
        case "draining" | "refused":
            return replica.answer
        case "none":
            return "away" if page is None else "not serving"
    if page is not None and page.value("cellserve_draining"):
        return "draining"
    return "not serving" if page is not None and page.value("cellserve_serving") == 0 else "serving"


def _models_figures(replicas: Iterable[ReplicaReading], changes: list[Change]) -> Iterable[ModelFigures]:
    versions: dict[str, dict[str, ModelInfo]] = {}
    pages = []
    for replica in replicas:
        for info in replica.models:
            versions.setdefault(DEFINED if info.defined else info.name, {})[info.resource_name] = info
        if replica.page is not None:
            pages.append(replica.page)
    in_metrics = {name for page in pages for name in page.by_label("cellserve_steps_total", "model")}
    for name in sorted({*versions, *in_metrics}):
        labels = {"model": name}
        known = versions.get(name, {}).values()
        failed = [
            change.rate("cellserve_runs_total", {**labels, "outcome": out})
            for change in changes
            for out in FAILED_OUTCOMES
        ]
        yield ModelFigures(
            name,
            versions=len(known),
            broken=sum(info.state == "BROKEN" for info in known),
            steps_per_second=_sum(change.rate("cellserve_steps_total", labels) for change in changes),
            rows_per_tick=_mean(changes, "cellserve_tick_rows", labels),
            tick_s=_mean(changes, "cellserve_tick_seconds", labels),
            sessions=_sum_of_whole(page.value("cellserve_model_sessions", labels) for page in pages),
            errors_per_second=_sum(failed),
        )


def _session_figures(replica: str, info: SessionInfo, now: float) -> SessionFigures:
    # The clocks of two machines may differ a little.
    return SessionFigures(
        info.id,
        replica,
        info.model.removeprefix("models/"),
        rows=info.batch_size,
        steps=info.step_count,
        steps_per_second=info.steps_per_second,
        idle_s=max(now - info.last_used_time.timestamp(), 0.0),
        expires_in_s=max(info.expire_time.timestamp() - now, 0.0),
        age_s=max(now - info.create_time.timestamp(), 0.0),
    )


def _notes(replicas: Iterable[ReplicaReading]) -> Iterable[str]:
    for replica in replicas:
        if replica.trouble:
            yield f"{replica.address}: {replica.trouble}"
        elif replica.page is None:
            yield (
                f"{replica.address}: rates, latencies and memory are not known, for the page of metrics is not "
                f"(name it by --metrics URL): {replica.page_trouble}"
            )


def _mean(changes: Iterable[Change], histogram: str, labels: Mapping[str, str]) -> float | None:
    """Of what all servers have observed."""
    sums = [
        (change.increase(f"{histogram}_sum", labels), change.increase(f"{histogram}_count", labels))
        for change in changes
    ]
    count = math.fsum(part for _, part in sums)
    return math.fsum(part for part, _ in sums) / count if count else None


def _sum(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None: none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _sum_of_whole(values: Iterable[float | None]) -> int | None:
    total = _sum(values)
    return None if total is None else round(total)


def _whole(page: Snapshot | None, name: str) -> int | None:
    value = None if page is None else page.value(name)
    return None if value is None else round(value)
