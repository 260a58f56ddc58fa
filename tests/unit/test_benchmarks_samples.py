"""What the benchmarks make of their samples: ratios within rounds, windows, percentiles, targets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.results import TARGETS, Target, judge
from benchmarks.samples import (
    Sample,
    compare,
    durations_within,
    median_interval,
    median_ratio,
    percentiles,
    rate_between,
)


def sample(rate: float, *, client_us: float = 1.0, server_us: float = 1.0, p50_s: float = 1.0) -> Sample:
    """A burst of two seconds."""
    steps = 2 * rate
    return Sample("cellserve", 2.0, steps, client_us * steps / 1e6, server_us * steps / 1e6, p50_s, 2 * p50_s)


def test_a_sample_tells_its_rate_and_what_a_step_costs() -> None:
    burst = sample(500, client_us=7, server_us=9)
    assert (burst.rate, burst.client_cpu_us, burst.server_cpu_us) == pytest.approx((500, 7, 9))
    assert burst.as_record(callers=64)["callers"] == 64


def test_ratios_are_taken_within_rounds() -> None:
    # The whole machine was four times as slow in the second and the third round: the ratio does not see it.
    pairs = [(sample(800), sample(100)), (sample(200), sample(25)), (sample(220), sample(20))]
    assert median_ratio(pairs, lambda one: one.rate) == 8
    assert median_ratio(pairs, lambda one: one.rate, over=1, under=0) == 1 / 8


def test_cpu_ratios_are_the_references_over_ours() -> None:
    pairs = [(sample(1, client_us=5, server_us=10, p50_s=3), sample(1, client_us=100, server_us=400, p50_s=2))]
    found = compare(pairs)
    assert (found["client_cpu_ratio"], found["server_cpu_ratio"]) == pytest.approx((20, 40))
    assert (found["ratio_p50"], found["ratio_p99"]) == pytest.approx((1.5, 1.5))
    assert found["reference_p99_ms"] == pytest.approx(4000)


def test_a_reference_without_a_server_has_no_server_ratio() -> None:
    assert "server_cpu_ratio" not in compare([(sample(2), sample(1, server_us=0))])


def test_only_answers_within_the_window_count() -> None:
    # They began at 0 and at 0.5; the window is from 1 to 3.
    answers = [np.array([0.0, 0.9, 1.5, 2.9, 3.2]), np.array([0.5, 3.5])]
    count, durations = durations_within(answers, 1.0, 3.0)
    assert count == 2
    assert durations.tolist() == pytest.approx([0.6, 1.4])


def test_a_beginning_within_the_window_is_no_answer() -> None:
    count, durations = durations_within([np.array([1.2, 1.7])], 1.0, 3.0)
    assert count == 1
    assert durations.tolist() == pytest.approx([0.5])


def test_nothing_in_the_window_is_nothing() -> None:
    count, durations = durations_within([np.array([0.0]), np.array([0.0, 9.0])], 1.0, 3.0)
    assert (count, len(durations)) == (0, 0)
    assert all(math.isnan(value) for value in percentiles(durations))


def test_percentiles_are_numpys() -> None:
    assert percentiles(np.arange(101.0)) == (50.0, 99.0)


@pytest.mark.parametrize(("count", "first"), [(1, 1), (5, 1), (6, 1), (9, 2), (15, 4), (17, 5), (25, 8), (50, 18)])
def test_the_interval_of_a_median_is_that_of_the_tables(count: int, first: int) -> None:
    """Conover, Practical Nonparametric Statistics: the ordered values that bound a median with 95 % confidence."""
    values = list(np.random.default_rng(count).permutation(count) + 1.0)
    assert median_interval(values) == (first, count + 1 - first)


def test_long_calls_are_counted_between_answers() -> None:
    # One answer every 0.8 s, by two callers: 2.5 a second, though a window of a second sees two or four of them.
    answers = [np.arange(0.1, 10, 0.8), np.arange(0.3, 10, 0.8)]
    assert rate_between(answers, 1.0, 5.0) == pytest.approx(2.5)
    assert rate_between([np.array([0.0, 2.0])], 1.0, 5.0) == 0


@pytest.mark.parametrize(
    ("value", "way", "bound", "reached"),
    [
        (30.0, "at least", 30.0, True),
        (29.9, "at least", 30.0, False),
        (1.3, "at most", 1.3, True),
        (1.31, "at most", 1.3, False),
        (5.0, "at most", "allowed", False),
    ],
)
def test_targets_are_held_against_keys(value: float, way: str, bound: float | str, reached: bool) -> None:
    target = Target("steps", "ratio", "at least" if way == "at least" else "at most", bound, "in words")
    (verdict,) = judge({"steps": {"ratio": value, "allowed": 4.0}}, [target])
    assert verdict.reached is reached


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    verdicts = judge({"scale": {"bytes_per_session": 3000.0}})
    assert len(verdicts) == len(TARGETS)
    assert {verdict.reached for verdict in verdicts} == {None}


def test_no_target_stands_twice() -> None:
    assert len({(target.benchmark, target.key) for target in TARGETS}) == len(TARGETS)
