"""The flaky proxy with streams of steps: every ``Steps`` message on them counts as a call of ``Step``."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
import grpc.aio

from cellserve.errors import CellServeError, status_of
from cellserve.v1 import stream_pb2
from tests.flaky_proxy import LOST, Context, FlakyProxy, Loss, running
from tests.servers import LoopThread


class StreamProxy(FlakyProxy):
    """Forwards streams too. What is planned for ``Step`` happens to the next ``Steps`` or the next ``Step``.

    A loss breaks the whole stream, before or after the server has done the step; a silent one leaves it up. An error
    is answered at all positions of the message. What is planned for ``StreamSteps`` happens when a stream begins.

    Attributes:
        sizes: how many steps each ``Steps`` had.
        deliver_lost_late: a ``Steps`` that is lost reaches the server after all, just after the next ``GetSession`` was
            answered.
        delivered_late: how often that happened.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.sizes: Counter[int] = Counter()
        self.cut = asyncio.Event()
        self.deliver_lost_late = False
        self.delivered_late = 0
        self._lost: list[tuple[bytes, bytes]] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """grpc's hook: the handler of a method."""
        if not str(handler_call_details.method).endswith("StreamSteps"):
            return super().service(handler_call_details)
        method = str(handler_call_details.method)

        async def forward(requests: AsyncIterator[bytes], context: Context) -> None:
            await _Forwarding(self, self._channel.stream_stream(method)(), context).run(requests)

        return grpc.stream_stream_rpc_method_handler(forward)

    def next_fault(self, name: str) -> Any:
        """What is planned for this call of a method."""
        self.seen[name] += 1
        faults: deque[Any] | None = self._faults.get(name)
        return faults.popleft() if faults else None

    def keep_lost(self, opening: bytes, request: bytes) -> None:
        """Notes a message that is lost, with the one that opened its sessions."""
        if self.deliver_lost_late:
            self._lost.append((opening, request))

    async def _forward(self, method: str, send: Callable[[], Awaitable[bytes]], context: Context) -> bytes:
        answer = await super()._forward(method, send, context)
        if method.endswith("GetSession"):
            lost, self._lost = self._lost, []
            for opening, request in lost:
                call: Any = self._channel.stream_stream(method.replace("GetSession", "StreamSteps"))()
                await call.write(opening)
                await call.read()
                await call.write(request)
                await call.read()
                call.cancel()
                self.delivered_late += 1
        return answer

    def cut_streams(self) -> None:
        """Breaks the streams that are up. To be called in the proxy's loop."""
        self.cut.set()
        self.cut = asyncio.Event()


class _Forwarding:
    """One stream on its way through."""

    def __init__(self, proxy: StreamProxy, call: Any, context: Context) -> None:
        self._proxy = proxy
        self._call = call
        self._context = context
        self._swallowed: set[int] = set()
        self._awaited: dict[int, asyncio.Event] = {}
        self._opening = b""
        self._turn = asyncio.Lock()
        self._writing: asyncio.Future[None] | None = None

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        fault = self._proxy.next_fault("StreamSteps")
        if isinstance(fault, CellServeError):
            await self._context.abort(fault.code, fault.message)
        tasks = [
            asyncio.ensure_future(part) for part in (self._send(requests), self._receive(), self._proxy.cut.wait())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except grpc.aio.AioRpcError as error:
            await self._written()
            await self._context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        finally:
            for task in tasks:
                task.cancel()
            self._call.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if tasks[2] in done:
            await self._break_off()

    async def _send(self, requests: AsyncIterator[bytes]) -> None:
        async for request in requests:
            message = stream_pb2.StreamStepsRequest.FromString(request)
            fault = None
            if message.HasField("open"):
                self._opening = request
            if message.HasField("steps"):
                fault = self._proxy.next_fault("Step")
                self._proxy.sizes[len(message.steps.handles)] += 1
            if fault is None:
                await self._call.write(request)
                continue
            await self._lose(request, message.steps, fault)
        await self._call.done_writing()
        await asyncio.Event().wait()

    async def _lose(self, request: bytes, steps: stream_pb2.Steps, fault: Any) -> None:
        if isinstance(fault, CellServeError):
            stepped = stream_pb2.Stepped(seq=steps.seq, group=steps.group)
            for position in range(len(steps.handles)):
                stepped.errors.add(position=position, status=status_of(fault))
            await self._write(stream_pb2.StreamStepsResponse(stepped=stepped).SerializeToString())
            return
        self._swallowed.add(steps.seq)
        if fault in (Loss.ANSWER, Loss.ANSWER_SILENTLY):
            self._awaited[steps.seq] = asyncio.Event()
            await self._call.write(request)
            await self._awaited[steps.seq].wait()
        if fault is Loss.REQUEST:
            self._proxy.keep_lost(self._opening, request)
        if fault in (Loss.REQUEST, Loss.ANSWER):
            await self._break_off()
        self._proxy.held.release()

    async def _receive(self) -> None:
        async for answer in self._call:
            message = stream_pb2.StreamStepsResponse.FromString(answer)
            if message.HasField("stepped") and message.stepped.seq in self._swallowed:
                self._awaited[message.stepped.seq].set()
            else:
                await self._write(answer)

    # grpc does one thing at a time on a call. What it is told meanwhile fails, and the call would never end.

    async def _write(self, answer: bytes) -> None:
        async with self._turn:
            await self._written()
            self._writing = asyncio.ensure_future(self._context.write(answer))
            await asyncio.shield(self._writing)

    async def _break_off(self) -> None:
        await self._written()
        await self._context.abort(grpc.StatusCode.UNAVAILABLE, LOST)

    async def _written(self) -> None:
        """Waits for a write that is under way, be it that of somebody who has been cancelled."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))


def stream_proxy(loop: LoopThread, target: str) -> AbstractContextManager[StreamProxy]:
    """Runs a proxy in front of a server."""
    return running(loop, lambda: StreamProxy(target))
