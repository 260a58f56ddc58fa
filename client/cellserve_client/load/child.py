"""A process of a load test that sends: ``python -m cellserve_client.load.child FILE_DESCRIPTOR``, started by ``crew``.

Each has its own connections and event loop, and shares nothing but a pipe with the process that started it.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from multiprocessing.connection import Connection

from cellserve.errors import CellServeError
from cellserve_client.load.clock import LoadClock
from cellserve_client.load.messages import Assignment, Begin, Failed, FromProcess
from cellserve_client.load.worker import work


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop that wakes up to the microsecond.

    With epoll it is up to a millisecond late, which would be a part of every latency of an open loop.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _serve(pipe: Connection[object, object]) -> None:
    assignment = pipe.recv()
    assert isinstance(assignment, Assignment), "it is the first message"
    loop = asyncio.get_running_loop()
    began: asyncio.Future[float] = loop.create_future()
    clock = LoadClock(assignment.plan.before_s, assignment.plan.measured_s)

    def read() -> None:
        try:
            message = pipe.recv()
        except (EOFError, ConnectionResetError):
            message = None  # The process that started this one has ended.
        if isinstance(message, Begin):
            began.set_result(message.moment)
            return
        loop.remove_reader(pipe.fileno())
        clock.stop()
        if not began.done():
            began.set_result(clock.now())

    def tell(message: FromProcess) -> None:
        try:
            pipe.send(message)
        except BrokenPipeError:
            clock.stop()  # Nobody is there to be told; the sessions are to be deleted all the same.

    loop.add_reader(pipe.fileno(), read)
    try:
        await work(assignment, tell, began, clock)
    except CellServeError as error:
        tell(Failed(error.message))


def main() -> None:
    """Does what is asked for over the pipe with this file descriptor."""
    pipe: Connection[object, object] = Connection(int(sys.argv[1]))
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(_serve(pipe))


if __name__ == "__main__":
    main()
