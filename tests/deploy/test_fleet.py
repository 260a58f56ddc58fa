"""The fleet without containers: what its command prints is there, and nothing is left of it afterwards."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cellserve_server.healthcheck import status
from deploy.fleet import Fleet, FleetError, MissingProgramError, RedisServer
from deploy.fleet.ports import HOST, free_ports, is_free
from deploy.fleet.programs import find_program
from deploy.fleet.proxies import CONFIGURATIONS, LISTEN_ADDRESS, configuration
from tests.programs import require_program
from tests.servers import RPC_TIMEOUT_S
from tests.tools import ROOT

# Each test starts several programs; together they take a good part of a minute.
pytestmark = pytest.mark.slow


@contextmanager
def fleet_command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs the command; it has stopped at the end."""
    command = [sys.executable, "-m", "deploy.fleet", *arguments]
    # Its errors go where its output goes, so that a test shows what went wrong.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ}
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def lines_until(process: subprocess.Popen[str], text: str) -> str:
    """What it prints, up to the line that has this text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"it ended before it printed {text!r}:\n{''.join(lines)}")


def test_the_command_prints_addresses_that_answer_and_leaves_nothing(tmp_path: Path) -> None:
    require_program("nginx")
    require_program("redis-server")
    with fleet_command("--port", "0", "--replicas", "2", "--folder", str(tmp_path / "fleet")) as process:
        text = lines_until(process, "kill -9")
        addresses = dict(re.findall(r"^  (proxy|replica-\d) +(\S+)", text, re.MULTILINE))
        assert set(addresses) == {"proxy", "replica-1", "replica-2"}
        for address in addresses.values():
            assert status(address, "", RPC_TIMEOUT_S) == "SERVING"
        pages = re.findall(r"http://\S+/metrics", text)
        for page in pages:
            assert b"cellserve_" in urllib.request.urlopen(page, timeout=RPC_TIMEOUT_S).read()
        (redis,) = re.findall(r"redis://127\.0\.0\.1:(\d+)/0", text)
        with socket.create_connection((HOST, int(redis)), timeout=RPC_TIMEOUT_S) as connection:
            connection.sendall(b"CONFIG GET appendonly\r\n")
            assert b"yes" in connection.recv(100)

        first = int(re.findall(r"kill -9 (\d+)", text)[0])
        os.kill(first, signal.SIGKILL)
        lines_until(process, "replica-1 is back")
        assert status(addresses["replica-1"], "", RPC_TIMEOUT_S) == "SERVING"

        process.send_signal(signal.SIGINT)
        lines_until(process, "Stopping")
        assert process.wait(RPC_TIMEOUT_S) == 0
    ports = [address.rpartition(":")[2] for address in (*addresses.values(), redis)]
    ports += re.findall(r":(\d+)/metrics", text)
    assert len(ports) == 6
    assert all(is_free(int(port)) for port in ports)
    assert not processes_with(str(tmp_path))


def processes_with(text: str) -> list[str]:
    """The command lines of this machine's processes that have a text in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It has ended meanwhile.
        if text in line:
            found.append(line)
    return found


def test_redis_comes_back_with_what_it_had(tmp_path: Path) -> None:
    require_program("redis-server")
    redis = RedisServer(free_ports(1)[0], tmp_path)
    redis.start()
    try:
        assert ask(redis, b"SET kept 1\r\n").startswith(b"+OK")
        redis.kill()
        redis.start()
        assert ask(redis, b"GET kept\r\n").endswith(b"1\r\n")
        redis.pause()
        with pytest.raises(TimeoutError):
            ask(redis, b"PING\r\n", timeout_s=0.05)
        redis.resume()
        assert ask(redis, b"PING\r\n").startswith(b"+PONG")
    finally:
        assert redis.stop() == 0


def ask(redis: RedisServer, command: bytes, timeout_s: float = RPC_TIMEOUT_S) -> bytes:
    with socket.create_connection((HOST, redis.port), timeout=timeout_s) as connection:
        connection.sendall(command)
        return connection.recv(1000)


def test_replicas_are_stopped_and_started_where_they_were() -> None:
    with Fleet(2, store="memory:", proxy=None) as fleet:
        assert fleet.terminate(0) == 0
        assert is_free(int(fleet.addresses[0].rpartition(":")[2]))
        fleet.restart(0)
        fleet.kill(1)
        assert fleet.replicas[1].exit_code == -signal.SIGKILL
        fleet.restart(1)
        assert [status(address, "", RPC_TIMEOUT_S) for address in fleet.addresses] == ["SERVING"] * 2
        with pytest.raises(FleetError, match="has no proxy"):
            _ = fleet.proxy_address
    assert not any(process.running for process in fleet.processes)
    assert not fleet.folder.exists()


def test_a_part_that_cannot_start_stops_the_others_and_shows_its_log() -> None:
    fleet = Fleet(2, store="memory:", proxy=None, arguments=["--max-sessions", "none"])
    with pytest.raises(FleetError, match=r"(?s)replica-\d ended with exit code 2.*max-sessions"):
        fleet.start()
    assert not any(process.running for process in fleet.processes)


def test_a_folder_has_one_fleet_at_a_time(tmp_path: Path) -> None:
    first = Fleet(1, folder=tmp_path, store="memory:", proxy=None)
    with pytest.raises(FleetError, match="already"):
        Fleet(1, folder=tmp_path, store="memory:", proxy=None)
    first.stop()
    Fleet(1, folder=tmp_path, store="memory:", proxy=None).stop()


def test_a_port_that_is_taken_is_said() -> None:
    require_program("nginx")
    with socket.create_server((HOST, 0)) as taken, pytest.raises(FleetError, match="is taken"):
        Fleet(1, store="memory:", port=taken.getsockname()[1])


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.fleet.programs.MORE_FOLDERS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingProgramError, match=r"promtool is not installed.*apt-get install prometheus"):
        find_program("promtool")


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_only_the_addresses_of_a_configuration_change(kind: str) -> None:
    text = CONFIGURATIONS[kind].read_text("utf-8")
    shipped = configuration(text, LISTEN_ADDRESS, ["replica-1:50051", "replica-2:50051"])
    assert shipped == text
    other = configuration(text, "127.0.0.1:7", ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
    servers = [line.split() for line in other.splitlines() if line.strip().startswith("server ")]
    assert [line for line in servers if "127.0.0.1:3" in line]
    assert "127.0.0.1:7" in other
    assert "replica-1:" not in other
    assert LISTEN_ADDRESS not in other


def test_a_configuration_without_servers_is_refused() -> None:
    with pytest.raises(FleetError, match="server replica-1:50051"):
        configuration("listen 0.0.0.0:50051;", "127.0.0.1:7", [])
