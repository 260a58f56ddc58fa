"""The connection's one stream of steps: begun when it is needed, begun anew after it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from cellserve.errors import CellServeError, UnimplementedError
from cellserve.v1 import stream_pb2
from cellserve_client.streaming.stream import Request, StepStream


class Link:
    """The stream of a connection.

    Args:
        begin: begins a call of StreamSteps.
        error_of_call: what the end of a call means.
        source, on_stepped: as of ``StepStream``.
        on_draining: called when the server of the stream that is up is about to stop.
        on_end: called when a stream has ended, before those who wait for answers are told.

    Attributes:
        current: the stream that is up; None: there is none.
        serial: the number of the newest stream; 0: there was none.
        failures: how many streams in a row have ended without a step answered.
        refusal: what a server said that has no streams.
    """

    def __init__(
        self,
        begin: Callable[[], Any],
        error_of_call: Callable[[grpc.aio.AioRpcError], CellServeError],
        source: Callable[[StepStream], Request | None],
        on_stepped: Callable[[stream_pb2.Stepped], None],
        on_draining: Callable[[], None],
        on_end: Callable[[StepStream, CellServeError], None],
    ) -> None:
        self.current: StepStream | None = None
        self.serial = 0
        self.failures = 0
        self.refusal: UnimplementedError | None = None
        self._begin = begin
        self._error_of_call = error_of_call
        self._source = source
        self._on_stepped = on_stepped
        self._on_draining = on_draining
        self._on_end = on_end
        self._living: asyncio.Task[None] | None = None

    def stream(self) -> StepStream:
        """The stream that is up; a new one where there is none.

        Raises:
            UnimplementedError: the server has no streams.
            FailedPreconditionError: the connection is closed, or belongs to another event loop or process.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.current is None:
            self.current = StepStream(
                self._begin(), self._error_of_call, self._source, self._on_stepped, self._on_draining
            )
            self.serial += 1
            self._living = asyncio.get_running_loop().create_task(self._live(self.current), name="cellserve stream")
        return self.current

    async def _live(self, stream: StepStream) -> None:
        error = await stream.run()
        if self.current is not stream:
            return  # It was closed, by us.
        self.current = None
        self.failures = 1 if stream.has_stepped else self.failures + 1
        if type(error) is UnimplementedError and not stream.has_stepped:
            self.refusal = error
        self._on_end(stream, error)
        stream.tell_broken(error)

    async def close(self, error: CellServeError) -> None:
        """Ends the stream; who still waits for answers is told this error."""
        stream, self.current = self.current, None
        living, self._living = self._living, None
        if stream is not None:
            await stream.finish()
            stream.tell_broken(error)
        if living is not None:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
