"""A Redis of the fleet's own, with an append-only file."""

from __future__ import annotations

import socket
from pathlib import Path

from deploy.fleet.ports import HOST
from deploy.fleet.process import ManagedProcess
from deploy.fleet.programs import find_program

DEFAULT_FSYNC = "everysec"


class RedisServer(ManagedProcess):
    """``redis-server`` on this machine alone. What it has answered survives its process, not the loss of power.

    Args:
        port: where it listens.
        folder: for its append-only file and its log; it has to be there.
        fsync: ``everysec``, ``always`` (then the loss of power loses nothing either) or ``no``.

    Raises:
        MissingProgramError: it is not installed.
    """

    def __init__(self, port: int, folder: Path, fsync: str = DEFAULT_FSYNC) -> None:
        self.port = port
        settings = {
            "bind": HOST,
            "port": str(port),
            "dir": str(folder.resolve()),
            "appendonly": "yes",
            "appendfsync": fsync,
            "save": "",  # The append-only file is enough.
            "maxmemory-policy": "noeviction",  # A session is refused rather than dropped.
            "daemonize": "no",
        }
        command = [find_program("redis-server")]
        for name, value in settings.items():
            command += [f"--{name}", value]
        super().__init__("redis-server", command, folder / "redis-server.log", lambda _: answers_ping(port))

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """As ``--store`` takes it."""
        return f"redis://{self.address}/0"


def answers_ping(port: int) -> bool:
    """Whether a Redis there answers commands: it does not while it reads its file."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
