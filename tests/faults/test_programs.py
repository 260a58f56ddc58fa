"""Short runs of the programs that make faults; each runs for long by hand: ``python -m tests.faults.kill --help``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults import kill, masters, partition, rolling
from tests.faults.callers import LoadPlan
from tests.faults.scenarios import SCENARIOS

SESSIONS = 24
MEMORY = 10  # sessions, where more of them live than memory takes

pytestmark = pytest.mark.slow


def silent(_: int, __: str) -> None:
    """Nobody watches."""


def killed(folder: Path, store: str, durability: str, max_sessions: int = 0) -> kill.KillReport:
    load = LoadPlan(SESSIONS, seed=3, handles_rollbacks=durability == "async")
    plan = kill.KillPlan(store, 4, durability, max_sessions=max_sessions, load=load)
    with kill.make_fleet(plan, folder) as fleet:
        report, errors = asyncio.run(kill.run(plan, fleet, silent))
    assert errors == []
    assert report.passed, asdict(report)
    return report


@pytest.mark.parametrize("max_sessions", [0, MEMORY])
def test_kills_of_a_server_with_a_file_lose_nothing(tmp_path: Path, max_sessions: int) -> None:
    assert killed(tmp_path, "sqlite", "sync", max_sessions).rolled_back == 0


@pytest.mark.usefixtures("redis_program")
@pytest.mark.parametrize("max_sessions", [0, MEMORY])
def test_kills_of_replicas_lose_nothing(tmp_path: Path, max_sessions: int) -> None:
    assert killed(tmp_path, "redis", "sync", max_sessions).rolled_back == 0


def test_kills_of_an_async_server_lose_their_interval_at_most_and_say_so(tmp_path: Path) -> None:
    killed(tmp_path, "sqlite", "async")


@pytest.mark.usefixtures("redis_program")
def test_kills_of_async_replicas_lose_their_interval_at_most_and_say_so(tmp_path: Path) -> None:
    killed(tmp_path, "redis", "async")


@pytest.mark.usefixtures("redis_program")
@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_what_comes_between_replicas_and_redis(tmp_path: Path, scenario: str, durability: str) -> None:
    load = LoadPlan(SESSIONS, seed=4, handles_rollbacks=durability == "async")
    plan = partition.PartitionPlan([scenario], durability, 0.5, load)
    report, errors = asyncio.run(partition.run(plan, tmp_path, silent))
    assert errors == []
    assert report.scenarios == {scenario: partition.GOOD}
    assert report.passed, asdict(report)


@pytest.mark.usefixtures("redis_program")
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_two_masters_apply_each_step_once_and_in_one_order(tmp_path: Path, durability: str) -> None:
    plan = masters.MastersPlan(3.0, durability=durability, seed=5)
    with masters.make_fleet(plan, tmp_path) as fleet:
        report, errors = asyncio.run(masters.run(plan, fleet, silent))
    assert errors == []
    assert report.passed, asdict(report)


@pytest.mark.usefixtures("redis_program")
def test_two_masters_of_which_one_hangs_apply_each_step_once_and_in_one_order(tmp_path: Path) -> None:
    plan = masters.MastersPlan(5.0, hangs=True, seed=6)
    with masters.make_fleet(plan, tmp_path) as fleet:
        report, errors = asyncio.run(masters.run(plan, fleet, silent))
    assert errors == []
    assert report.hangs > 0
    assert report.passed, asdict(report)


def rolled(folder: Path, durability: str, proxy: str | None) -> rolling.RollingReport:
    plan = rolling.RollingPlan(1, durability=durability, proxy=proxy, load=LoadPlan(SESSIONS, seed=7))
    with rolling.make_fleet(plan, folder) as fleet:
        report, errors = asyncio.run(rolling.run(plan, fleet, silent))
    assert errors == []
    assert report.passed, asdict(report)
    return report


@pytest.mark.usefixtures("redis_program")
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_rolling_restart_gives_callers_no_error(tmp_path: Path, durability: str) -> None:
    rolled(tmp_path, durability, None)


@pytest.mark.usefixtures("redis_program", "nginx_program")
def test_a_rolling_restart_behind_a_proxy_gives_callers_no_error(tmp_path: Path) -> None:
    rolled(tmp_path, "sync", "nginx")
