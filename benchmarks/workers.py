"""A second client process, which does on command what would disturb the first one, or be disturbed by it."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import traceback
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks.processes import BLAS_THREADS, ServerProcess

STOP_TIMEOUT_S = 20.0
Work = Callable[["Commands", ServerProcess, int], Awaitable[None]]


class WorkerFailedError(RuntimeError):
    """The other process failed; the message has its traceback."""


class Commands:
    """What a worker sees of the process that started it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    async def next(self) -> Any:
        """The next command; None: there are no more."""
        try:
            return await asyncio.to_thread(self._pipe.recv)
        except EOFError:
            return None

    def answer(self, found: Any) -> None:
        """Answers the last command."""
        self._pipe.send((found, None))


class Worker:
    """Runs ``work`` in a process of its own; leaving the block ends it.

    Args:
        work: a function of a module: takes commands until there are no more.
        server: whose client it is.
        count: of what ``work`` says.
    """

    def __init__(self, work: Work, server: ServerProcess, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, work, server, count), daemon=True)
        self._process.start()
        theirs.close()

    async def ask(self, command: Any) -> Any:
        """Sends a command and waits for its answer.

        Raises:
            WorkerFailedError: it failed, or is gone.
        """
        self._pipe.send(command)
        try:
            found, failure = await asyncio.to_thread(self._pipe.recv)
        except (EOFError, OSError):
            raise WorkerFailedError(f"the worker ended with exit code {self._process.exitcode}") from None
        if failure is not None:
            raise WorkerFailedError(failure)
        return found

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._process.terminate()
        self._process.join(STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


def _main(pipe: Connection, work: Work, server: ServerProcess, count: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Who started it ends it.

    async def go() -> None:
        await work(Commands(pipe), server, count)

    try:
        with threadpool_limits(BLAS_THREADS):
            asyncio.run(go())
    except Exception:
        pipe.send((None, traceback.format_exc()))
