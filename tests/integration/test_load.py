"""Load tests of a real server: its own count of the steps is that of the load tester, whatever was sent."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.errors import FieldInvalidError, InternalError, ModelNotSteppableError, UnavailableError
from cellserve_client import connect, rnn
from cellserve_client.cli.load import main as load
from cellserve_client.load import LoadDocument, LoadPlan, Progress, run_load, run_load_async
from cellserve_client.load.crew import Crew
from cellserve_client.load.document import Stage
from cellserve_client.load.recorder import Interval
from tests.integration.edges import bidirectional_spec
from tests.servers import ServerProcess, define_spec, server_process, stubs_for

DEPTH = 3
PAGE = re.compile(r'"url": "(http://[^"]+/metrics)"')


class Target:
    """A server with a model, and the page of its metrics."""

    def __init__(self, server: ServerProcess) -> None:
        self.address = server.address
        found = PAGE.search(server.errors())
        assert found is not None, server.errors()
        self.metrics = found[1]
        with connect(self.address) as remote:
            info = remote.cell(rnn.BasicRNNCell(4), seed=1, input_size=DEPTH).info
        assert info is not None
        self.model = info.name

    def plan(self, **fields: Any) -> LoadPlan:
        """A short plan, with some fields of one's own."""
        usual = {"model": self.model, "sessions": 6, "seconds": 0.4, "warmup_s": 0.2, "metrics": (self.metrics,)}
        return LoadPlan(self.address, **{**usual, **fields})

    def arguments(self, *more: str) -> list[str]:
        """Of the same on the command line."""
        usual = ["--model", self.model, "--sessions", "4", "--seconds", "0.4", "--warmup", "0.1"]
        return [self.address, *usual, "--metrics", self.metrics, *more]

    def sessions(self) -> int:
        """That are on the server."""
        with connect(self.address) as remote:
            return len(remote.sessions())


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with server_process(["--http-port", "0"]) as server:
        yield Target(server)


def check(document: LoadDocument, target: Target) -> None:
    """That all was answered, and counted as the server has."""
    assert document.errors == {}
    assert document.failure is None
    assert document.totals.requests > 0
    assert document.totals.steps <= document.totals.steps_with_warmup
    assert document.server_metrics is not None
    assert document.server_metrics.steps_delta == document.totals.steps_with_warmup
    assert target.sessions() == 0


CASES: dict[str, dict[str, Any]] = {
    "closed": {},
}
SLOW_CASES: dict[str, dict[str, Any]] = {
    "open, all kinds, two processes": {
        "rate": 150.0,
        "traffic": "mixed:0.7",
        "transport": "mixed",
        "sequence_length": "uniform:1,9",
        "session_length": "exponential:30",
        "processes": 2,
    },
    "unary, closed in stages": {
        "transport": "unary",
        "ramp_s": 0.1,
        "stages": (Stage(0.3, 6, None), Stage(0.3, 2, None)),
        "session_length": "exponential:20",
    },
    "closed, two processes": {"processes": 2, "transport": "mixed"},
    "sequences": {"traffic": "sequence", "sequence_length": "poisson:5"},
    "thinking": {"think_time": "exponential:0.01"},
    "open, constant, growing": {"rate": 400.0, "arrivals": "constant", "sessions": 1, "max_sessions": 30},
    "open in stages": {"stages": (Stage(0.4, None, 50.0), Stage(0.4, None, 200.0)), "ramp_s": 0.3},
    "more than the server can do": {"rate": 30_000.0, "seconds": 0.3, "warmup_s": 0.0},
}


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
def test_the_server_counts_as_many_steps(target: Target, fields: dict[str, Any]) -> None:
    check(run_load(target.plan(**fields)), target)


@pytest.mark.slow
@pytest.mark.parametrize("fields", SLOW_CASES.values(), ids=SLOW_CASES.keys())
def test_the_server_counts_as_many_steps_of_any_traffic(target: Target, fields: dict[str, Any]) -> None:
    check(run_load(target.plan(**fields)), target)


