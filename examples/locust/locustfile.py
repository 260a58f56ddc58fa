"""Users for Locust, each of which streams into a session of its own.

Locust's users are gevent's greenlets. The client works in an event loop of asyncio, in a thread of its own, and gRPC
beneath it in threads of C: none of that can be turned into greenlets, so Locust must not replace Python's threads and
sockets (``LOCUST_SKIP_MONKEY_PATCH=1``). A greenlet hands its call to that loop and sleeps until it is woken; all of a
process's users share one connection, and what they send at once goes in few messages.
"""

# Locust is installed for this example alone and need not be there when the types are checked.
# mypy: disable-error-code="import-not-found, import-untyped, misc, untyped-decorator"

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

import gevent
import numpy as np
from gevent import monkey
from gevent.event import Event
from locust import User, constant_throughput, events, task
from locust.exception import StopUser

from cellserve_client import CellServeError, aio

if monkey.is_module_patched("threading"):
    raise SystemExit(
        "The client needs real threads: LOCUST_SKIP_MONKEY_PATCH=1 locust -f examples/locust/locustfile.py"
    )

# These two disturb nobody here, and Locust needs them for ``--processes``.
monkey.patch_os()
monkey.patch_time()

STEPS_PER_SECOND = 20

Result = TypeVar("Result")


class Connection:
    """A connection that greenlets share.

    Args:
        address: of the server, as ``connect`` takes it.
    """

    def __init__(self, address: str) -> None:
        self.server = aio.connect(address)
        self._loop = asyncio.new_event_loop()
        self._answered: deque[Event] = deque()
        # The one thing of gevent's that another thread may touch.
        self._waker = gevent.get_hub().loop.async_()
        self._waker.start(self._wake)
        threading.Thread(target=self._loop.run_forever, name="cellserve", daemon=True).start()

    def wait_for(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine in the connection's loop; other greenlets go on meanwhile."""
        done = Event()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.add_done_callback(lambda _: self._tell(done))
        try:
            done.wait()
        except gevent.GreenletExit:
            future.cancel()
            raise
        return future.result()

    def _tell(self, done: Event) -> None:
        """In the loop's thread: has the greenlet that waits woken in its own."""
        self._answered.append(done)
        self._waker.send()

    def _wake(self) -> None:
        while self._answered:
            self._answered.popleft().set()

    def close(self) -> None:
        """Ends it."""
        self.wait_for(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._waker.close()


@cache
def connection_to(address: str) -> Connection:
    """The process's connection: made when its first user starts, which is after Locust has forked its workers."""
    return Connection(address)


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """``--model``."""
    parser.add_argument("--model", default="speaker-id", help="The model that the sessions are of.")


class Stream(User):
    """Someone who sends a vector of random numbers twenty times a second, and waits for each answer."""

    host = "localhost:50051"
    wait_time = constant_throughput(STEPS_PER_SECOND)

    def on_start(self) -> None:
        """Opens the session."""
        self._connection = connection_to(self.host)
        self._random = np.random.default_rng()
        self._session = self._measured("open", self._open())

    def on_stop(self) -> None:
        """Closes it, if there is one."""
        if self._session is not None:
            self._measured("close", self._session.close())

    @task
    def step(self) -> None:
        """One step; a user whose session could not be opened stops."""
        if self._session is None:
            raise StopUser
        self._measured("step", self._step(self._session))

    async def _open(self) -> aio.Session:
        return await self._connection.server.session(self.environment.parsed_options.model)

    async def _step(self, session: aio.Session) -> None:
        (spec,) = session.model.inputs
        await session.step(self._random.standard_normal(spec.shape).astype(spec.dtype))

    def _measured(self, name: str, coroutine: Coroutine[Any, Any, Result]) -> Result | None:
        """Runs a coroutine and tells Locust how long that took, and what went wrong; then there is no result."""
        began = time.perf_counter()
        result, error = None, None
        try:
            result = self._connection.wait_for(coroutine)
        except CellServeError as caught:
            error = caught
        self.environment.events.request.fire(
            request_type="cellserve",
            name=name,
            response_time=(time.perf_counter() - began) * 1e3,
            response_length=0,
            exception=error,
            context={},
        )
        return result


@events.quitting.add_listener
def close_connection(environment: Any) -> None:
    """Ends the connection before the process does."""
    if connection_to.cache_info().currsize:
        connection_to(environment.host or Stream.host).close()
