"""Steps of the blocking client: from any thread to the stream and back, without a coroutine for each."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any

from cellserve.errors import CellServeError, RunCancelledError
from cellserve_client.arrays import Outputs
from cellserve_client.deadlines import Deadline
from cellserve_client.stepping import Stepper
from cellserve_client.streaming.lanes import NotOnStreamError, StepRefused


class ThreadStep:
    """One step that a thread waits for. It is the step's waiter; all but ``wait`` runs in the connection's loop.

    Args:
        stepper: of the session.
        data: the inputs.
        deadline: until when.
    """

    __slots__ = ("_data", "_deadline", "_error", "_is_done", "_outputs", "_stepper", "_task", "_told")

    def __init__(self, stepper: Stepper, data: bytes, deadline: Deadline) -> None:
        self._stepper = stepper
        self._data = data
        self._deadline = deadline
        self._outputs: Outputs = None
        self._error: BaseException | None = None
        self._is_done = False
        self._task: asyncio.Task[Outputs] | None = None
        # A lock that is held until the answer is there: the cheapest thing that a thread can wait for.
        self._told = threading.Lock()
        self._told.acquire()

    def wait(self) -> Outputs:
        """Waits in the calling thread.

        Raises:
            CellServeError: as ``Session.step``.
        """
        self._told.acquire()
        if self._error is not None:
            raise self._error
        return self._outputs

    def begin(self) -> None:
        """Submits it; when the session is not free a coroutine waits for that."""
        account = self._stepper.account
        if not account.is_free:
            self._go_on(self._step())
            return
        account.is_free, account.is_taken = False, True
        try:
            self._stepper.submit(self._data, self, self._deadline.at, self._deadline.timeout_s)
        except CellServeError as error:
            self.set_exception(error)

    def interrupt(self) -> None:
        """Nobody waits for it any more."""
        if self._task is not None:
            self._task.cancel()
        elif not self._is_done:
            self._is_done = True
            self._stepper.give_up()
            self._stepper.account.give_turn_back()

    # --- as a waiter ----------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """As of ``Waiter``."""
        return self._is_done

    def set_result(self, result: Outputs, /) -> None:
        """As of ``Waiter``."""
        self._is_done = True
        self._outputs = result
        self._stepper.account.give_turn_back()
        self._told.release()

    def set_exception(self, error: Exception, /) -> None:
        """As of ``Waiter``."""
        self._is_done = True
        if isinstance(error, (StepRefused, NotOnStreamError)):
            self._go_on(self._recover(error))
            return
        self._stepper.give_up()
        self._stepper.account.give_turn_back()
        self._error = error
        self._told.release()

    # --- the long way ---------------------------------------------------------------------------------------------

    async def _step(self) -> Outputs:
        self._stepper.account.require_not_ended()
        return await self._stepper.step_packed(self._data, self._deadline)

    async def _recover(self, error: Exception) -> Outputs:
        try:
            return await self._stepper.recover(error)
        finally:
            self._stepper.account.give_turn_back()

    def _go_on(self, coroutine: Coroutine[Any, Any, Outputs]) -> None:
        self._task = asyncio.get_running_loop().create_task(coroutine)
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[Outputs]) -> None:
        self._is_done = True
        if task.cancelled():
            self._error = RunCancelledError("the connection was closed while the call was under way")
        elif (error := task.exception()) is not None:
            self._error = error
        else:
            self._outputs = task.result()
        self._told.release()


class TracedThreadStep(ThreadStep):
    """A step that is submitted in the context of its thread, where the trace that the thread is in can be seen."""

    __slots__ = ("_context",)

    def __init__(self, stepper: Stepper, data: bytes, deadline: Deadline) -> None:
        super().__init__(stepper, data, deadline)
        self._context = contextvars.copy_context()

    def begin(self) -> None:
        """As of ``ThreadStep``."""
        self._context.run(super().begin)

    def _go_on(self, coroutine: Coroutine[Any, Any, Outputs]) -> None:
        # A copy, because that of the thread may be entered just now, from ``begin``.
        self._context.copy().run(super()._go_on, coroutine)
