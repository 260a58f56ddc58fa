"""A whole server in this process whose methods are called with bytes, without a transport between: thousands a second.

Everything else is real: decoding, the interceptor, the services, the engine on its event loop, encoding.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from cellserve.errors import STATUS_DETAILS_KEY
from cellserve_server.app import App
from cellserve_server.config import ServerConfig
from cellserve_server.stores.memory import MemoryStore
from tests.clocks import ManualClock
from tests.fuzz.methods import Handler, Method, handlers_of, method_of
from tests.fuzz.oracle import call_complaints
from tests.fuzz.stage import Canary, set_stage, write_models

MIB = 1 << 20
ANSWERED_WITHIN_S = 10.0
SETTLED_WITHIN_S = 5.0
TIDIED_AFTER_CALLS = 100
# Small, so that limits are met and not only approached.
CONFIG = ServerConfig(
    port=0,
    http_port=-1,
    models_poll_s=0,
    max_message_bytes=MIB,
    max_sessions=8,
    max_state_bytes=16 * MIB,
    max_rows=64,
    max_sequence_steps=200,
    max_tombstones=100,
    max_remembered_requests=100,
    max_stream_groups=8,
    max_stream_handles=128,
    max_defined_models=8,
    max_defined_model_bytes=MIB,
    define_idle_timeout_s=5.0,
    inline_tick_us=60_000_000,  # No thread has to be waked: a call is over in one go, and the next run alike.
)
# It answers as long as its caller listens: one answer is enough.
ENDLESS = {"/grpc.health.v1.Health/Watch"}


class Finding(Exception):
    """A server that did what garbage must not make it do."""


class _Details(NamedTuple):
    method: str
    invocation_metadata: tuple[tuple[str, str], ...] = ()


class Context:
    """What a method sees of its caller, who has no transport.

    Attributes:
        ended_as: what the call was aborted with; OK while it was not.
        status: the status in its trailers; None: there is none.
        answers: what was written.
    """

    def __init__(self, handler: Handler, is_endless: bool) -> None:
        self.ended_as = grpc.StatusCode.OK
        self.status: status_pb2.Status | None = None
        self.answers: list[Message] = []
        self._handler = handler
        self._is_endless = is_endless

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """Ends the call."""
        self.ended_as = code
        for key, value in trailing_metadata:
            if key == STATUS_DETAILS_KEY:
                self.status = status_pb2.Status.FromString(value)
        raise grpc.aio.AbortError(details)

    async def write(self, message: Message) -> None:
        """Takes an answer."""
        self.note(message)
        if self._is_endless:
            raise asyncio.CancelledError("one answer is enough")
        await asyncio.sleep(0)

    def note(self, message: Message) -> None:
        """Takes an answer, encoded as it would be for the wire."""
        encode: Any = self._handler.response_serializer
        encode(message)
        self.answers.append(message)

    def set_code(self, code: grpc.StatusCode) -> None:
        """What the stubs do before they raise; what is raised decides."""

    def set_details(self, details: str) -> None:
        """As ``set_code``."""

    def code(self) -> grpc.StatusCode:
        return self.ended_as

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def auth_context(self) -> dict[str, Any]:
        return {}


class Served:
    """The server. Everything that is counted is counted since it began.

    Args:
        loop: where it runs.
        folder: an empty one, for its models.
        is_stored: whether its sessions are in a store, as those of one of several replicas are.

    Attributes:
        methods: all of the server, by path, in this order.
        calls: by path, how many were made.
        endings: by the name of the code, how many ended so.
        slowest_s: the longest call.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path, *, is_stored: bool = False) -> None:
        self.loop = loop
        write_models(folder)
        numbers = itertools.count(1)
        config = replace(CONFIG, models=str(folder))
        clock = ManualClock()
        store = MemoryStore(clock, is_volatile=False) if is_stored else None
        self.app = App(config, clock=clock, new_id=lambda: f"id-{next(numbers)}", store=store)
        loop.run_until_complete(self.app.start())
        raw = handlers_of(self.app)
        self.methods = {path: method_of(path, raw[path]) for path in sorted(raw)}
        self._handlers = {path: loop.run_until_complete(self._wrapped(path, raw[path])) for path in raw}
        self.calls: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._canary = Canary(self._rpc)
        set_stage(self._rpc)
        self._tasks = asyncio.all_tasks(loop)

    async def _wrapped(self, path: str, handler: Handler) -> Handler:
        async def continuation(_: Any) -> Handler:
            return handler

        details: Any = _Details(path)
        wrapped = await self.app.interceptor.intercept_service(continuation, details)
        assert wrapped is not None
        return wrapped

    def close(self) -> None:
        """Stops the server."""
        self.loop.run_until_complete(self.app.stop())

    def call(self, method: Method, requests: Sequence[bytes]) -> Context:
        """Makes one call; a method of one request gets the first.

        Raises:
            Finding: it ended as none may, or not in time, or harmed others.
        """
        context = Context(self._handlers[method.path], method.path in ENDLESS)
        began = time.perf_counter()
        try:
            self.loop.run_until_complete(
                asyncio.wait_for(self._call(method, list(requests) or [b""], context), ANSWERED_WITHIN_S)
            )
        except TimeoutError as error:
            raise Finding(f"{method.path}: no answer within {ANSWERED_WITHIN_S:g} s") from error
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
        self.calls[method.path] += 1
        self.endings[context.ended_as.name] += 1
        wrong = call_complaints(method.is_ours, context.ended_as, context.status, context.answers)
        if wrong:
            raise Finding(f"{method.path}: {'; '.join(wrong)}")
        if self.calls.total() % TIDIED_AFTER_CALLS == 0:
            self._look_after()
        return context

    async def _call(self, method: Method, requests: Sequence[bytes], context: Context) -> None:
        handler: Any = self._handlers[method.path]
        assert handler.request_deserializer is None, "the interceptor decodes, once it knows who calls"

        async def stream() -> AsyncIterator[Any]:
            for request in requests:
                yield request
                await asyncio.sleep(0)

        given = stream() if method.streams_requests else requests[0]
        behaviour = getattr(handler, f"{_word(method.streams_requests)}_{_word(method.streams_answers)}")
        try:
            answer = behaviour(given, context)
            if hasattr(answer, "__aiter__"):
                async for each in answer:
                    context.note(each)
            elif (last := await answer) is not None:
                context.note(last)
        except grpc.aio.AbortError:
            return
        except asyncio.CancelledError:
            if method.path not in ENDLESS:
                raise

    def _look_after(self) -> None:
        """Looks whether all is as it was, and has it be so again."""
        try:
            self._canary.step()
            set_stage(self._rpc)
        except AssertionError as error:
            raise Finding(f"others were harmed: {error}") from error
        # What the server does for itself, such as a write that has just been waited for, may be about to end.
        if new := asyncio.all_tasks(self.loop) - self._tasks:
            self.loop.run_until_complete(asyncio.wait(new, timeout=SETTLED_WITHIN_S))
        left = sorted(task.get_name() for task in asyncio.all_tasks(self.loop) - self._tasks)
        runs, rpcs, streams = self.app.engine.queue.runs, self.app.interceptor.admission.active, len(self.app.streams)
        if left or runs or rpcs or streams:
            raise Finding(f"left behind: tasks {left}, {rpcs} RPCs, {runs} runs, {streams} streams")

    def _rpc(self, path: str, request: Message) -> Message | None:
        """A call of ours, which is not counted; None: NOT_FOUND."""
        context = Context(self._handlers[path], False)
        self.loop.run_until_complete(self._call(self.methods[path], [request.SerializeToString()], context))
        if context.ended_as is grpc.StatusCode.NOT_FOUND:
            return None
        assert context.ended_as is grpc.StatusCode.OK, f"{path}: {context.ended_as.name}: {context.status}"
        return context.answers[0]


def _word(is_stream: bool) -> str:
    return "stream" if is_stream else "unary"
