"""What `cellserve top` computes and writes: figures of two readings, states in numbers, numbers as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from cellserve.states import LSTMStateTuple
from cellserve_client.server_metrics import Labels, Snapshot
from cellserve_client.session_info import SORTS, SessionInfo
from cellserve_client.top import text
from cellserve_client.top.figures import Figures, figures_of
from cellserve_client.top.history import COURSE_LENGTH, SHORTEST_S, History
from cellserve_client.top.reading import Answer, Asked, Reading, ReplicaReading
from cellserve_client.top.state_parts import HISTOGRAM_BINS, parts_of
from cellserve_client.top.tables import DOWNWARD, UPWARD, replicas_table, sessions_table

NOW_S = 1_700_000_000.0
NOW = datetime.fromtimestamp(NOW_S, UTC)
NO_PAGE = "it is not there"


def labels(**values: str) -> Labels:
    return tuple(sorted(values.items()))


def page(at_s: float, steps: float, *, ticks: float = 1.0, rows: float = 1.0, failed: float = 0.0) -> Snapshot:
    """A page of a server that has done so much of the model `m`."""
    series: Mapping[str, Mapping[Labels, float]] = {
        "cellserve_build_info": {labels(version="1.2.3", python="3.11"): 1.0},
        "process_start_time_seconds": {(): NOW_S - 90.0},
        "process_resident_memory_bytes": {(): 3e6},
        "cellserve_serving": {(): 1.0},
        "cellserve_draining": {(): 0.0},
        "cellserve_queue_runs": {(): 7.0},
        "cellserve_sessions": {(): 5.0},
        "cellserve_model_sessions": {labels(model="m"): 5.0},
        "cellserve_state_bytes": {(): 2048.0},
        "cellserve_steps_total": {labels(model="m"): steps},
        "cellserve_tick_rows_sum": {labels(model="m"): rows},
        "cellserve_tick_rows_count": {labels(model="m"): ticks},
        "cellserve_tick_seconds_sum": {labels(model="m"): ticks / 500.0},
        "cellserve_tick_seconds_count": {labels(model="m"): ticks},
        "cellserve_run_seconds_bucket": {
            labels(model="m", kind="step", le="0.001"): steps,
            labels(model="m", kind="step", le="0.002"): steps,
            labels(model="m", kind="step", le="+Inf"): steps,
        },
        "cellserve_runs_total": {
            labels(model="m", outcome="ok"): steps,
            labels(model="m", outcome="error"): failed,
            labels(model="m", outcome="cancelled"): failed,
        },
    }
    return Snapshot("http://host/metrics", at_s, series)


def session(id_: str, *, rate: float = 0.0, steps: int = 0, idle_s: float = 0.0, age_s: float = 0.0) -> SessionInfo:
    used = NOW - timedelta(seconds=idle_s)
    return SessionInfo(
        id_,
        "uid",
        "models/m/versions/1",
        batch_size=None,
        step_count=steps,
        ttl_s=60.0,
        create_time=NOW - timedelta(seconds=age_s),
        expire_time=used + timedelta(seconds=60),
        last_used_time=used,
        steps_per_second=rate,
    )


def replica(
    address: str, snapshot: Snapshot | None = None, *sessions: SessionInfo, trouble: str = ""
) -> ReplicaReading:
    page_trouble = "" if snapshot else NO_PAGE
    return ReplicaReading(address, "none" if trouble else "given", trouble, snapshot, page_trouble, (), sessions)


def reading(*replicas: ReplicaReading, at_s: float = NOW_S, asked: Asked | None = None) -> Reading:
    return Reading(at_s, asked or Asked(), replicas)


def test_figures_are_what_has_changed_between_two_readings() -> None:
    before = reading(replica("a:1", page(10.0, 100.0, ticks=10.0, rows=20.0, failed=1.0)))
    after = reading(replica("a:1", page(12.0, 500.0, ticks=30.0, rows=120.0, failed=3.0)))
    figures = figures_of(after, before)
    assert figures.steps_per_second == 200.0
    (one,) = figures.replicas
    assert (one.status, one.version, one.up_s) == ("serving", "1.2.3", 90.0)
    assert (one.steps_per_second, one.queue_runs, one.sessions, one.state_bytes) == (200.0, 7, 5, 2048)
    assert one.rss_bytes == 3_000_000
    assert one.p50_s == pytest.approx(0.0005)
    assert one.p99_s == pytest.approx(0.00099)
    (model,) = figures.models
    assert (model.name, model.sessions) == ("m", 5)
    assert (model.steps_per_second, model.rows_per_tick) == (200.0, 5.0)
    assert model.tick_s == pytest.approx(0.002)
    assert model.errors_per_second == 1.0  # Who cancels has not failed.
    assert figures.notes == ()


def test_rates_are_unknown_at_first_and_without_a_page() -> None:
    first = figures_of(reading(replica("a:1", page(10.0, 100.0))), None)
    assert (first.steps_per_second, first.replicas[0].steps_per_second, first.models[0].steps_per_second) == (None,) * 3
    assert first.replicas[0].sessions == 5
    bare = reading(replica("a:1", None, session("s")))
    figures = figures_of(bare, bare)
    assert (figures.steps_per_second, figures.replicas[0].sessions) == (None, None)
    assert figures.replicas[0].status == "serving"
    assert [one.id for one in figures.sessions] == ["s"]
    (note,) = figures.notes
    assert all(word in note for word in ("a:1", "--metrics", NO_PAGE))


@pytest.mark.parametrize(
    ("answer", "gauges", "status"),
    [
        ("given", {}, "serving"),
        ("given", {"cellserve_serving": 0.0}, "not serving"),
        ("given", {"cellserve_draining": 1.0, "cellserve_serving": 0.0}, "draining"),
        ("given", None, "serving"),
        ("draining", None, "draining"),
        ("refused", {}, "refused"),
        ("none", {"cellserve_serving": 0.0}, "not serving"),
        ("none", None, "away"),
    ],
)
def test_status(answer: Answer, gauges: dict[str, float] | None, status: str) -> None:
    snapshot = None
    if gauges is not None:
        whole = page(1.0, 1.0)
        changed: dict[str, Mapping[Labels, float]] = {name: {(): value} for name, value in gauges.items()}
        snapshot = Snapshot(whole.url, 1.0, {**whole.series, **changed})
    trouble = "" if answer == "given" else "a reason"
    one = dataclasses.replace(replica("a:1", snapshot, trouble=trouble), answer=answer)
    figures = figures_of(reading(one), None)
    assert figures.replicas[0].status == status
    assert not trouble or figures.notes == (f"a:1: {trouble}",)


def test_several_replicas_are_one_list_of_sessions_and_one_of_models() -> None:
    def both(at_s: float, steps: float) -> Reading:
        slow, fast = session("slow", rate=1.0), session("fast", rate=9.0)
        middle = session("middle", rate=5.0)
        return reading(
            replica("a:1", page(at_s, steps, ticks=steps, rows=steps), fast, slow),
            replica("b:1", page(at_s, 3 * steps, ticks=steps, rows=3 * steps), middle),
        )

    figures = figures_of(both(2.0, 20.0), both(1.0, 10.0))
    assert [(one.id, one.replica) for one in figures.sessions] == [("fast", "a:1"), ("middle", "b:1"), ("slow", "a:1")]
    (model,) = figures.models
    assert (model.steps_per_second, model.rows_per_tick, model.sessions) == (40.0, 2.0, 10)
    assert sessions_table(figures, Asked()).columns[-1] == "server"
    assert [row[-1] for row in sessions_table(figures, Asked()).rows] == ["a:1", "b:1", "a:1"]


@pytest.mark.parametrize(
    ("sort", "first", "column", "arrows"),
    [
        ("rate", "a", "steps/s", (DOWNWARD, UPWARD)),
        ("steps", "b", "steps", (DOWNWARD, UPWARD)),
        ("used", "c", "idle", (UPWARD, DOWNWARD)),
        ("created", "d", "age", (UPWARD, DOWNWARD)),
    ],
)
def test_sorts(sort: str, first: str, column: str, arrows: tuple[str, str]) -> None:
    sessions = [
        session("a", rate=2.0, steps=1, idle_s=5.0, age_s=50.0),
        session("b", rate=1.0, steps=9, idle_s=4.0, age_s=40.0),
        session("c", rate=0.0, steps=2, idle_s=1.0, age_s=30.0),
        session("d", rate=0.5, steps=3, idle_s=3.0, age_s=20.0),
    ]
    asked = Asked(sort, limit=3)
    assert asked.order_by == f"{SORTS[sort]} desc"
    figures = figures_of(reading(replica("a:1", None, *sessions), asked=asked), None)
    assert (figures.sessions[0].id, len(figures.sessions)) == (first, 3)
    backward = dataclasses.replace(asked, reverse=True, limit=4)
    assert backward.order_by == SORTS[sort]
    assert figures_of(reading(replica("a:1", None, *sessions), asked=backward), None).sessions[-1].id == first
    assert f"{column}{arrows[0]}" in sessions_table(figures, asked).columns
    assert f"{column}{arrows[1]}" in sessions_table(figures, backward).columns


def test_sessions_are_as_old_as_they_are_also_where_clocks_differ() -> None:
    one = session("s", steps=1234, idle_s=5.0, age_s=7300.0)
    ahead = session("ahead", idle_s=-3.0, age_s=-3.0)
    figures = figures_of(reading(replica("a:1", None, one, ahead)), None)
    by_id = {found.id: found for found in figures.sessions}
    assert (by_id["s"].idle_s, by_id["s"].expires_in_s, by_id["s"].age_s) == (5.0, 55.0, 7300.0)
    assert (by_id["ahead"].idle_s, by_id["ahead"].age_s) == (0.0, 0.0)
    rows = {row[0]: row for row in sessions_table(figures, Asked()).rows}
    assert rows["s"] == ("s", "m/versions/1", "-", "1,234", "0", "5.0s", "55s", "2h01m")


def test_what_is_unknown_is_a_dash() -> None:
    (row,) = replicas_table(figures_of(reading(replica("a:1", trouble="x")), None).replicas).rows
    assert row == ("a:1", "away", *["-"] * 9)


def test_readings_in_quick_succession_have_rates_of_a_longer_time() -> None:
    history = History()

    def read(at_s: float, steps: float) -> Figures:
        return history.figures(reading(replica("a:1", page(at_s, steps)), at_s=at_s))

    assert read(0.0, 0.0).steps_per_second is None
    assert read(SHORTEST_S / 2, 5.0).steps_per_second is None
    assert read(1.0, 100.0).steps_per_second == 100.0
    assert read(1.0 + SHORTEST_S / 2, 145.0).steps_per_second == pytest.approx(100.0)
    assert read(2.0, 400.0).steps_per_second == 300.0
    assert list(history.course) == [100.0, 300.0]
    for second in range(3, COURSE_LENGTH + 9):
        read(float(second), 0.0)
    assert len(history.course) == COURSE_LENGTH


def test_states_in_numbers() -> None:
    c = np.array([[-1.0, 0.0, 1.0, 3.0]], np.float32)
    h = np.array([[np.nan, np.inf, 2.0, 2.0]], np.float32)
    parts = list(parts_of((LSTMStateTuple(c, h), np.zeros((2, 3)))))
    assert [part.name for part in parts] == ["0.c", "0.h", "1"]
    assert [part.name for part in parts_of(c)] == ["state"]
    assert parts[0].shape == (1, 4)
    assert (parts[0].minimum, parts[0].mean, parts[0].maximum, parts[0].unusable) == (-1.0, 0.75, 3.0, 0)
    assert parts[0].norm == pytest.approx(np.sqrt(11))
    histogram = parts[0].histogram
    assert (len(histogram), sum(histogram)) == (HISTOGRAM_BINS, 4)
    assert (histogram[0], histogram[HISTOGRAM_BINS // 4], histogram[HISTOGRAM_BINS // 2], histogram[-1]) == (1, 1, 1, 1)
    assert (parts[1].unusable, parts[1].minimum, parts[1].maximum, sum(parts[1].histogram)) == (2, 2.0, 2.0, 2)
    assert (parts[2].norm, parts[2].mean, sum(parts[2].histogram)) == (0.0, 0.0, 6)


@pytest.mark.parametrize(
    "values", [[], [np.nan], [1.0, np.nextafter(1.0, 2.0)], [-np.finfo(np.float64).max, np.finfo(np.float64).max]]
)
def test_odd_states(values: list[float]) -> None:
    (part,) = parts_of(np.array([values]))
    assert sum(part.histogram) + part.unusable == len(values)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (text.rate(None), "-"),
        (text.rate(0.0), "0"),
        (text.rate(0.25), "0.2"),
        (text.rate(12345.6), "12,346"),
        (text.count(1234567), "1,234,567"),
        (text.milliseconds(0.0004217), "0.422 ms"),
        (text.milliseconds(1.5), "1,500 ms"),
        (text.size(512), "512 B"),
        (text.size(1536), "1.5 KiB"),
        (text.size(3 << 40), "3.0 TiB"),
        (text.span(0.04), "0.0s"),
        (text.span(59.4), "59s"),
        (text.span(59.6), "1m00s"),
        (text.span(3599.9), "1h00m"),
        (text.span(200_000), "2d07h"),
        (text.bars([], 5), ""),
        (text.bars([0, 0], 5), "  "),
        (text.bars([9, 0, 1, 4, 8], 4), " \N{LOWER ONE QUARTER BLOCK}\N{LOWER FIVE EIGHTHS BLOCK}\N{FULL BLOCK}"),
    ],
)
def test_numbers_as_text(written: str, expected: str) -> None:
    assert written == expected
