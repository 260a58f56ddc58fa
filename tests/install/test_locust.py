"""The example for Locust, in an environment of its own."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest

from cellserve_client import connect
from tests.install.environments import Environment
from tests.servers import server_process
from tests.tools import ROOT

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "locust"
USERS = 20
TIMEOUT_S = 120
SKIP_PATCH = {"LOCUST_SKIP_MONKEY_PATCH": "1"}


@pytest.fixture(scope="module")
def locust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, where our client is installed beside it."""
    made = Environment(tmp_path_factory.mktemp("locust") / "environment")
    made.install(["proto", "client"], (EXAMPLE / "requirements.txt").read_text(encoding="utf-8").split())
    return made.python.parent / "locust"


def run(locust: Path, environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(locust), "-f", str(EXAMPLE / "locustfile.py"), "--headless", "--csv", str(folder / "of")]
    known = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", *SKIP_PATCH}}
    return subprocess.run(
        [*command, "-t", "5s", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**known, **environment},
    )


def counts(folder: Path) -> dict[str, tuple[int, int]]:
    """How many requests there were of each name, and how many of them failed."""
    with (folder / "of_stats.csv").open(encoding="utf-8", newline="") as file:
        return {row["Name"]: (int(row["Request Count"]), int(row["Failure Count"])) for row in csv.DictReader(file)}


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["one process", "two processes"])
def test_users_step_sessions_and_leave_none_behind(locust: Path, tmp_path: Path, processes: tuple[str, ...]) -> None:
    with server_process(["--models", str(ROOT / "models")]) as server:
        users = ("-u", str(USERS), "-r", str(USERS))
        result = run(locust, SKIP_PATCH, tmp_path, "--host", server.address, *users, *processes)
        assert result.returncode == 0, result.stderr
        found = counts(tmp_path)
        assert found["open"] == (USERS, 0)
        steps, failures = found["step"]
        assert failures == 0
        assert steps >= USERS
        with connect(server.address) as client:
            assert client.sessions() == []


def test_a_server_that_is_not_there_is_told_of(locust: Path, tmp_path: Path) -> None:
    result = run(locust, SKIP_PATCH, tmp_path, "--host", "localhost:1", "-u", "1", "-r", "1")
    assert result.returncode == 1
    assert counts(tmp_path)["open"] == (1, 1)
    assert "Traceback" not in result.stderr


def test_without_real_threads_it_says_what_to_do(locust: Path, tmp_path: Path) -> None:
    result = run(locust, {}, tmp_path)
    assert result.returncode != 0
    assert "LOCUST_SKIP_MONKEY_PATCH=1" in result.stderr
