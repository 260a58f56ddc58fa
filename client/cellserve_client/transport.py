"""The way to one replica: the channel, its streams, one attempt of a request, and grpc's errors as ours."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from cellserve.errors import (
    STATUS_DETAILS_KEY,
    CellServeError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldInvalidError,
    ResourceExhaustedError,
    RunCancelledError,
    TlsError,
    UnavailableError,
    from_rpc_error,
)
from cellserve.v1 import model_service_pb2_grpc, recurrent_service_pb2_grpc
from cellserve_client.address import Address, is_somebody_there, unreachable
from cellserve_client.bearer import BearerToken
from cellserve_client.channels import Channels
from cellserve_client.deadlines import Deadline
from cellserve_client.methods import Method
from cellserve_client.retry import Retrier, RetryPolicy
from cellserve_client.streaming.mux import Mux
from cellserve_client.tls import TlsSettings

if TYPE_CHECKING:
    from cellserve_client.tracing import Tracing

MIB = 1 << 20
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 64 * MIB
MAX_TIMEOUT_S = 7 * 86400.0
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
# What a healthy server answers: a HealthCheckResponse whose first field, status, is SERVING.
SERVING = b"\x08\x01"
# Codes that grpc and proxies give a stream that was cut; UNAVAILABLE has words of its own.
_CUT = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
)
# grpc's words for an answer above this client's limit, within others; SERVER tells of a request above the server's.
_TOO_LARGE = re.compile(r"(?<!SERVER: )Received message larger than max \((\d+) vs\. (\d+)\)")


# What is sent beside a request.
Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Settings:
    """What the connections to all replicas share.

    Attributes:
        timeout_s: how long a call may take when it does not say, in seconds.
        policy: how failed requests are repeated.
        max_message_bytes: the largest answer that is taken.
        coalesce: whether the steps of many sessions go out as few messages on one stream.
        clock, sleep, randomness: handed in for tests.
        tls: None: the servers are spoken to in the clear.
        token: shown to them; None: none is.
        tracing: makes spans of requests; None: nobody traces.

    Raises:
        FieldInvalidError: a number is out of its range.
    """

    timeout_s: float = DEFAULT_TIMEOUT_S
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    coalesce: bool = True
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    randomness: random.Random | None = None
    tls: TlsSettings | None = None
    token: BearerToken | None = None
    tracing: Tracing | None = None

    def __post_init__(self) -> None:
        checked_timeout(self.timeout_s)
        if self.max_message_bytes < 1024:
            raise FieldInvalidError(f"max_message_bytes: expected at least 1024; got {self.max_message_bytes}")


class Transport:
    """One connection to one server. It belongs to one event loop, that of its first request, and to one process.

    Args:
        address: the server's.
        settings: of the client.
        on_stream_trouble: told that a stream has ended, or is about to; whether its steps are to be sent elsewhere.
            None: there is nowhere else.
    """

    def __init__(
        self,
        address: Address,
        settings: Settings,
        on_stream_trouble: Callable[[CellServeError], bool] | None = None,
    ) -> None:
        self.address = address
        self.max_message_bytes = settings.max_message_bytes
        self.retrier = Retrier(settings.policy, settings.randomness or random.Random())
        self.clock = settings.clock
        self.sleep = settings.sleep
        self._channels = Channels(address, settings.max_message_bytes, settings.tls, settings.clock)
        self._token = settings.token
        self.tracing = settings.tracing
        self._on_stream_trouble = on_stream_trouble
        self._process_id = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._recurrent: Any = None
        self._models: Any = None
        self._muxes: dict[Metadata, Mux] = {}
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def recurrent(self) -> Any:
        """The stub of RecurrentService. To be used in a coroutine."""
        self._open_channel()
        return self._recurrent

    @property
    def models(self) -> Any:
        """The stub of ModelService. To be used in a coroutine."""
        self._open_channel()
        return self._models

    def mux(self, metadata: Metadata = ()) -> Mux:
        """What sends steps on the stream that carries this metadata. To be used in a coroutine."""
        self._open_channel()
        mux = self._muxes.get(metadata)
        if mux is None:
            mux = self._muxes[metadata] = Mux(self, partial(self._begin_stream, metadata))
        return mux

    def _begin_stream(self, metadata: Metadata) -> Any:
        return self.recurrent.StreamSteps(metadata=self._with_token(metadata))

    def _with_token(self, metadata: Metadata) -> Metadata | None:
        """What is sent beside a request; None: nothing."""
        if self._token is not None:
            return (*metadata, *self._token.metadata())
        return metadata or None

    def leaves_stream(self, error: CellServeError) -> bool:
        """Told that a stream has ended, or drains: whether its steps are to be sent on another replica's."""
        return self._on_stream_trouble is not None and self._on_stream_trouble(error)

    def stream_error(self, rpc_error: grpc.aio.AioRpcError) -> CellServeError:
        """What the end of a stream means. One that was cut on its way is a lost connection, whatever grpc calls it."""
        error = self._error_of(rpc_error, None)
        if rpc_error.code() in _CUT and not _has_details(rpc_error):
            return UnavailableError(f"lost the stream to {self.address.target}: {error.message}")
        return error

    async def explained(self, error: CellServeError, deadline: Deadline) -> CellServeError:
        """The error of a request; where TLS is why the server cannot be reached, ``TlsError``, which says what to do.

        Where the client's files for TLS have changed since it connected, it connects anew with these.
        """
        if self._closed or type(error) is not UnavailableError or not is_somebody_there(error):
            return error
        if not self._channels.has_tls and self.retrier.was_reached:
            return error  # It has been spoken to without TLS before.
        try:
            if self._channels.are_outdated:
                await self._connect_anew()
                return error
            trouble = await self._channels.trouble(deadline.remaining_s())
        except FieldInvalidError as unusable:
            trouble = unusable.message
        if trouble is None:
            return error
        told = TlsError(f"cannot speak to the server at {self.address.target}: {trouble}", metadata=error.metadata)
        told.__cause__ = error
        return told

    async def before_retry(self, error: CellServeError, attempt: int, deadline: Deadline) -> None:
        """Returns when it is time for the next attempt.

        Args:
            error: why the last attempt failed.
            attempt: its number, from 1.
            deadline: of all attempts together.

        Raises:
            CellServeError: ``error``: there is to be no other attempt.
        """
        delay_s = self.retrier.delay_s(error, attempt, deadline.remaining_s())
        if delay_s is None:
            raise error
        await self.sleep(delay_s)

    async def send(
        self,
        method: Method,
        request: Message | Callable[[], Iterable[Message]],
        deadline: Deadline,
        metadata: Metadata = (),
    ) -> Any:
        """Sends a request once.

        Args:
            method: which one; see ``methods``.
            request: the message, or for a client-streaming method what makes its messages.
            deadline: until when it may take.
            metadata: sent beside it.

        Returns:
            The method's response message.

        Raises:
            CellServeError: what the server said, or why it could not be reached.
        """
        if self.tracing is not None:
            with self.tracing.request(method.full_name, self.address) as headers:
                return await self._send(method, request, deadline, (*metadata, *headers))
        return await self._send(method, request, deadline, metadata)

    async def _send(
        self,
        method: Method,
        request: Message | Callable[[], Iterable[Message]],
        deadline: Deadline,
        metadata: Metadata,
    ) -> Any:
        self._require_open()
        remaining_s = deadline.remaining_s()
        if remaining_s <= 0:
            raise self.too_late(deadline.timeout_s)
        message = request() if callable(request) else request
        try:
            response = await method(self)(message, timeout=remaining_s, metadata=self._with_token(metadata))
        except grpc.aio.AioRpcError as rpc_error:
            if callable(request) and _is_lost_by_grpc(rpc_error):
                self.retrier.reached()
                raise UnavailableError("grpc lost the server's answer", retry_after_s=0.0) from rpc_error
            raise self._error_of(rpc_error, deadline) from rpc_error
        self.retrier.succeeded()
        return response

    async def is_serving(self, timeout_s: float) -> bool:
        """Whether the server answers that it serves (grpc.health.v1), or answers without knowing such questions."""
        self._open_channel()
        assert self._channel is not None, "it was opened just now"
        # The bytes as they are: two fields are no reason to depend on another package.
        check: Any = self._channel.unary_unary(HEALTH_CHECK)
        try:
            answer: bytes = await check(b"", timeout=timeout_s, metadata=self._with_token(()))
        except grpc.aio.AioRpcError as rpc_error:
            return rpc_error.code() is grpc.StatusCode.UNIMPLEMENTED
        return answer == SERVING

    def _error_of(self, rpc_error: grpc.aio.AioRpcError, deadline: Deadline | None) -> CellServeError:
        error = from_rpc_error(rpc_error)
        if type(error) is UnavailableError and error.retry_after_s is None:
            return unreachable(self.address, error.message, self.retrier.was_reached)
        if isinstance(error, RunCancelledError) and not _has_details(rpc_error):
            # A server that ends, or a proxy, has cut it off: who cancels here gets no error of grpc's.
            return unreachable(self.address, error.message, self.retrier.was_reached)
        if isinstance(error, DeadlineExceededError) and deadline is not None:
            # grpc's own words, of which there are several; a server that was in time to refuse has better ones.
            return self.too_late(deadline.timeout_s) if "Deadline Exceeded" in error.message else error
        self.retrier.reached()
        sizes = _TOO_LARGE.search(error.message) if type(error) is ResourceExhaustedError else None
        if sizes is not None and int(sizes[2]) == self.max_message_bytes:
            return self._too_large(int(sizes[1]))
        return error

    def _too_large(self, size: int) -> ResourceExhaustedError:
        return ResourceExhaustedError(
            f"the answer has {size} bytes, more than this connection takes: expected at most "
            f"max_message_bytes={self.max_message_bytes}; connect(..., max_message_bytes=...) takes more",
            metadata={"size": str(size), "max_message_bytes": str(self.max_message_bytes)},
        )

    def too_late(self, timeout_s: float) -> DeadlineExceededError:
        """What callers get whose time is over, without an answer."""
        return DeadlineExceededError(
            f"no answer from {self.address.target} within {timeout_s:g} s", metadata={"timeout_s": f"{timeout_s:g}"}
        )

    def _require_open(self) -> None:
        if self._closed:
            raise FailedPreconditionError("this connection is closed; make another one with connect(...)")
        require_process(self._process_id)

    def _open_channel(self) -> None:
        self._require_open()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._use(self._channels.open())
            self._loop = loop
        elif self._loop is not loop:
            raise FailedPreconditionError(
                "this connection belongs to another event loop; call connect(...) again in this one"
            )

    def _use(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        # The generated stubs carry no types.
        self._recurrent = recurrent_service_pb2_grpc.RecurrentServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)

    async def _connect_anew(self) -> None:
        former = self._channel
        self._use(self._channels.open())
        if former is not None:
            await former.close()

    async def close(self) -> None:
        """Closes the connection; requests under way are cancelled. Again: nothing happens."""
        self._closed = True
        muxes, self._muxes = self._muxes, {}
        for mux in muxes.values():
            await mux.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


