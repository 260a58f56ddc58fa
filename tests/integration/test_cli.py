"""The client's commands against a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from cellserve_client import Server, connect, rnn
from cellserve_client.cli.load import main as load
from cellserve_client.cli.models import main as models
from cellserve_client.cli.sessions import main as sessions
from tests.servers import ServerProcess, server_process
from tests.tools import ROOT

COMMANDS: dict[str, Callable[[list[str]], int]] = {"load": load, "models": models, "sessions": sessions}
NOBODY = "localhost:1"


@pytest.fixture
def remote(server_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A connection to the server that all tests share, which is also the commands' default."""
    monkeypatch.setenv("CELLSERVE_ADDRESS", server_address)
    with connect(server_address) as server:
        yield server


@pytest.fixture
def model(remote: Server) -> str:
    """A model's name."""
    info = remote.cell(rnn.BasicLSTMCell(4), seed=21, input_size=3).info
    assert info is not None
    return info.name


def answer(capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> str:
    """Runs a command that has to work and gives what it printed."""
    code = COMMANDS[command](list(arguments))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refusal(capsys: pytest.CaptureFixture[str], code: int, command: str, *arguments: str) -> str:
    """Runs a command that has to fail with a code and gives what it says."""
    assert COMMANDS[command](list(arguments)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def test_models_list(capsys: pytest.CaptureFixture[str], model: str) -> None:
    (line,) = [line for line in answer(capsys, "models", "list").splitlines() if model in line]
    assert line.split()[1:5] == ["1", "READY", "128", "32"]
    found = json.loads(answer(capsys, "models", "list", "--json"))
    assert model in {item["name"] for item in found}


def test_models_show(capsys: pytest.CaptureFixture[str], model: str) -> None:
    text = answer(capsys, "models", "show", model)
    assert "LSTMStateTuple(c=4, h=4)" in text
    assert "num_units: 4" in text
    document = json.loads(answer(capsys, "models", "show", model, "--version", "1", "--json"))
    assert document["resource_name"] == f"models/{model}/versions/1"
    assert document["inputs"] == [{"name": "inputs", "data_type": "float32", "shape": [3], "labels": []}]
    assert document["state_size"] == {"c": 4, "h": 4}
    assert document["capabilities"] == ["STEP", "SESSION", "SEQUENCE"]
    assert document["parameter_count"] == 128
    assert document["defined"] is True


def test_sessions(capsys: pytest.CaptureFixture[str], remote: Server, model: str) -> None:
    ids = ["cli-a", "cli-b", "cli-c"]
    for id_ in ids:
        remote.session(model, session_id=id_, batch_size=2).step(np.zeros((2, 3), np.float32))
    text = answer(capsys, "sessions", "list", "--model", model)
    assert [line.split()[0] for line in text.splitlines() if "cli-" in line] == ids
    assert [item["id"] for item in json.loads(answer(capsys, "sessions", "list", "--model", model, "--json"))] == ids
    assert COMMANDS["sessions"](["list", "--model", model, "--limit", "2", "--json"]) == 0
    printed = capsys.readouterr()
    assert [item["id"] for item in json.loads(printed.out)] == ids[:2]
    assert "there are more (--limit)" in printed.err
    document = json.loads(answer(capsys, "sessions", "show", "cli-a", "--state", "--json"))
    assert (document["id"], document["batch_size"], document["step_count"]) == ("cli-a", 2, 1)
    assert np.shape(document["state"]) == (2, 2, 4)
    assert "step count" in answer(capsys, "sessions", "show", "cli-a")
    assert answer(capsys, "sessions", "delete", "cli-a", "cli-b") == "deleted 2\n"
    assert json.loads(answer(capsys, "sessions", "delete", "cli-c", "--json")) == {"deleted": ["cli-c"]}
    assert json.loads(answer(capsys, "sessions", "list", "--model", model, "--json")) == []


@pytest.mark.slow
def test_sessions_by_activity(capsys: pytest.CaptureFixture[str], remote: Server, model: str) -> None:
    with ExitStack() as stack:
        made = [stack.enter_context(remote.session(model, session_id=f"by-{name}")) for name in "abc"]
        for steps, session in enumerate(made):
            session.run(np.zeros((steps, 3), np.float32))

        def listed(*arguments: str) -> list[str]:
            found = json.loads(answer(capsys, "sessions", "list", "--model", model, *arguments, "--json"))
            return [item["id"] for item in found]

        assert listed("--sort", "steps") == ["by-c", "by-b", "by-a"]
        assert listed("--sort", "used", "--limit", "1") == ["by-c"]
        assert listed("--sort", "created", "--filter", "by-b") == ["by-b"]
        assert listed("--filter", "-b") == ["by-b"]
        assert listed("--sort", "rate", "--filter", "nobody") == []
        text = answer(capsys, "sessions", "list", "--model", model, "--sort", "steps")
        assert [line.split()[0] for line in text.splitlines() if "by-" in line] == ["by-c", "by-b", "by-a"]
        assert "--sort" in refusal(capsys, 2, "sessions", "list", "--sort", "speed")


@pytest.mark.slow
def test_load(capsys: pytest.CaptureFixture[str], remote: Server, model: str) -> None:
    arguments = [remote.address, "--model", model, "--sessions", "4", "--seconds", "0.3", "--warmup", "0.1"]
    document = json.loads(answer(capsys, "load", *arguments, "--json"))
    assert document["server"] == {"address": remote.address, "model": f"models/{model}/versions/1"}
    assert document["settings"]["sessions"] == 4
    totals, latency = document["totals"], document["latency_ms"]
    assert totals["steps"] > 0
    assert totals["steps_per_second"] == pytest.approx(totals["steps"] / document["seconds"], rel=0.01)
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    assert (document["errors"], totals["failed"], document["failure"]) == ({}, 0, None)
    text = answer(capsys, "load", *arguments)
    assert {"steps/s", "p50", "p99", "errors"} <= {line.split()[0] for line in text.splitlines() if line}
    assert remote.sessions(model=model) == []


@pytest.mark.slow
def test_a_load_whose_server_ends_fails_and_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def end_when_stepped(address: str, server: ServerProcess) -> None:
        give_up = time.monotonic() + 20
        with connect(address) as watching:
            while not any(info.step_count for info in watching.sessions()):
                assert server.process.poll() is None
                assert time.monotonic() < give_up, "nothing was stepped"
        server.process.kill()

    shutil.copytree(ROOT / "models" / "speaker-id", tmp_path / "speaker-id")
    with server_process(["--models", str(tmp_path)]) as server, ThreadPoolExecutor(1) as pool:
        with connect(server.address) as remote:
            remote.cell(rnn.BasicRNNCell(4), seed=21, input_size=3)  # A client's model is not chosen beside another.
        ending = pool.submit(end_when_stepped, server.address, server)
        code = load([server.address, "--sessions", "2", "--seconds", "3.5", "--warmup", "0"])
        ending.result()
    printed = capsys.readouterr()
    assert code == 1
    assert "models/speaker-id/versions/1" in printed.out
    assert "failed: the server was lost: nothing was answered in the last 2 s" in printed.out


def test_load_asks_which_model(capsys: pytest.CaptureFixture[str], remote: Server, model: str) -> None:
    remote.cell(rnn.BasicRNNCell(4), seed=21, input_size=3)
    said = refusal(capsys, 1, "load", remote.address, "--seconds", "0.1")
    assert said.startswith("cellserve load: model: say which one; there are ")
    assert model in said


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("models", ["list", "--address", NOBODY]),
        ("models", ["show", "speaker-id", "--address", NOBODY, "--json"]),
        ("sessions", ["list", "--address", NOBODY]),
        ("load", [NOBODY, "--seconds", "0.1"]),
    ],
)
def test_nobody_there_is_one_line(capsys: pytest.CaptureFixture[str], command: str, arguments: list[str]) -> None:
    said = refusal(capsys, 1, command, *arguments)
    assert said == (
        f"cellserve {command}: no server answers at {NOBODY} (connection refused). "
        "Is it started? cellserve serve --port 1\n"
    )


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("models", ["show", "no-such-model"], "no-such-model"),
        ("sessions", ["show", "no-such-session"], "no-such-session"),
        ("sessions", ["delete", "no-such-session"], "no-such-session"),
        ("models", ["list", "--address", "nowhere"], "address: expected host:port"),
        ("models", ["list", "--address", "a:1,a:1"], "each address once"),
    ],
)
def test_what_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str], remote: Server, command: str, arguments: list[str], message: str
) -> None:
    said = refusal(capsys, 1, command, *arguments)
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("models", ["show"]),
        ("models", ["burn"]),
        ("sessions", ["list", "--limit", "0"]),
        ("sessions", ["delete"]),
        ("load", ["--sessions", "0"]),
        ("load", ["--seconds", "soon"]),
        ("load", ["a:1", "b:1"]),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], command: str, arguments: list[str]) -> None:
    assert "Error:" in refusal(capsys, 2, command, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["models", "list"],
        ["models", "show"],
        ["sessions"],
        ["sessions", "list"],
        ["sessions", "show"],
        ["sessions", "delete"],
        ["load"],
    ],
)
def test_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    command, *rest = arguments
    text = answer(capsys, command, *rest, "--help")
    assert text.startswith(f"Usage: cellserve {' '.join(arguments)} ")
    if not rest:
        assert "Examples:" in text


def test_the_commands_are_registered(remote: Server, model: str) -> None:
    command = [sys.executable, "-m", "cellserve"]
    text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for name, main in COMMANDS.items():
        assert f"{name} " in text
        assert (main.__doc__ or "").partition("\n")[0] in text
    listed = subprocess.run([*command, "models", "list", "--json"], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    assert model in {item["name"] for item in json.loads(listed.stdout)}


def test_the_seed_programs(server_address: str) -> None:
    command = [sys.executable, "-m", "examples.seed_programs"]
    assert (
        "h1: (32, 128)" in subprocess.run([*command, server_address], capture_output=True, text=True, check=True).stdout
    )
    failed = subprocess.run([*command, NOBODY], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == (
        f"seed_programs: no server answers at {NOBODY} (connection refused). Is it started? cellserve serve --port 1\n"
    )