@pytest.mark.slow
def test_the_document_tells_what_was_sent(target: Target) -> None:
    told: list[Progress] = []
    plan = target.plan(rate=200.0, traffic="mixed:0.5", sequence_length="5", seconds=1.0, slo="p99<10s,errors<1%")
    document = run_load(plan, told.append)
    check(document, target)
    totals, kinds = document.totals, document.by_kind
    assert document.mode == "open"
    assert totals.offered_per_second == pytest.approx(200, rel=0.3)
    assert totals.requests == sum(second.requests for second in document.timeline) == document.percentiles[-1][2]
    assert totals.steps == kinds["step"].steps + kinds["sequence"].steps
    assert kinds["sequence"].steps == 5 * kinds["sequence"].requests
    assert kinds["step"].requests == pytest.approx(totals.requests / 2, rel=0.4)
    latency, service = document.latency_ms, document.service_ms
    assert latency.p50 is not None
    assert service.p50 is not None
    assert service.p50 <= latency.p50 * 1.001
    assert document.slo is not None
    assert document.slo.held
    assert document.settings["traffic"] == "mixed:0.5"
    assert LoadDocument.from_json(json.loads(json.dumps(document.to_json()))) == document
    assert document.server_metrics is not None
    assert [second.second for second in document.server_metrics.timeline] == [0]
    assert document.server_metrics.timeline[0].rows_per_tick is not None
    assert told[-1].seconds > 0.5
    assert told[-1].total_seconds == pytest.approx(1.2)


@pytest.mark.slow
def test_sessions_are_closed_and_opened_anew(target: Target) -> None:
    document = run_load(target.plan(sessions=2, session_length="10"))
    check(document, target)
    assert document.totals.sessions_opened >= document.totals.steps_with_warmup / 10


@pytest.mark.slow
def test_inputs_of_a_file_are_played(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "inputs.npy"
    np.save(path, np.random.default_rng(0).standard_normal((7, DEPTH)))
    check(run_load(target.plan(inputs=str(path))), target)
    np.save(path, np.ones((7, DEPTH + 1)))
    with pytest.raises(FieldInvalidError, match=r"inputs: expected \[steps, 3\] for 'inputs'"):
        run_load(target.plan(inputs=str(path)))


@pytest.mark.slow
def test_within_an_event_loop(target: Target) -> None:
    async def both() -> list[LoadDocument]:
        return await asyncio.gather(*(run_load_async(target.plan(metrics=())) for _ in range(2)))

    for document in asyncio.run(both()):
        assert document.failure is None
        assert document.server_metrics is None


@pytest.mark.slow
def test_one_that_is_cancelled_leaves_no_sessions(target: Target) -> None:
    async def cancelled() -> None:
        begun = asyncio.Event()
        running = asyncio.create_task(run_load_async(target.plan(seconds=600.0), lambda _: begun.set()))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    assert target.sessions() == 0


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_test() -> None:
    def kill(_: Progress) -> None:
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                if b"cellserve_client.load.child" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)

    # A server of its own: the sessions stay on it.
    with server_process(["--http-port", "0"]) as server:
        plan = Target(server).plan(seconds=600.0, processes=2)
        with pytest.raises(InternalError, match="a process of the load test has ended before its time"):
            run_load(plan, kill)


@pytest.mark.slow
def test_one_that_is_stopped_before_it_begins_sends_nothing(target: Target) -> None:
    intervals: list[Interval] = []

    async def stopped() -> None:
        stopping = asyncio.Event()
        stopping.set()
        model = f"models/{target.model}/versions/1"
        async with Crew(target.plan(), model, lambda _, interval: intervals.append(interval)) as crew:
            await crew.begin(stopping)
            crew.stop()
            await crew.finished()

    asyncio.run(stopped())
    assert sum(interval.all_steps for interval in intervals) == 0
    assert target.sessions() == 0


def test_a_model_without_sessions_is_refused(target: Target) -> None:
    with stubs_for(target.address) as stubs:
        both_ways = define_spec(stubs, bidirectional_spec()).name
    with pytest.raises(ModelNotSteppableError, match="model: expected one with sessions, which are stepped"):
        run_load(target.plan(model=both_ways))


def test_metrics_that_were_asked_for_have_to_be_there(target: Target) -> None:
    with pytest.raises(UnavailableError, match=r"metrics: http://127\.0\.0\.1:1/metrics cannot be read"):
        run_load(target.plan(metrics=("http://127.0.0.1:1/metrics",)))


@pytest.mark.slow
def test_sessions_that_the_server_does_not_take_are_counted() -> None:
    with server_process(["--http-port", "0", "--max-sessions", "3"]) as server:
        target = Target(server)
        document = run_load(target.plan(slo="errors<=0"))
    assert set(document.errors) == {"QUOTA_EXCEEDED"}
    # A closed loop of fewer sessions than were asked for has not done what it was to do.
    assert 0 < document.totals.failed <= document.errors["QUOTA_EXCEEDED"]
    assert document.slo is not None
    assert not document.slo.held
    assert document.server_metrics is not None
    assert document.server_metrics.steps_delta == document.totals.steps_with_warmup > 0


