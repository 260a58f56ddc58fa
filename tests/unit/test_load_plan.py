"""What a load test is told to do: distributions, stages, schedules, objectives, and the plan that has them all."""

from __future__ import annotations

import json
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.errors import FieldInvalidError
from cellserve_client.connection import ConnectionSettings
from cellserve_client.load import LoadPlan
from cellserve_client.load.distributions import parse_distribution
from cellserve_client.load.document import Stage
from cellserve_client.load.latencies import Latencies, Sample
from cellserve_client.load.objective import judge
from cellserve_client.load.open_loop import due_times
from cellserve_client.load.plan import Arrivals, step_share
from cellserve_client.load.stages import Level, parse_stage

DRAWS = 20_000


def random() -> np.random.Generator:
    return np.random.default_rng(7)


# --- distributions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mean", "median"),
    [
        ("5", 5, 5),
        ("uniform:1,9", 5, 5),
        ("exponential:5", 5, 5 * np.log(2)),
        ("lognormal:3,1", 3 * np.exp(0.5), 3),
        ("poisson:20", 20, 20),
        (" exponential:0.5 ", 0.5, 0.5 * np.log(2)),
    ],
)
def test_a_distribution_has_its_mean_and_its_median(text: str, mean: float, median: float) -> None:
    distribution, source = parse_distribution(text, "think_time"), random()
    drawn = [distribution.draw(source) for _ in range(DRAWS)]
    assert np.mean(drawn) == pytest.approx(mean, rel=0.05)
    assert np.median(drawn) == pytest.approx(median, rel=0.05)
    assert min(drawn) >= 0


def test_counts_are_whole_and_within_their_bounds() -> None:
    distribution, source = parse_distribution("exponential:3", "sequence_length"), random()
    drawn = {distribution.draw_count(source, 10) for _ in range(DRAWS)}
    assert drawn == set(range(1, 11))


def test_numbers_beyond_a_floats_range_are_its_greatest() -> None:
    distribution, source = parse_distribution("lognormal:3,1e9", "session_length"), random()
    assert {distribution.draw_count(source, 10) for _ in range(100)} == {1, 10}


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-1", "nan", "inf", "uniform:1", "uniform:2,1", "exponential:", "normal:1,2", "5:5", "poisson:1e12"],
)
def test_what_is_no_distribution_is_refused(text: str) -> None:
    with pytest.raises(FieldInvalidError, match=r"think_time: expected NUMBER, uniform:LOW,HIGH, .*; got"):
        parse_distribution(text, "think_time")


# --- stages and schedules ------------------------------------------------------------------------------------------


def test_stages_are_read() -> None:
    assert parse_stage("30s:256") == Stage(30.0, 256, None)
    assert parse_stage("1.5m:0.5/s") == Stage(90.0, None, 0.5)
    assert parse_stage("1h:2/s").seconds == 3600


@pytest.mark.parametrize("text", ["", "30:256", "30s", "30s:1.5", "30s:x/s", "s:3", "30d:4"])
def test_what_is_no_stage_is_refused(text: str) -> None:
    with pytest.raises(FieldInvalidError, match=r"stage: expected such as 30s:256 \(sessions\) or 2m:500/s"):
        parse_stage(text)


def test_the_level_ramps_up_before_the_warm_up_and_between_stages() -> None:
    level = Level([Stage(10, 100, None), Stage(10, 50, None)], ramp_s=2, warmup_s=1)
    times = {0: 0, 1: 50, 2: 100, 3: 100, 12.9: 100, 13: 100, 14: 75, 15: 50, 23: 50, 1000: 50}
    assert {time: level.at(time) for time in times} == times


def test_without_a_ramp_the_level_is_there_at_once() -> None:
    level = Level([Stage(1, 4, None), Stage(1, 8, None)], ramp_s=0, warmup_s=0)
    assert [level.at(time) for time in (0, 0.99, 1, 1.5)] == [4, 4, 8, 8]


def test_as_many_requests_are_due_as_the_rate_asks_for() -> None:
    level = Level([Stage(10, None, 100)], ramp_s=4, warmup_s=1)
    assert level.time_of(0) == 0
    assert level.time_of(50) == pytest.approx(2)  # A triangle of 2 s and 50/s.
    assert level.time_of(200) == pytest.approx(4)
    assert level.time_of(250) == pytest.approx(4.5)
    assert level.time_of(1300) == pytest.approx(15)
    assert level.time_of(1301) is None


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_the_schedules_of_several_processes_are_together_that_of_the_rate(arrivals: Arrivals) -> None:
    level = Level([Stage(100, None, 50)], ramp_s=0, warmup_s=0)
    due = [list(due_times(level, arrivals, part, 3, np.random.default_rng([1, part]))) for part in range(3)]
    assert all(earlier <= later for times in due for earlier, later in pairwise(times))
    gaps = np.diff(sorted(chain.from_iterable(due)))
    assert len(gaps) == pytest.approx(5000, rel=0.05)
    assert np.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    # Those of a Poisson process deviate by as much as their mean; even ones do not.
    assert np.std(gaps) == pytest.approx(1 / 50 if arrivals == "poisson" else 0, rel=0.1, abs=1e-9)


