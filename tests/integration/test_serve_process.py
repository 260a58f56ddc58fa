"""`cellserve serve` as a process: its first line, signals, exit codes, flags and environment."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellserve.cells import BasicLSTMCell, BasicRNNCell, OutputProjectionWrapper
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_server.cli import serve
from cellserve_server.config import ServerConfig
from tests.integration.stream_client import StreamClient, step_inputs
from tests.servers import (
    LISTENING,
    RPC_TIMEOUT_S,
    RunningApp,
    ServerProcess,
    define_model,
    server_process,
    stubs_for,
)

UNITS, DEPTH = 3, 2
Start = Callable[[ServerConfig], RunningApp]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _watch(channel: grpc.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(), timeout=RPC_TIMEOUT_S)


def test_sigterm_drains_and_exits_with_0() -> None:
    with server_process() as server:
        assert re.fullmatch(re.escape(LISTENING) + r"127\.0\.0\.1:[1-9][0-9]*", server.first_line)
        with stubs_for(server.address) as stubs:
            define_model(stubs, BasicLSTMCell(UNITS), DEPTH)
            watch = _watch(stubs.channel)
            assert next(watch).status == SERVING
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == NOT_SERVING
            assert server.wait() == 0
        events = re.findall(r'"event": "(\w+)"', server.errors())
        assert [event for event in events if event in ("serving", "draining", "drained")] == [
            "serving",
            "draining",
            "drained",
        ]


@pytest.mark.slow
def test_a_second_signal_forces() -> None:
    with server_process(["--drain-timeout-s", "600"]) as server, stubs_for(server.address) as stubs:
        wide = define_model(stubs, OutputProjectionWrapper(BasicRNNCell(1), 100_000), DEPTH).name
        with StreamClient(stubs) as stream:
            stream.open(["a"], model=wide)
            # Answers of 32 MB that nobody reads: HTTP/2 does not take them, which keeps the drain waiting.
            for _ in range(10):
                stream.steps([0] * 8, step_inputs(8))
            request = messages.GetSessionRequest(name="sessions/a")
            while stubs.recurrent.GetSession(request, timeout=RPC_TIMEOUT_S).session.step_count < 80:
                pass
            watch = _watch(stubs.channel)
            next(watch)
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == NOT_SERVING
            server.process.send_signal(signal.SIGTERM)
            assert server.wait() == 1
        (forced,) = [line for line in map(json.loads, server.errors().splitlines()) if line["event"] == "drain_forced"]
        assert (forced["streams"], forced["level"]) == (1, "warning")


def test_flags_and_environment() -> None:
    environment = {"CELLSERVE_MAX_ROWS": "5", "CELLSERVE_MAX_SESSIONS": "7"}
    with server_process(["--max-rows", "6"], environment) as server, stubs_for(server.address) as stubs:
        model = define_model(stubs, BasicLSTMCell(UNITS), DEPTH)
        assert model.limits.max_rows == 6  # The flag comes first.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-rows", "0"], "max_rows: expected at least 1; got 0"),
        (["--max-rows", "many"], "'many' is not a valid integer"),
        (["--log-level", "loud"], "log_level: expected one of debug, info, warning, error; got 'loud'"),
        (["--no-such-thing"], "--no-such-thing"),
        (["--max-message-bytes", "1073741825"], "max_message_bytes: expected at most 1073741824; got 1073741825"),
        (["--models", "no/such/folder"], "--models: expected a folder; there is none at 'no/such/folder'"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_and_exit_code_2(arguments: list[str], words: str) -> None:
    with server_process(arguments) as server:
        assert server.wait() == 2
        assert server.first_line == ""
        (line,) = server.errors().splitlines()
    assert line.startswith("cellserve serve: ")
    assert words in line


def test_a_folder_of_the_environment_that_is_not_there(tmp_path: Path) -> None:
    with closing(ServerProcess(environment={"CELLSERVE_MODELS": str(tmp_path / "none")})) as server:
        assert server.wait() == 2
        assert "--models: expected a folder" in server.errors()


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve([flag]) == 0
    assert "--max-sessions" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0"],
        pytest.param(["--host", "256.0.0.1", "--insecure"], marks=pytest.mark.slow),
        pytest.param(["--store", "nowhere"], marks=pytest.mark.slow),
        ["--store", "sqlite:no/such/folder/sessions.db"],
    ],
)
def test_an_address_that_cannot_be_is_one_line_and_exit_code_1(arguments: list[str]) -> None:
    with server_process(arguments) as server:
        assert server.wait() == 1
        assert server.first_line == ""
        (line,) = server.errors().splitlines()
    assert line.startswith("cellserve serve: ")


def test_every_setting_has_help() -> None:
    for setting in fields(ServerConfig):
        assert setting.metadata["help"].endswith(".")


@pytest.mark.slow
def test_the_stores_url_may_be_in_a_file_and_its_password_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text("redis://user:sesame@127.0.0.1:1/0\n")
    with closing(ServerProcess(environment={"CELLSERVE_STORE_FILE": str(file)})) as server:
        assert server.wait() == 1
        assert "--store: the store redis://user:***@127.0.0.1:1/0: it cannot be reached" in server.errors()
        assert "sesame" not in server.errors()


@pytest.mark.slow
def test_a_password_in_the_command_line_is_warned_of() -> None:
    with closing(ServerProcess(["--store", "redis://user:sesame@127.0.0.1:1/0"])) as server:
        assert server.wait() == 1
        assert '"event": "password_in_command_line"' in server.errors()
        assert "sesame" not in server.errors()


def test_a_file_that_is_not_there_is_a_setting_that_cannot_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLSERVE_STORE_FILE", "/no/such/file")
    assert serve([]) == 2
    assert "CELLSERVE_STORE_FILE: cannot read /no/such/file: No such file" in capsys.readouterr().err