def require_process(process_id: int) -> None:
    """Raises ``FailedPreconditionError`` in another process than this one: its threads and sockets were not forked."""
    if os.getpid() != process_id:
        raise FailedPreconditionError(
            f"this connection was made in process {process_id} and does not work in its fork {os.getpid()}; "
            "call connect(...) after the fork"
        )


def checked_timeout(timeout_s: float) -> float:
    """The timeout, as a float.

    Raises:
        FieldInvalidError: it is not a number of seconds above 0.
    """
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise FieldInvalidError(f"timeout_s: expected seconds above 0, at most {MAX_TIMEOUT_S:g}; got {timeout_s!r}")
    return float(timeout_s)


def _has_details(rpc_error: grpc.aio.AioRpcError) -> bool:
    """Whether CellServe itself has said what is wrong."""
    return any(key == STATUS_DETAILS_KEY for key, _ in rpc_error.trailing_metadata() or ())


def _is_lost_by_grpc(rpc_error: grpc.aio.AioRpcError) -> bool:
    """Whether an error is grpc.aio's own: a server that answers while messages are still sent may trip it.

    It says INTERNAL then, without anything from the server; the streamed requests here can be made again.
    """
    return rpc_error.code() is grpc.StatusCode.INTERNAL and rpc_error.details() == "Internal error from Core"
