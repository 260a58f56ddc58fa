"""From threads into one event loop that runs in the background, and back with the result."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from cellserve.errors import CellServeError, FailedPreconditionError, RunCancelledError
from cellserve_client.transport import require_process

Result = TypeVar("Result")
Output = TypeVar("Output", covariant=True)
STOP_TIMEOUT_S = 10.0


class _Call(Generic[Result]):
    """One coroutine on its way through the loop. Its methods run in the loop, but for ``cancel``."""

    def __init__(self, coroutine: Coroutine[Any, Any, Result], loop: asyncio.AbstractEventLoop) -> None:
        self.future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        self._coroutine = coroutine
        self._loop = loop
        # The calling thread's, such as the trace that it is in: the loop's own would be that of whoever came first.
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[Result] | None = None

    def start(self) -> None:
        self._task = self._loop.create_task(self._coroutine, context=self._context)
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[Result]) -> None:
        if task.cancelled():
            self.future.cancel()
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())

    def cancel(self) -> None:
        """Cancels it from another thread, wherever it is."""
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            return  # The loop has ended, and the coroutine with it.

    def _cancel(self) -> None:
        # It comes behind start; without a task there was none: the interruption was faster.
        if self._task is not None:
            self._task.cancel()
        else:
            self._coroutine.close()


class HandedOver(Protocol[Output]):
    """What a thread has begun in the loop. ``begin`` and ``interrupt`` run there; an interruption may come too late."""

    def begin(self) -> None: ...
    def wait(self) -> Output: ...
    def interrupt(self) -> None: ...


class Portal:
    """An event loop in a thread of its own, for callers in any other thread.

    The thread is a daemon: a program that ends without closing does not hang. It does not survive a fork.

    Args:
        name: the thread's.
        on_stop: is run in the loop before it ends.
    """

    def __init__(self, name: str, on_stop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._process_id = os.getpid()
        self._on_stop = on_stop
        # Held while something is handed to the loop: nothing is handed over after the end of it.
        self._entrance = threading.Lock()
        self._is_open = True
        # What threads have handed over since the loop last looked: one wake-up for all of it.
        self._inbox: list[Callable[[], None]] = []
        ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name=name, daemon=True)
        self._thread.start()
        self._loop = ready.result()

    async def _serve(self, ready: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        ready.set_result(asyncio.get_running_loop())
        try:
            await self._stopping.wait()
        finally:
            await self._on_stop()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine in the loop and waits for its result.

        An exception in the waiting thread, such as KeyboardInterrupt, cancels the coroutine and goes on.

        Raises:
            FailedPreconditionError: in a fork, after ``stop``, or from within the loop itself.
            RunCancelledError: the portal was stopped meanwhile.
            Exception: whatever the coroutine raised.
        """
        try:
            self._require_usable()
        except FailedPreconditionError:
            coroutine.close()  # It is never begun; without this Python would warn about that too.
            raise
        call = _Call(coroutine, self._loop)
        try:
            if not self._hand_over(call.start):
                coroutine.close()
                raise _closed()
            return call.future.result()
        except concurrent.futures.CancelledError:
            raise RunCancelledError("the connection was closed while the call was under way") from None
        except BaseException:
            if not call.future.done():
                call.cancel()
            raise

    def wait_for(self, call: HandedOver[Result]) -> Result:
        """Begins a call in the loop and waits for it; many threads' calls are begun together.

        Raises:
            FailedPreconditionError: in a fork, after ``stop``, or from within the loop itself.
            Exception: whatever the call raises.
        """
        self._require_usable()
        if not self._hand_over(call.begin):
            raise _closed()
        try:
            return call.wait()
        except CellServeError:
            raise
        except BaseException:  # The waiting was interrupted.
            self._hand_over(call.interrupt)
            raise

    def _hand_over(self, function: Callable[[], None]) -> bool:
        """Has the loop call a function, unless it is about to end."""
        with self._entrance:
            if self._is_open:
                if not self._inbox:
                    # Before the function is there, so that an interruption in between leaves nothing unseen in it.
                    self._loop.call_soon_threadsafe(self._take_inbox)
                self._inbox.append(function)
            return self._is_open

    def _take_inbox(self) -> None:
        with self._entrance:
            functions, self._inbox = self._inbox, []
        for function in functions:
            function()

    def _require_usable(self) -> None:
        require_process(self._process_id)
        if not self._is_open:
            raise _closed()
        if threading.current_thread() is self._thread:
            raise FailedPreconditionError(
                "a blocking call from within the connection's own event loop would wait for itself; "
                "use cellserve_client.aio in coroutines"
            )

    def stop(self) -> None:
        """Ends the loop; calls under way are cancelled. In a fork, or again, nothing happens."""
        if os.getpid() != self._process_id:
            return
        with self._entrance:
            if not self._is_open:
                return
            self._is_open = False
            self._loop.call_soon_threadsafe(self._stopping.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_TIMEOUT_S)


def _closed() -> FailedPreconditionError:
    return FailedPreconditionError("this connection is closed; make another one with connect(...)")
