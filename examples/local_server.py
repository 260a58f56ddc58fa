"""A server in a process of its own, for examples."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

STOP_TIMEOUT_S = 40.0
READY_PREFIX = "cellserve listening on "


class ServerFailedError(RuntimeError):
    """The server did not start, did not stop, or did not answer as it should."""


class LocalServer:
    """Starts ``cellserve serve`` on a free port; leaving the block stops it with SIGTERM.

    Args:
        models: the folder of models.

    Attributes:
        address: ``host:port``.
        exit_code: after the block.

    Raises:
        ServerFailedError: it ended before it was ready; its log is on stderr.
    """

    def __init__(self, models: Path) -> None:
        self._models = models
        self.address = ""
        self.exit_code: int | None = None

    @property
    def pid(self) -> int:
        """The number of the server's process."""
        return self._process.pid

    def __enter__(self) -> LocalServer:
        command = [sys.executable, "-m", "cellserve", "serve", "--models", str(self._models)]
        command += ["--port", "0", "--http-port", "-1", "--log-level", "warning"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line.startswith(READY_PREFIX):
            self._stop()
            raise ServerFailedError(f"the server did not start (exit code {self.exit_code}); its log says why")
        self.address = line.removeprefix(READY_PREFIX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_code = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
