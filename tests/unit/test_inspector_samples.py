"""What the live charts show, and what questions to the inspector may say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cellserve.errors import FieldInvalidError
from cellserve_server.inspector.parameters import MAX_LISTED, MAX_TEXT_CHARS, Parameters
from cellserve_server.inspector.samples import SAMPLES_KEPT, Reading, Sampler, quantile, reader_of
from cellserve_server.metrics.metrics import Metrics
from cellserve_server.sessions.activity import Order
from cellserve_server.tick_times import TickTimes
from tests.clocks import START_S, ManualClock

INF = float("inf")


def reading(steps: float = 0, ticks: float = 0, rows: float = 0, slow: float = 0) -> Reading:
    """``slow`` of the steps took up to 4 s, the others up to 1 s."""
    latencies = {1.0: steps - slow, 4.0: steps, INF: steps} if steps else {}
    return Reading({"m": steps} if steps else {}, ticks, rows, latencies, sessions=7, queue_runs=3)


def samples_of(*readings: Reading, seconds: float = 2.0) -> Sampler:
    clock = ManualClock()
    given: Iterator[Reading] = iter(readings)
    sampler = Sampler(lambda: next(given), clock)
    for _ in readings:
        sampler.take()
        clock.advance(seconds)
    return sampler


def test_a_sample_is_what_came_since_the_one_before() -> None:
    sampler = samples_of(reading(), reading(40, 4, 44), reading(60, 8, 64, slow=10))
    first, second = sampler.since(0.0)
    assert (first.time_s, second.time_s) == (START_S + 2, START_S + 4)
    assert (first.steps, first.ticks, first.tick_rows) == ({"m": 20.0}, 2.0, 11.0)
    assert (second.steps, second.tick_rows) == ({"m": 10.0}, 5.0)
    assert first.p50_s == pytest.approx(0.5)
    assert second.p50_s == pytest.approx(1.0)
    assert second.p99_s == pytest.approx(1.0 + 3.0 * 0.98)
    assert (second.sessions, second.queue_runs) == (7, 3)
    assert sampler.since(START_S + 2) == [second]


def test_a_second_without_steps_has_no_latency() -> None:
    (sample,) = samples_of(reading(40, 4, 44), reading(40, 4, 44)).since(0.0)
    assert (sample.steps, sample.p50_s, sample.p99_s, sample.tick_rows, sample.ticks) == ({}, None, None, None, 0)


def test_two_readings_at_one_moment_give_no_sample() -> None:
    assert samples_of(reading(), reading(40), seconds=0).since(0.0) == []


def test_samples_are_bounded() -> None:
    sampler = samples_of(*[reading()] * (SAMPLES_KEPT + 50))
    kept = sampler.since(0.0)
    assert len(kept) == SAMPLES_KEPT
    assert kept[-1].time_s == START_S + 2 * (SAMPLES_KEPT + 49)


@pytest.mark.parametrize(
    ("counts", "part", "expected"),
    [
        ({}, 0.5, None),
        ({1.0: 0, INF: 0}, 0.5, None),
        ({1.0: 10, 2.0: 10, INF: 10}, 0.5, 0.5),
        ({1.0: 0, 2.0: 10, INF: 10}, 0.5, 1.5),
        ({1.0: 1, 2.0: 2, INF: 10}, 0.99, 2.0),
        ({1.0: 5, 2.0: 10, INF: 10}, 0.5, 1.0),
    ],
)
def test_quantiles_of_histograms(counts: dict[float, float], part: float, expected: float | None) -> None:
    assert quantile(counts, part) == (expected if expected is None else pytest.approx(expected))


def test_a_reading_is_what_the_metrics_have() -> None:
    metrics = Metrics()
    metrics.engine.watch(queue_runs=lambda: 5, queue_bytes=lambda: 0)
    read = reader_of(metrics)
    assert read().latencies == {}
    for model in ("a", "b"):
        metrics.engine.tick(model, 6, TickTimes(None))
        metrics.engine.steps(model, 6)
        metrics.engine.runs_done(model, "ok", 6, 0.004, is_step=True)
    metrics.engine.runs_done("a", "ok", 1, 3.0, is_step=False)
    found = read()
    assert (found.steps, found.ticks, found.rows, found.queue_runs) == ({"a": 6, "b": 6}, 2, 12, 5)
    assert list(found.latencies)[-1] == INF
    assert (found.latencies[0.0025], found.latencies[0.005], found.latencies[INF]) == (0, 12, 12)


# --- parameters -------------------------------------------------------------------------------------------------------


def parameters(**values: str) -> Parameters:
    return Parameters(values.items())


def test_parameters_and_their_defaults() -> None:
    given = parameters(id="a", row="3", order_by="step_count", after="1.5")
    assert given.key() == ("default", "a")
    assert (given.integer("row", 0), given.number("after", 0.0), given.limit()) == (3, 1.5, 25)
    assert given.order() == Order("step_count", descending=False)
    given.require_no_others()
    assert parameters().order() == Order("steps_per_second", descending=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("row", "-1"), ("row", "x"), ("row", "1.0"), ("row", ""), ("row", "\u0663"), ("row", "9" * 30)],
)
def test_integers_that_cannot_be(name: str, value: str) -> None:
    with pytest.raises(FieldInvalidError, match=rf"{name}: expected an integer from 0 to"):
        parameters(**{name: value}).integer(name, 0)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "x", ""])
def test_numbers_that_cannot_be(value: str) -> None:
    with pytest.raises(FieldInvalidError, match="after: expected a number"):
        parameters(after=value).number("after", 0.0)


def test_other_parameters_that_cannot_be() -> None:
    with pytest.raises(FieldInvalidError, match="limit: expected an integer from 1"):
        parameters(limit=str(MAX_LISTED + 1)).limit()
    with pytest.raises(FieldInvalidError, match="order_by: expected one of"):
        parameters(order_by="step_count asc").order()
    with pytest.raises(FieldInvalidError, match="id: expected a value; got none"):
        parameters().key()
    with pytest.raises(FieldInvalidError, match="id: expected at most"):
        parameters(id="x" * (MAX_TEXT_CHARS + 1)).key()
    with pytest.raises(FieldInvalidError, match="'ordre': expected a parameter"):
        parameters(ordre="x").require_no_others()
    with pytest.raises(FieldInvalidError, match="row: expected it once"):
        Parameters([("row", "1"), ("row", "2")])
