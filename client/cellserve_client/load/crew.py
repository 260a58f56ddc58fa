"""The processes of a load test that send, as the process sees them that started them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any

from cellserve.errors import InternalError
from cellserve_client.load.messages import Assignment, Begin, Done, Failed, Ready, Stop
from cellserve_client.load.plan import LoadPlan
from cellserve_client.load.recorder import Interval

# Until the first requests are due, after all have said that they are ready.
HEAD_START_S = 0.1
# A process that was told to stop waits for its last answers and deletes its sessions, and may take as long as this.
END_TIMEOUT_S = 40.0


class Crew:
    """Starts the processes, hears what they tell, and ends them. Used with ``async with``.

    Args:
        plan: what they are to do.
        model: ``models/{model}/versions/{version}``.
        on_interval: told what each of them has counted, by its number.
    """

    def __init__(self, plan: LoadPlan, model: str, on_interval: Callable[[int, Interval], None]) -> None:
        self._assignments = [Assignment(plan, model, part) for part in range(plan.processes)]
        self._on_interval = on_interval
        self._members: list[_Member] = []

    async def __aenter__(self) -> Crew:
        try:
            for assignment in self._assignments:
                self._members.append(_Member(assignment, self._on_interval))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def begin(self, stopping: asyncio.Event) -> float:
        """Waits until all have opened their sessions and has them send; or until they are to stop before that.

        Returns:
            From when on they send, in seconds of the monotonic clock.

        Raises:
            InternalError: one of them has ended.
        """
        opening = asyncio.gather(*(asyncio.shield(member.ready) for member in self._members))
        await first_of(opening, stopping)
        if stopping.is_set():
            return time.monotonic()
        moment = time.monotonic() + HEAD_START_S
        for member in self._members:
            member.send(Begin(moment))
        return moment

    async def finished(self) -> None:
        """Waits until all have sent all, and deleted their sessions.

        Raises:
            InternalError: one of them has ended before.
        """
        await asyncio.gather(*(asyncio.shield(member.done) for member in self._members))

    def stop(self) -> None:
        """Has them end the test now; they still wait for the last answers."""
        for member in self._members:
            member.send(Stop())

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await asyncio.gather(*(asyncio.to_thread(member.end) for member in self._members))


async def first_of(awaited: asyncio.Future[Any], stopping: asyncio.Event) -> None:
    """Waits until something is done, or an event is set, whichever comes first.

    Raises:
        Exception: what the one that is done raises.
    """
    interrupting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((awaited, interrupting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        interrupting.cancel()
        if not awaited.done():
            awaited.cancel()
    if awaited.done() and not awaited.cancelled():
        await awaited


class _Member:
    """One process. Its pipe is read whenever there is something."""

    def __init__(self, assignment: Assignment, on_interval: Callable[[int, Interval], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self._part = assignment.part
        self._on_interval = on_interval
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            # Without the present folder among those that modules are found in.
            [sys.executable, "-P", "-m", "cellserve_client.load.child", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the process that started it.
        )
        theirs.close()
        self._pipe.send(assignment)
        loop.add_reader(self._pipe.fileno(), self._read)
        self._loop = loop

    def _read(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._loop.remove_reader(self._pipe.fileno())
            self._fail("a process of the load test has ended before its time; it may have said why on standard error")
            return
        if isinstance(message, Interval):
            self._on_interval(self._part, message)
        elif isinstance(message, Ready):
            self.ready.set_result(None)
        elif isinstance(message, Failed):
            self._fail(f"a process of the load test has ended before its time: {message.message}")
        elif isinstance(message, Done):
            self.done.set_result(None)

    def _fail(self, message: str) -> None:
        for waited in (self.ready, self.done):
            if not waited.done():
                waited.set_exception(InternalError(message))
                waited.exception()  # It may be that nobody waits.

    def send(self, message: Begin | Stop) -> None:
        if not self.done.done():
            try:
                self._pipe.send(message)
            except BrokenPipeError:
                return  # It has ended, which reading the pipe will tell.

    def end(self) -> None:
        """Waits for its end, for a moment, and sees to it then."""
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._loop.call_soon_threadsafe(self._loop.remove_reader, self._pipe.fileno())
        self._loop.call_soon_threadsafe(self._pipe.close)
