"""A proxy between a client and a server that loses requests and answers as a test tells it. It knows no messages."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum, auto
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from cellserve.errors import CellServeError, trailers_of
from tests.servers import LoopThread

LOST = "Socket closed"


class Loss(Enum):
    """What may happen to a request."""

    REQUEST = auto()  # The connection breaks before the server gets it.
    ANSWER = auto()  # The connection breaks after the server has done it.
    REQUEST_SILENTLY = auto()  # The server never gets it, and the client waits.
    ANSWER_SILENTLY = auto()  # The server has done it, and the client waits.


Fault: TypeAlias = Loss | CellServeError | None
Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


class FlakyProxy(grpc.GenericRpcHandler):
    """Forwards every RPC to a server, but for those that a test has planned otherwise.

    Attributes:
        seen: how often each method was called, by its short name: ``Step``.
        held: released once for every call that begins to wait in vain.
    """

    def __init__(self, target: str) -> None:
        self.seen: Counter[str] = Counter()
        self.held = threading.Semaphore(0)
        self._faults: dict[str, deque[Fault]] = {}
        self._target = target
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._channel = grpc.aio.insecure_channel(target)

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return f"127.0.0.1:{self._port}"

    def plan(self, method: str, *faults: Fault) -> None:
        """What happens to the next calls of a method, one after the other; an error is answered; None: nothing."""
        self._faults.setdefault(method, deque()).extend(faults)

    async def start(self) -> None:
        """Begins to listen."""
        await self._server.start()

    async def stop(self) -> None:
        """Ends everything under way."""
        await self._server.stop(None)
        await self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """grpc's hook: the handler of a method. Client-streaming and unary ones, which is all that the tests need."""
        method = str(handler_call_details.method)
        if method.endswith("DefineModel"):
            stream: Any = self._channel.stream_unary(method)

            async def forward_stream(requests: AsyncIterator[bytes], context: Context) -> bytes:
                messages = [item async for item in requests]
                return await self._forward(method, lambda: stream(messages), context)

            return grpc.stream_unary_rpc_method_handler(forward_stream)
        unary: Any = self._channel.unary_unary(method)

        async def forward(request: bytes, context: Context) -> bytes:
            return await self._forward(method, lambda: unary(request), context)

        return grpc.unary_unary_rpc_method_handler(forward)

    async def _forward(self, method: str, send: Callable[[], Awaitable[bytes]], context: Context) -> bytes:
        name = method.rpartition("/")[2]
        self.seen[name] += 1
        faults = self._faults.get(name)
        fault = faults.popleft() if faults else None
        answer = b""
        if fault in (None, Loss.ANSWER, Loss.ANSWER_SILENTLY):
            answer = await self._answer(send, context)
        if fault in (Loss.REQUEST, Loss.ANSWER):
            await context.abort(grpc.StatusCode.UNAVAILABLE, LOST)
        if fault in (Loss.REQUEST_SILENTLY, Loss.ANSWER_SILENTLY):
            self.held.release()
            await asyncio.Event().wait()
        if isinstance(fault, CellServeError):
            await context.abort(fault.code, fault.message, trailers_of(fault))
        return answer

    async def _answer(self, send: Callable[[], Awaitable[bytes]], context: Context) -> bytes:
        try:
            return await send()
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))


Proxy = TypeVar("Proxy", bound=FlakyProxy)


@contextmanager
def running(loop: LoopThread, make: Callable[[], Proxy]) -> Iterator[Proxy]:
    """Runs a proxy that is made in the loop in which it works."""

    async def start() -> Proxy:
        made = make()
        await made.start()
        return made

    proxy = loop.run(start())
    try:
        yield proxy
    finally:
        loop.run(proxy.stop())


def flaky_proxy(loop: LoopThread, target: str) -> AbstractContextManager[FlakyProxy]:
    """Runs a proxy in front of a server."""
    return running(loop, lambda: FlakyProxy(target))
