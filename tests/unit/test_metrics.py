"""How the server counts: cheaply, by subject, and within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from cellserve_server.metrics import Metrics
from cellserve_server.metrics.engine import MAX_MODEL_LABELS, OTHER_MODELS
from cellserve_server.metrics.loop_lag import KEPT_SAMPLES, SAMPLE_S, LoopLag
from cellserve_server.metrics.tallies import TalliedCounter, TalliedHistogram
from cellserve_server.tick_times import PHASES, TickTimes
from tests.clocks import ManualClock
from tests.unit.engine_bench import Bench, drive
from tests.unit.test_blocks import Stream, names

BOUNDS = (0.1, 1.0, 2.5)
VALUES = (0.0, 0.1, 0.100001, 1.0, 2.0, 2.5, 3.0, 3.0)


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_tallied_histogram_shows_what_prometheus_own_shows() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tallied = TalliedHistogram("h", "Words.", ("model",), BOUNDS, ours)
    plain = Histogram("h", "Words.", ("model",), registry=theirs, buckets=BOUNDS)
    for value in VALUES:
        tallied.labels("m").observe(value)
        plain.labels("m").observe(value)
    assert samples(ours) == samples(theirs)
    (described,) = tallied.describe()
    assert (described.name, described.type, described.documentation) == ("h", "histogram", "Words.")


def test_a_tallied_counter_shows_what_prometheus_own_shows() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tallied = TalliedCounter("c", "Words.", ("model",), ours)
    plain = Counter("c", "Words.", ("model",), registry=theirs)
    for name, count in (("m", 3), ("n", 0)):
        tallied.labels(name).count += count
        plain.labels(name).inc(count)
    assert samples(ours) == samples(theirs)
    (described,) = tallied.describe()
    assert (described.name, described.type, described.documentation) == ("c", "counter", "Words.")


def test_a_part_of_the_metrics_is_as_new_as_all_of_them() -> None:
    metrics = Metrics()
    metrics.engine.steps("m", 3)
    (family,) = metrics.registry.restricted_registry(["cellserve_steps_total"]).collect()
    assert [sample.value for sample in family.samples] == [3]


def test_many_equal_observations_are_one() -> None:
    once, each = CollectorRegistry(), CollectorRegistry()
    TalliedHistogram("h", "Words.", (), BOUNDS, once).labels().observe(0.5, 40)
    one_by_one = TalliedHistogram("h", "Words.", (), BOUNDS, each).labels()
    for _ in range(40):
        one_by_one.observe(0.5)
    assert samples(once) == samples(each)


def test_a_ticks_parts_are_counted_and_those_that_it_has_not_are_left_out() -> None:
    metrics = Metrics()
    times = TickTimes(None)
    times.note_computed()
    times.computed = times.committed = times.scattered = times.encoded = times.began + 0.5
    metrics.engine.tick("m", 3, times)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"cellserve_{name}", {"model": "m", **labels})

    counts = {phase: value("tick_phase_seconds_count", phase=phase) for phase in PHASES}
    assert counts == {phase: float(phase == "cell") for phase in PHASES}
    assert value("tick_phase_seconds_sum", phase="cell") == pytest.approx(0.5)
    assert value("tick_seconds_sum") == pytest.approx(0.5)
    assert value("tick_rows_sum") == 3


def test_a_tick_takes_no_longer_because_its_store_does() -> None:
    metrics = Metrics()
    times = TickTimes(None)
    times.gathered = times.computed = times.began + 0.25
    times.committed = times.computed + 8.0
    times.scattered = times.encoded = times.committed + 0.5
    metrics.engine.tick("m", 3, times)
    value: Callable[..., float | None] = metrics.registry.get_sample_value
    assert value("cellserve_tick_seconds_sum", {"model": "m"}) == pytest.approx(0.75)
    assert value("cellserve_tick_phase_seconds_sum", {"model": "m", "phase": "commit"}) == pytest.approx(8.0)


def test_models_beyond_the_limit_share_a_label() -> None:
    metrics = Metrics()
    for number in range(MAX_MODEL_LABELS + 5):
        metrics.engine.steps(f"model-{number}", 2)
    labels = {
        sample.labels["model"]
        for family in metrics.registry.collect()
        if family.name == "cellserve_steps"
        for sample in family.samples
    }
    assert len(labels) == MAX_MODEL_LABELS + 1
    assert metrics.registry.get_sample_value("cellserve_steps_total", {"model": OTHER_MODELS}) == 10


def test_runs_are_timed_from_their_arrival_by_kind() -> None:
    async def test(bench: Bench) -> None:
        stream = Stream(bench, names(5))
        await stream.step(range(5))
        await bench.engine.execute(bench.run(bench.session("one"), steps=1))
        await bench.engine.execute(bench.run(bench.session("long"), steps=7))
        done = bench.engine.step_at_once(
            session := bench.session("lone"), session.life, [bench.run(session).inputs[0][:, 0]], 0, 0
        )
        assert done is not None
        count, total = "cellserve_run_seconds_count", "cellserve_run_seconds_sum"
        assert bench.metric(count, model="defined", kind="step") == 5 + 1 + 1
        assert bench.metric(count, model="defined", kind="sequence") == 1
        for kind in ("step", "sequence"):
            assert 0 < bench.metric(total, model="defined", kind=kind) < 60

    drive(test, at_once_us=10**6)


def lag_of(lags_s: Iterator[float]) -> CollectorRegistry:
    """What a loop shows that wakes so much too late each time."""
    registry, clock = CollectorRegistry(), ManualClock()
    lag = LoopLag(registry)

    async def sleep(seconds: float) -> None:
        assert seconds == SAMPLE_S
        late_s = next(lags_s, None)
        if late_s is None:
            raise asyncio.CancelledError
        clock.advance(seconds + late_s)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(lag.sample(clock, sleep))
    return registry


def test_the_loops_lag_is_how_much_later_it_wakes_than_it_was_to() -> None:
    registry = lag_of(iter([0.0, 0.3, 4.0]))
    value: Callable[..., float | None] = registry.get_sample_value
    assert value("cellserve_loop_lag_seconds_count") == 3
    assert value("cellserve_loop_lag_seconds_sum") == pytest.approx(4.3)
    assert value("cellserve_loop_lag_seconds_bucket", {"le": "0.5"}) == 2
    assert value("cellserve_loop_lag_max_seconds") == pytest.approx(4.0)


def test_the_longest_lag_is_forgotten_after_a_minute() -> None:
    registry = lag_of(iter([4.0, *[0.25] * KEPT_SAMPLES]))
    assert registry.get_sample_value("cellserve_loop_lag_max_seconds") == pytest.approx(0.25)
