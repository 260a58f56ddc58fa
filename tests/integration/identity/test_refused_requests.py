"""What a request takes is free again as soon as it was refused, and not only once the garbage collector has looked."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import grpc
import pytest

from cellserve.errors import FieldInvalidError
from cellserve.v1 import model_service_pb2, stream_pb2
from cellserve.v1 import recurrent_service_pb2 as messages
from tests.identities import TokenBook, metadata_of
from tests.integration.tls.using import Start
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp

METHOD = "/cellserve.v1.RecurrentService/Step"
MOST_BYTES = 1024


class Mark:
    """Goes with something, and so does a weak reference tell whether that is still there."""


class Request(bytes):
    """A request whose bytes have a mark: bytes themselves take no weak references."""

    mark: Mark


class Details(NamedTuple):
    method: str
    invocation_metadata: tuple[tuple[str, str], ...]


class Context:
    """A call as grpc has it: it keeps what it was aborted with."""

    def __init__(self, token: str) -> None:
        self.aborted: grpc.aio.AbortError | None = None
        self.code = grpc.StatusCode.OK
        self._token = token

    async def abort(self, code: grpc.StatusCode, *_: object) -> None:
        self.code = code
        self.aborted = grpc.aio.AbortError("Locally aborted.")
        raise self.aborted

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return metadata_of(self._token)

    def auth_context(self) -> dict[str, Any]:
        return {}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


class Servicer:
    """Refuses all requests, once they are decoded.

    Attributes:
        held: what tells whether anything is left of the frames that had decoded requests.
        error: what it raises.
    """

    def __init__(self) -> None:
        self.held: list[weakref.ref[Mark]] = []
        self.error: type[Exception] = FieldInvalidError

    async def one(self, request: messages.StepRequest, _: object) -> None:
        mark = Mark()
        self.held.append(weakref.ref(mark))
        raise self.error(f"name: {request.name} is none")

    async def many(self, requests: AsyncIterator[messages.StepRequest], context: object) -> None:
        async for request in requests:
            await self.one(request, context)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The garbage collector does not look."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("data", "is_known", "error", "code"),
    [
        (b"", False, FieldInvalidError, "UNAUTHENTICATED"),
        (b"x" * (MOST_BYTES + 1), True, FieldInvalidError, "INVALID_ARGUMENT"),
        (b"\xff", True, FieldInvalidError, "INVALID_ARGUMENT"),
        (b"", True, FieldInvalidError, "INVALID_ARGUMENT"),
        (b"", True, ZeroDivisionError, "INTERNAL"),
    ],
    ids=["of a stranger", "too large", "no message", "by the servicer", "for a bug"],
)
def test_nothing_is_left_of_a_refused_request(
    start_server: Start,
    book: TokenBook,
    data: bytes,
    is_known: bool,
    error: type[Exception],
    code: str,
    is_stream: bool,
) -> None:
    token = book.issue("shop")
    server = start_server(book.config(replace(TEST_CONFIG, max_message_bytes=MOST_BYTES)))
    servicer = Servicer()
    servicer.error = error
    context = Context(token if is_known else "unknown")
    held = server.loop.run(call(server, servicer, Request(data), context, is_stream=is_stream))
    server.loop.run(asyncio.sleep(0))  # A stream that nobody reads on is closed by a task of its own,
    server.loop.run(asyncio.sleep(0))  # and what it held is free one turn later.
    assert context.code.name == code
    left = [reference() for reference in (held, *servicer.held)]
    assert left == [None] * len(left)
    assert len(servicer.held) == (is_known and not data)


async def call(
    server: RunningApp, servicer: Servicer, request: Request, context: Context, *, is_stream: bool
) -> weakref.ref[Mark]:
    """Makes a call that is refused; what it gives tells whether the request is still there."""
    decode = messages.StepRequest.FromString
    handler: Any = (
        grpc.stream_unary_rpc_method_handler(servicer.many, decode)
        if is_stream
        else grpc.unary_unary_rpc_method_handler(servicer.one, decode)
    )

    async def continuation(_: object) -> Any:
        return handler

    details: Any = Details(METHOD, context.invocation_metadata())
    wrapped: Any = await server.app.interceptor.intercept_service(continuation, details)
    request.mark = Mark()
    held = weakref.ref(request.mark)
    if wrapped.request_streaming:
        await wrapped.stream_unary(only(request), context)
    else:
        await wrapped.unary_unary(request, context)
    assert context.aborted is not None
    return held


async def only(request: Request) -> AsyncIterator[bytes]:
    """A stream of one message."""
    yield request


@pytest.mark.parametrize("method", ["Step", "StreamSteps"])
@pytest.mark.parametrize("metadata", [metadata_of("unknown"), ()], ids=["an unknown token", "no token"])
def test_a_stranger_is_refused_by_the_headers_whether_or_not_the_request_ever_comes(
    start_server: Start, book: TokenBook, method: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    server = start_server(book.config())
    context = Context("")
    details: Any = Details(f"/cellserve.v1.RecurrentService/{method}", metadata)

    async def handler(_: object) -> Any:
        return grpc.unary_unary_rpc_method_handler(Servicer().one, messages.StepRequest.FromString)

    async def refuse() -> None:
        refusing: Any = await server.app.interceptor.intercept_service(handler, details)
        await refusing.stream_unary(silence(), context)

    server.loop.run(refuse())
    assert context.code.name == "UNAUTHENTICATED"


async def silence() -> AsyncIterator[bytes]:
    """The requests of a client that says nothing."""
    await asyncio.get_running_loop().create_future()
    yield b""


@pytest.mark.parametrize(
    ("token", "code"), [("", "UNAUTHENTICATED"), ("shop", "INVALID_ARGUMENT")], ids=["of a stranger", "of a tenant"]
)
def test_grpc_has_nothing_to_log_of_what_is_refused(
    start_server: Start, book: TokenBook, caplog: pytest.LogCaptureFixture, token: str, code: str
) -> None:
    metadata = metadata_of(book.issue(token) if token else "unknown")
    stubs = start_server(book.config()).stubs
    streamed = iter([stream_pb2.StreamStepsRequest()])
    defined = iter([model_service_pb2.DefineModelRequest()])
    for refused, request in (
        (stubs.recurrent.Step, messages.StepRequest(name="none")),
        (stubs.recurrent.StreamSteps, streamed),
        (stubs.models.DefineModel, defined),
    ):
        with pytest.raises(grpc.RpcError) as error:
            list(refused(request, metadata=metadata, timeout=RPC_TIMEOUT_S))
        assert error.value.code().name == code
    assert [record.getMessage() for record in caplog.records if record.name.startswith("grpc")] == []