# --- objectives ----------------------------------------------------------------------------------------------------


def test_an_objective_is_held_when_all_its_terms_are() -> None:
    latencies = Latencies()
    latencies.add(Sample.of([milliseconds / 1e3 for milliseconds in range(1, 101)]))
    slo = judge("p50<60ms, p99<=0.05s,mean>10us,max<1s,errors<0.1%,rate>10/s", latencies, 0.0005, 9.0)
    assert {term.term: term.held for term in slo.terms} == {
        "p50<60ms": True,
        "p99<=0.05s": False,
        "mean>10us": True,
        "max<1s": True,
        "errors<0.1%": True,
        "rate>10/s": False,
    }
    assert not slo.held
    assert slo.terms[1].measured == pytest.approx(99, rel=0.01)
    assert judge("p99.9<1s,errors<=0.05%", latencies, 0.0005, 9.0).held
    assert not judge("errors<=0", latencies, 0.0005, 9.0).held


def test_a_latency_is_not_held_when_nothing_was_measured() -> None:
    slo = judge("p99<20ms", Latencies(), 1.0, 0.0)
    assert (slo.held, slo.terms[0].measured) == (False, None)


@pytest.mark.parametrize(
    "text",
    ["", "p99", "p99<20", "p99<20%", "errors<1ms", "errors<1", "errors<0.01", "rate>5ms", "p101<1ms", "p99=1ms", "a,b"],
)
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(FieldInvalidError, match="slo: expected terms such as p99<20ms"):
        LoadPlan("localhost:1", slo=text)


# --- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "share"), [("step", 1), ("sequence", 0), ("mixed:0.9", 0.9), ("mixed:0", 0)])
def test_traffic(text: str, share: float) -> None:
    assert step_share(text) == share


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sessions": 0}, "sessions: expected 1 to 100000; got 0"),
        ({"sessions": 4, "processes": 5}, "processes: expected 1 to 4; got 5"),
        ({"seconds": 0}, "seconds: expected above 0"),
        ({"warmup_s": -1}, "warmup_s: expected 0 to"),
        ({"rate": float("nan")}, "rate: expected above 0"),
        ({"traffic": "mixed"}, "traffic: expected step, sequence, or mixed:SHARE"),
        ({"traffic": "mixed:1.1"}, "traffic: expected step"),
        ({"transport": "pigeon"}, "transport: expected one of stream, unary, mixed; got 'pigeon'"),
        ({"arrivals": "late"}, "arrivals: expected one of poisson, constant"),
        ({"rate": 5.0, "think_time": "1"}, "think_time: expected none with a rate"),
        ({"max_sessions": 100}, "max_sessions: expected none without a rate"),
        ({"rate": 5.0, "max_sessions": 10}, "max_sessions: expected 64 to 100000; got 10"),
        ({"rate": 5.0, "stages": (Stage(1, 5, None),)}, "stages: expected requests a second, as 30s:500/s"),
        ({"stages": (Stage(1, 5, None), Stage(1, None, 5.0))}, "stages: expected all of them to be sessions"),
        ({"stages": (Stage(1, 0, None),)}, "stages: sessions: expected 1 to"),
        ({"metrics": ("localhost:9464",)}, "metrics: expected a URL such as"),
        ({"session_length": "long"}, "session_length: expected NUMBER"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_the_fields_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldInvalidError, match=message):
        LoadPlan("localhost:1", **fields)


def test_the_settings_are_json_without_the_token() -> None:
    connection = ConnectionSettings("localhost:1", tls=True, token="a-secret-token", proxied=True)
    settings = LoadPlan(connection, stages=(Stage(1.0, 5, None),), metrics=("http://x/metrics",)).settings()
    text = json.dumps(settings)
    assert "a-secret-token" not in text + repr(LoadPlan(connection))
    assert (settings["address"], settings["tls"], settings["proxied"]) == ("localhost:1", True, True)
    assert json.loads(text)["stages"] == [{"seconds": 1.0, "sessions": 5, "rate": None}]
    file_settings = LoadPlan(ConnectionSettings("localhost:1", token=Path("/run/token"))).settings()
    assert "/run/token" not in json.dumps(file_settings)
