"""The servers, each in a process of its own: started, measured, and ended by their own number."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
BLAS_THREADS = 1
_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


class ServerFailedError(RuntimeError):
    """A server did not start; its log is on stderr."""


@dataclass(frozen=True)
class ServerProcess:
    """A server that runs.

    Attributes:
        address: ``host:port``.
        pid: its process.
    """

    address: str
    pid: int

    def cpu_s(self) -> float:
        """The processor time of all its threads so far, those that have ended too."""
        if sys.platform == "linux":
            # The clock that clock_getcpuclockid(3) names: nanoseconds, where /proc counts hundredths of a second.
            return time.clock_gettime((~self.pid << 3) | 2)
        spent = psutil.Process(self.pid).cpu_times()
        return float(spent.user + spent.system)

    def resident_bytes(self) -> int:
        """The memory that it holds."""
        return int(psutil.Process(self.pid).memory_info().rss)


def blas_environment() -> Mapping[str, str]:
    """This process's environment with BLAS on one thread."""
    return {**os.environ, **dict.fromkeys(_BLAS_VARIABLES, str(BLAS_THREADS))}


@contextlib.contextmanager
def cellserve(*flags: str, package: Path | None = None) -> Iterator[ServerProcess]:
    """``cellserve serve`` on a free port of loopback, without models of its own.

    Args:
        flags: more of its command line.
        package: a folder with another copy of the server's package; None: the one that is installed.

    Raises:
        ServerFailedError: it ended before it was ready.
    """
    with tempfile.TemporaryDirectory() as nothing:
        where = ("--models", nothing, "--port", "0", "--http-port", "-1", "--log-level", "warning")
        with _started("cellserve", "serve", *where, *flags, package=package) as server:
            yield server


@contextlib.contextmanager
def reference() -> Iterator[ServerProcess]:
    """The server of ``reference.py``.

    Raises:
        ServerFailedError: it ended before it was ready.
    """
    with _started("benchmarks.reference") as server:
        yield server


@contextlib.contextmanager
def _started(module: str, *arguments: str, package: Path | None = None) -> Iterator[ServerProcess]:
    command = [sys.executable, "-m", module, *arguments]
    environment = dict(blas_environment())
    if package is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package), environment.get("PYTHONPATH"))))
    # In a session of its own: Ctrl-C reaches this process alone, which then ends the servers in order.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        assert process.stdout is not None
        too_late = threading.Timer(START_TIMEOUT_S, process.kill)
        too_late.start()
        line = process.stdout.readline()
        too_late.cancel()
        if " listening on " not in line:
            raise ServerFailedError(f"{module} did not start within {START_TIMEOUT_S:g} s; its log says why")
        yield ServerProcess(line.split()[-1], process.pid)
    finally:
        end(process)


def take_sigterm_as_interrupt() -> None:
    """Makes SIGTERM what Ctrl-C is, so that what was started is ended in order."""
    # Said anew, because a shell starts what it runs in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def end(process: subprocess.Popen[str], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Ends a process with SIGTERM, and with SIGKILL if that takes too long."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
