"""Steps a second: laws that hold whatever comes when."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellserve.errors import QuotaExceededError
from cellserve_server.config import ServerConfig
from cellserve_server.step_rates import BURST_S, StepRates, TokenBucket
from cellserve_server.tenant_limits import TenantLimits
from tests.clocks import START_S, ManualClock

RATES = st.floats(0.5, 1e5)
# How long after the one before something comes, and of how many steps it is.
COMINGS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 2000)), min_size=1, max_size=60)
SLACK = 1e-6


def _burst(rate: float) -> float:
    return max(rate * BURST_S, 1.0)


@given(RATES, COMINGS)
def test_no_window_has_more_than_its_time_and_a_burst_and_the_last_one(
    rate: float, comings: list[tuple[float, int]]
) -> None:
    bucket, now, taken = TokenBucket(rate, START_S), START_S, list[tuple[float, int]]()
    for pause_s, steps in comings:
        now += pause_s
        if bucket.delay_s(now) == 0:
            bucket.take(steps, now)
            taken.append((now, steps))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            seconds = taken[last][0] - taken[first][0]
            before_last = sum(steps for _, steps in taken[first:last])
            assert before_last <= (_burst(rate) + seconds * rate) * (1 + SLACK) + SLACK


@given(RATES, COMINGS)
def test_who_waits_as_long_as_it_is_told_is_let_in(rate: float, comings: list[tuple[float, int]]) -> None:
    bucket, now = TokenBucket(rate, START_S), START_S
    for pause_s, steps in comings:
        now += pause_s + bucket.delay_s(now + pause_s)
        assert bucket.delay_s(now) == 0
        bucket.take(steps, now)


@given(RATES, COMINGS)
def test_who_reserves_goes_in_order_and_at_the_rate(rate: float, comings: list[tuple[float, int]]) -> None:
    bucket, now, goes = TokenBucket(rate, START_S), START_S, list[tuple[float, int]]()
    for pause_s, steps in comings:
        now += pause_s
        goes.append((now + bucket.take(steps, now), steps))
    times = [time for time, _ in goes]
    assert all(later >= sooner - SLACK for sooner, later in itertools.pairwise(times))
    before_last = sum(steps for _, steps in goes[:-1])
    assert before_last <= (_burst(rate) + (times[-1] - START_S) * rate) * (1 + SLACK) + 1


def _rates(folder: Path, clock: ManualClock, overall: float, **of_a: float) -> StepRates:
    path = folder / "quotas.toml"
    path.write_text("[tenants.a]\n" + "".join(f"{name} = {value}\n" for name, value in of_a.items()), encoding="utf-8")
    config = replace(ServerConfig(), quotas_file=str(path), max_steps_per_s=overall)
    return StepRates(overall, TenantLimits(config), clock)


def test_a_tenants_rate_is_its_own(tmp_path: Path) -> None:
    clock = ManualClock()
    rates = _rates(tmp_path, clock, 0, max_steps_per_s=5)
    rates.charge("a", 8)
    with pytest.raises(QuotaExceededError, match="5 steps a second of this tenant") as caught:
        rates.charge("a", 1)
    assert caught.value.retry_after_s == pytest.approx(0.6)
    rates.charge("b", 1_000_000)
    rates.charge("b", 1_000_000)
    assert rates.reserve("a", 5) == pytest.approx(0.6)
    clock.advance(1.7)
    rates.charge("a", 1)


def test_the_rate_of_all_holds_for_all(tmp_path: Path) -> None:
    clock = ManualClock()
    rates = _rates(tmp_path, clock, 10)
    rates.charge("a", 4)
    rates.charge("b", 4)
    rates.charge("c", 4)
    with pytest.raises(QuotaExceededError, match="10 steps a second of all"):
        rates.charge("d", 1)
