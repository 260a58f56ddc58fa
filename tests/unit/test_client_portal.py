"""The blocking client's way into its event loop: threads, forks, interruptions and the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cellserve.errors import FailedPreconditionError, RunCancelledError
from cellserve_client.portal import Portal

WAIT_S = 20


@pytest.fixture
def portal() -> Iterator[Portal]:
    async def nothing() -> None:
        pass

    made = Portal("test portal", nothing)
    yield made
    made.stop()


async def thread_name() -> str:
    return threading.current_thread().name


def test_coroutines_run_in_the_portals_thread(portal: Portal) -> None:
    assert portal.run(thread_name()) == "test portal"


def test_what_a_coroutine_raises_is_raised_to_the_caller(portal: Portal) -> None:
    async def fail() -> None:
        raise KeyError("the coroutine's own")

    with pytest.raises(KeyError, match="the coroutine's own"):
        portal.run(fail())


def test_many_threads_wait_side_by_side(portal: Portal) -> None:
    together = asyncio.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(lambda: portal.run(together.wait())) for _ in range(8)]
        assert sorted(wait.result(WAIT_S) for wait in waits) == list(range(8))


def test_an_interruption_cancels_the_call(portal: Portal) -> None:
    began, cancelled, raised = threading.Event(), threading.Event(), threading.Event()

    def raise_once(*_: object) -> None:
        if not raised.is_set():
            raised.set()
            raise KeyboardInterrupt

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupt() -> None:
        # As Ctrl-C does. One that comes just before the main thread falls asleep is not noticed by Python.
        while began.wait(WAIT_S) and not raised.wait(0.1):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, raise_once)
    interrupting = threading.Thread(target=interrupt, daemon=True)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        portal.run(wait())
    assert cancelled.wait(WAIT_S)
    interrupting.join(WAIT_S)
    signal.signal(signal.SIGINT, before)
    assert portal.run(thread_name()) == "test portal"


def test_stopping_ends_calls_under_way(portal: Portal) -> None:
    began = threading.Event()

    async def wait() -> None:
        began.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: portal.run(wait()))
        assert began.wait(WAIT_S)
        portal.stop()
        with pytest.raises(RunCancelledError, match="the connection was closed"):
            waiting.result(WAIT_S)


def test_what_is_to_be_done_at_the_end_is_done_in_the_loop() -> None:
    seen = []

    async def at_the_end() -> None:
        seen.append(await thread_name())

    portal = Portal("ending", at_the_end)
    portal.stop()
    portal.stop()
    assert seen == ["ending"]


def test_a_stopped_portal_is_refused(portal: Portal) -> None:
    portal.stop()
    with pytest.raises(FailedPreconditionError, match="this connection is closed"):
        portal.run(thread_name())


def test_a_call_from_within_the_loop_is_refused(portal: Portal) -> None:
    async def call_itself() -> str:
        return portal.run(thread_name())

    with pytest.raises(FailedPreconditionError, match="would wait for itself"):
        portal.run(call_itself())


FORK = """
import os, sys
from cellserve_client import connect
from cellserve.errors import CellServeError

server = connect("localhost:1")
child = os.fork()
if child == 0:
    try:
        server.models()
    except CellServeError as error:
        print(type(error).__name__, error, flush=True)
    server.close()
    sys.exit(7)
_, status = os.waitpid(child, 0)
server.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_use_after_a_fork_is_a_clear_error_and_ends_well() -> None:
    # Newer Pythons warn about every fork of a program with threads.
    command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("FailedPreconditionError this connection was made in process ")
    assert "call connect(...) after the fork" in done.stdout
    assert done.stderr == ""


def test_a_program_that_does_not_close_ends() -> None:
    program = "from cellserve_client import connect\nserver = connect('localhost:1')\nprint('end')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