@pytest.mark.slow
def test_an_interrupted_load_reports_and_deletes_its_sessions(target: Target) -> None:
    command = [sys.executable, "-m", "cellserve", "load", *target.arguments("--seconds", "600", "--json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            with connect(target.address) as remote:
                while not any(info.step_count for info in remote.sessions()):
                    assert process.poll() is None, process.stderr and process.stderr.read()
            process.send_signal(signal.SIGINT)
            printed, said = process.communicate(timeout=30)
        finally:
            process.kill()
    document = LoadDocument.from_json(json.loads(printed))
    assert (process.returncode, said) == (130, "")
    assert document.failure == "interrupted before its end"
    assert len(document.timeline) <= document.seconds + 1
    assert document.server_metrics is not None
    assert document.server_metrics.steps_delta == document.totals.steps_with_warmup
    assert target.sessions() == 0


@pytest.mark.slow
def test_a_load_that_is_killed_deletes_its_sessions(target: Target) -> None:
    command = [sys.executable, "-m", "cellserve", "load", *target.arguments("--seconds", "600", "--json")]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process,
        connect(target.address) as remote,
    ):
        try:
            while not any(info.step_count for info in remote.sessions()):
                assert process.poll() is None, process.stderr and process.stderr.read()
        finally:
            process.kill()
        # Its end: the process that sends has it too, and closes it when it has deleted its sessions.
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert target.sessions() == 0


def test_why_a_process_cannot_begin_is_told_in_one_sentence(target: Target, capfd: pytest.CaptureFixture[str]) -> None:
    async def begun() -> None:
        async with Crew(target.plan(), "models/gone/versions/1", lambda *_: None) as crew:
            await crew.begin(asyncio.Event())

    with pytest.raises(InternalError, match=r"has ended before its time: .*models/gone"):
        asyncio.run(begun())
    assert "Traceback" not in capfd.readouterr().err


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_objective_decides_the_exit_code(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(target.arguments("--rate", "50", "--slo", "p50<60s,errors<1%")) == 0
    assert "held" in capsys.readouterr().out
    assert load(target.arguments("--rate", "50", "--slo", "p50<1us")) == 3
    assert "p50<1us missed" in capsys.readouterr().out


def test_the_result_goes_to_files(target: Target, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = {kind: tmp_path / f"result.{kind}" for kind in ("json", "csv", "html")}
    options = [part for kind, file in files.items() for part in (f"--{kind}", str(file))]
    assert load(target.arguments(*options)) == 0
    assert "passed" in capsys.readouterr().out
    document = LoadDocument.from_json(json.loads(files["json"].read_text()))
    assert document.totals.steps > 0
    assert files["csv"].read_text().count("\n") == 1 + len(document.timeline)
    assert target.model in files["html"].read_text()


@pytest.mark.slow
def test_the_highest_rate_is_searched(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    # An objective that is missed by what is sent, be the server as fast as it likes.
    more = ("--find-max", "--rate", "8", "--slo", "rate<20,errors<1%", "--trial-seconds", "0.5", "--json")
    assert load([*target.arguments(*more), "--arrivals", "constant"]) == 0
    printed = capsys.readouterr()
    document = LoadDocument.from_json(json.loads(printed.out))
    assert document.find_max is not None
    trials = document.find_max.trials
    assert trials[0].rate == 8
    assert {trial.held for trial in trials} == {True, False}
    assert document.find_max.best_rate == max(trial.rate for trial in trials if trial.held)
    assert len(printed.err.splitlines()) == len(trials)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--json", "localhost:5"], 2, "expected a file that ends in .json"),
        (["--csv", "no-such-folder/x.csv"], 2, "expected a file in a folder that exists"),
        (["--processes", "many"], 2, "expected a number or auto"),
        (["--stage", "soon"], 1, "stage: expected such as 30s:256"),
        (["--find-max"], 1, "slo: expected an objective"),
        (["--slo", "fast"], 1, "slo: expected terms such as"),
        (["--think-time", "1", "--rate", "5"], 1, "think_time: expected none with a rate"),
        (["--inputs", "no-such.npy"], 1, "inputs: no-such.npy cannot be read"),
    ],
)
def test_what_cannot_be_is_told_before_it_begins(
    target: Target, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert load(target.arguments(*arguments)) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
