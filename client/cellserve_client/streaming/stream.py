"""One StreamSteps call from its beginning to its end: what is sent, in which order, and who is told of the answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import grpc.aio

from cellserve.errors import CellServeError, InternalError, InvalidArgumentError, UnavailableError, error_of
from cellserve.v1 import stream_pb2

Request = stream_pb2.StreamStepsRequest


class Sink(Protocol):
    """Who waits for the answers to one ``Steps``."""

    def stepped(self, message: stream_pb2.Stepped) -> bool:
        """Takes an answer to some positions, or to all. Returns whether it was the last one."""
        ...

    def broken(self, error: CellServeError) -> None:
        """The stream has ended; what was not answered may or may not be applied."""
        ...


# Told of the answer to an ``Open``, or why there is none.
OnOpened = Callable[[stream_pb2.Opened | CellServeError], None]
# Told that a ``Close`` was done, or why not.
OnClosed = Callable[[CellServeError | None], None]


class StepStream:
    """One StreamSteps call.

    Args:
        call: the call, just begun.
        error_of_call: what the end of the call means.
        source: asked for the next message whenever nothing else is due; None: there is none until ``wake``.
        on_stepped: told the number of each ``Steps`` that gets an answer, before its sink.
        on_draining: told that the server is about to stop.

    Attributes:
        draining: the server is about to stop: nothing that it has not seen yet is to be sent.
        has_stepped: whether any step was answered on it.
    """

    def __init__(
        self,
        call: Any,
        error_of_call: Callable[[grpc.aio.AioRpcError], CellServeError],
        source: Callable[[StepStream], Request | None],
        on_stepped: Callable[[int], None],
        on_draining: Callable[[], None],
    ) -> None:
        self.draining = False
        self.has_stepped = False
        self._call = call
        self._error_of_call = error_of_call
        self._source = source
        self._on_stepped = on_stepped
        self._on_draining = on_draining
        self._loop = asyncio.get_running_loop()
        self._urgent: deque[Request] = deque()
        self._outbox: deque[Request] = deque()
        self._sinks: dict[int, Sink] = {}
        self._opens: dict[int, OnOpened] = {}
        self._closes: dict[int, OnClosed] = {}
        self._seq = 0
        self._sleep: asyncio.Future[None] | None = None
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether it has ended: nothing can be sent on it."""
        return self._is_over

    # --- for those who send ---------------------------------------------------------------------------------------

    def next_seq(self) -> int:
        """A number for a message, used once."""
        self._seq += 1
        return self._seq

    def expect(self, seq: int, sink: Sink) -> None:
        """Has a sink told of the answers to a ``Steps``."""
        self._sinks[seq] = sink

    def expect_opened(self, seq: int, on_opened: OnOpened) -> None:
        """Has a function told of the answer to an ``Open``."""
        self._opens[seq] = on_opened

    def expect_closed(self, seq: int, on_closed: OnClosed) -> None:
        """Has a function told of the answer to a ``Close``."""
        self._closes[seq] = on_closed

    def send(self, request: Request) -> None:
        """Sends a message behind those that were given before, and before any of the source."""
        self._outbox.append(request)
        self.wake()

    def send_first(self, request: Request) -> None:
        """Sends a message before all others that wait."""
        self._urgent.append(request)
        self.wake()

    def wake(self) -> None:
        """Has the source asked again."""
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    # --- its life -------------------------------------------------------------------------------------------------

    async def run(self) -> CellServeError:
        """Sends and receives until the stream ends, for whatever reason, which is returned.

        Whoever waits for an answer then is told; nothing may be sent any more.
        """
        writer = self._loop.create_task(self._write(), name="cellserve stream writer")
        try:
            error = await self._read()
        finally:
            self._is_over = True
            writer.cancel()
            self._call.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return error

    def tell_broken(self, error: CellServeError) -> None:
        """Tells all who still wait for answers that none will come."""
        self._is_over = True
        opens, self._opens = self._opens, {}
        closes, self._closes = self._closes, {}
        sinks, self._sinks = self._sinks, {}
        for on_opened in opens.values():
            on_opened(error)
        for on_closed in closes.values():
            on_closed(error)
        for sink in sinks.values():
            sink.broken(error)

    def drop_unsent(self, error: CellServeError) -> None:
        """Tells those whose messages have not gone out, and never will, that there is no answer."""
        unsent, self._outbox = self._outbox, deque()
        for request in unsent:
            kind = request.WhichOneof("kind")
            if kind == "steps" and (sink := self._sinks.pop(request.steps.seq, None)) is not None:
                sink.broken(error)
            elif kind == "open" and (on_opened := self._opens.pop(request.open.seq, None)) is not None:
                on_opened(error)
            elif kind == "close" and (on_closed := self._closes.pop(request.close.seq, None)) is not None:
                on_closed(error)

    async def finish(self) -> None:
        """Tells the server that nothing more will come, and ends the call."""
        self._is_over = True
        if not self._call.done():
            # It ended meanwhile. ``InternalError``: with its connection, which this loop has not been told of yet.
            ended = (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError)
            with contextlib.suppress(*ended):
                await self._call.done_writing()
        self._call.cancel()

    async def _write(self) -> None:
        # A call that has ended refuses to be written to. Why it ended is what the reader gets.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                request = self._next()
                if request is None:
                    self._sleep = self._loop.create_future()
                    await self._sleep
                else:
                    await self._call.write(request)

    def _next(self) -> Request | None:
        if self._urgent:
            return self._urgent.popleft()
        if self.draining:
            return None
        if self._outbox:
            return self._outbox.popleft()
        return self._source(self)

    async def _read(self) -> CellServeError:
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                self._take(message)
        except grpc.aio.AioRpcError as rpc_error:
            return self._error_of_call(rpc_error)
        except InvalidArgumentError as error:
            return InternalError(f"the server's answer does not fit what was sent: {error.message}")
        except CellServeError as error:
            return error
        return UnavailableError("the server ended the stream")

    def _take(self, message: stream_pb2.StreamStepsResponse) -> None:
        kind = message.WhichOneof("kind")
        if kind == "stepped":
            stepped = message.stepped
            self.has_stepped = True
            self._on_stepped(stepped.seq)
            sink = self._sinks.get(stepped.seq)
            if sink is None:
                raise InternalError(f"stepped.seq: expected that of a message without an answer; got {stepped.seq}")
            if sink.stepped(stepped):
                del self._sinks[stepped.seq]
        elif kind == "opened":
            on_opened = self._opens.pop(message.opened.seq, None)
            if on_opened is None:
                raise InternalError(f"opened.seq: expected that of an Open without an answer; got {message.opened.seq}")
            on_opened(message.opened)
        elif kind == "closed":
            refusal = error_of(message.closed.status) if message.closed.HasField("status") else None
            on_closed = self._closes.pop(message.closed.seq, None)
            if on_closed is not None:
                on_closed(refusal)
            elif refusal is not None:
                raise refusal
        elif kind == "draining":
            # Which sessions move, when not all do, is told by their positions' errors too.
            was_draining, self.draining = self.draining, self.draining or message.draining.whole_stream
            if self.draining and not was_draining:
                self._on_draining()
