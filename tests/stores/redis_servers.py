"""Redis servers for tests: processes of their own on free ports of this machine, each with a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
READY = "Ready to accept connections"
STOP_TIMEOUT_S = 10.0


def require_redis() -> None:
    """Skips the test when there is no server, or fails it where everything has to be there."""
    if PROGRAM is None:
        reason = "redis-server is not installed (nor valkey-server)"
        if os.environ.get("CELLSERVE_REQUIRE_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A server that is killed and started again as a test wants it; its folder and port stay.

    Args:
        folder: where it keeps its files.
        options: of its command line.
    """

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        assert PROGRAM is not None
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        self._process = subprocess.Popen(
            [PROGRAM, *arguments, *self._options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            if READY in line:
                return
        self.end()
        raise AssertionError("".join(lines))

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, if it runs."""
        if self._process is None:
            return
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        self._process.wait(STOP_TIMEOUT_S)
        self._process.stdout.close()
        self._process = None

    def command(self, *arguments: str | int, password: str | None = None) -> Any:
        """Gives it a command, on a connection of the test's own."""
        with redis.Redis(port=self.port, password=password) as client:
            return client.execute_command(*arguments)


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Runs a server; the test is skipped where there is none."""
    require_redis()
    server = RedisServer(folder, options)
    try:
        yield server
    finally:
        server.end()
