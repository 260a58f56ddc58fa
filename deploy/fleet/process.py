"""One process of the fleet: started, waited for until it is ready, stopped, killed, held, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.fleet.errors import FleetError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 45.0  # More than the drain timeout of a replica.
POLL_S = 0.01
LOG_LINES = 15  # Of its log, when it ends too early.


class ManagedProcess:
    """A program that is run again and again with the same arguments, so that it comes back at the same address.

    Args:
        name: what people call it.
        command: the program and its arguments.
        log: where its output goes, appended.
        is_ready: asked until it says yes; it is handed what this run has written to the log so far.
        environment: besides this process's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        is_ready: Callable[[str], bool],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = log
        self._is_ready = is_ready
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The number of its process.

        Raises:
            FleetError: it does not run.
        """
        if self._process is None:
            raise FleetError(f"{self.name} does not run")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, minus the signal if it was one; None: it runs, or was never started."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it runs (held or not)."""
        return self._process is not None and self._process.poll() is None

    @property
    def started(self) -> bool:
        """Whether it was ever started."""
        return self._process is not None

    def start(self) -> None:
        """Starts it, and returns when it is ready.

        Raises:
            FleetError: it runs already, ended before it was ready, or is not ready in time; with the end of its log.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Starts it and does not wait: several are ready sooner that start together.

        Raises:
            FleetError: it runs already.
        """
        if self.running:
            raise FleetError(f"{self.name} runs already")
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own: Ctrl-C in a terminal is for who holds the fleet, who then stops things in order.
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Waits until it is ready.

        Raises:
            FleetError: it ended before, or is not ready in time; then it is killed.
        """
        give_up = time.monotonic() + timeout_s
        while not self._is_ready(self.output()):
            if not self.running:
                raise FleetError(
                    f"{self.name} ended with exit code {self.exit_code}; its log {self.log}:\n{self._tail()}"
                )
            if time.monotonic() > give_up:
                self.kill()
                raise FleetError(f"{self.name} was not ready in {timeout_s:.0f} s; its log {self.log}:\n{self._tail()}")
            time.sleep(POLL_S)

    def output(self) -> str:
        """What it has written since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _tail(self) -> str:
        return "\n".join(f"    {line}" for line in self.output().splitlines()[-LOG_LINES:])

    def kill(self) -> None:
        """Ends it at once, without a chance to do anything (SIGKILL), and waits for its end.

        Raises:
            FleetError: it does not run.
        """
        self._send_all(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """Holds it: it does nothing, and its connections stay (SIGSTOP).

        Raises:
            FleetError: it does not run.
        """
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on that was held.

        Raises:
            FleetError: it does not run.
        """
        self._send_all(signal.SIGCONT)

    def _send_all(self, number: signal.Signals) -> None:
        """To its own processes as well, such as nginx's workers, which keep its port."""
        if self._process is None or not self.running:
            raise FleetError(f"{self.name} does not run")
        os.killpg(self._process.pid, number)

    def ask_to_stop(self) -> None:
        """Tells it to stop in good order (SIGTERM), and does not wait. Nothing, if it does not run.

        Once is enough: a replica that is told twice stops without draining.
        """
        if self._process is not None and self.running:
            self.resume()  # One that is held would not hear it.
            self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Waits for its end and gives its exit code.

        Raises:
            FleetError: it was never started, or it has not ended in time.
        """
        if self._process is None:
            raise FleetError(f"{self.name} does not run")
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise FleetError(f"{self.name} (process {self.pid}) did not end in {timeout_s:.0f} s") from None

    def wait_or_kill(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Waits for the end of one that was asked to stop, and gives its exit code.

        Raises:
            FleetError: it did not end in time, and was killed.
        """
        try:
            return self.wait(timeout_s)
        except FleetError:
            if self.running:
                self.kill()
            raise

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Stops it in good order and gives its exit code; at once, if it has ended already.

        Raises:
            FleetError: it was never started; or it did not end in time, and was killed.
        """
        self.ask_to_stop()
        return self.wait_or_kill(timeout_s)
