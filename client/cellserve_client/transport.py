"""The way to the server: the channel, deadlines, retries, and grpc's errors as ours."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

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
    UnavailableError,
    from_rpc_error,
)
from cellserve.v1 import model_service_pb2_grpc, recurrent_service_pb2_grpc
from cellserve_client.address import Address, parse_address, unreachable
from cellserve_client.deadlines import Deadline
from cellserve_client.outcomes import Attempts
from cellserve_client.retry import Retrier, RetryPolicy
from cellserve_client.streaming.mux import Mux

MIB = 1 << 20
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 64 * MIB
MAX_TIMEOUT_S = 7 * 86400.0
KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
CONNECT_TIMEOUT_MS = 5_000
FIRST_RECONNECT_MS = 50
LONGEST_RECONNECT_MS = 2_000
# Codes that grpc and proxies give a stream that was cut; UNAVAILABLE has words of its own.
_CUT = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
)
# grpc's words for an answer above this client's limit, within others; SERVER tells of a request above the server's.
_TOO_LARGE = re.compile(r"(?<!SERVER: )Received message larger than max \((\d+) vs\. (\d+)\)")


class Transport:
    """One connection. It belongs to one event loop, that of its first request, and to one process.

    Args:
        address: ``host:port``.
        timeout_s: how long a call may take when it does not say, in seconds.
        policy: how failed requests are repeated.
        max_message_bytes: the largest answer that is taken.
        coalesce: whether the steps of many sessions go out as few messages on one stream.
        clock, sleep, randomness: handed in for tests.

    Raises:
        FieldInvalidError: the address or a number is not of its form.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        policy: RetryPolicy | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        coalesce: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        randomness: random.Random | None = None,
    ) -> None:
        self.address = parse_address(address)
        self.timeout_s = checked_timeout(timeout_s)
        if max_message_bytes < 1024:
            raise FieldInvalidError(f"max_message_bytes: expected at least 1024; got {max_message_bytes}")
        self.max_message_bytes = max_message_bytes
        self.retrier = Retrier(policy or RetryPolicy(), randomness or random.Random())
        self.clock = clock
        self.sleep = sleep
        self.coalesce = coalesce
        self._process_id = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._recurrent: Any = None
        self._models: Any = None
        self._mux: Mux | None = None
        self._closed = False

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

    @property
    def mux(self) -> Mux:
        """What sends steps on the stream. To be used in a coroutine."""
        self._open_channel()
        if self._mux is None:
            self._mux = Mux(self)
        return self._mux

    def begin_stream(self) -> Any:
        """Begins a call of StreamSteps."""
        return self.recurrent.StreamSteps()

    def stream_error(self, rpc_error: grpc.aio.AioRpcError) -> CellServeError:
        """What the end of a stream means. One that was cut on its way is a lost connection, whatever grpc calls it."""
        error = self._error_of(rpc_error, None)
        has_details = any(key == STATUS_DETAILS_KEY for key, _ in rpc_error.trailing_metadata() or ())
        if rpc_error.code() in _CUT and not has_details:
            return UnavailableError(f"lost the stream to {self.address.target}: {error.message}")
        return error

    def deadline(self, timeout_s: float | None) -> Deadline:
        """The deadline of a call that begins now; None: the connection's timeout.

        Raises:
            FieldInvalidError: the timeout is not a number of seconds above 0.
        """
        timeout_s = self.timeout_s if timeout_s is None else checked_timeout(timeout_s)
        return Deadline(self.clock() + timeout_s, timeout_s, self.clock)

    async def invoke(
        self,
        method: Callable[..., Awaitable[Any]],
        request: Message | Callable[[], Iterable[Message]],
        deadline: Deadline,
        attempts: Attempts | None = None,
    ) -> Any:
        """Sends a request until it is answered, is not worth repeating, or its time is over.

        Args:
            method: of a stub.
            request: the message, or for a client-streaming method what makes its messages anew for every attempt.
            deadline: of all attempts together.
            attempts: where to note whether an attempt may have been applied without an answer.

        Returns:
            The method's response message.

        Raises:
            CellServeError: what the server said, or why it could not be reached.
        """
        attempts = attempts or Attempts()
        number = 0
        while True:
            number += 1
            try:
                return await self._send_once(method, request, deadline)
            except CellServeError as error:
                attempts.failed(error)
                await self.before_retry(error, number, deadline)
            except BaseException as error:
                attempts.failed(error)
                if isinstance(error, asyncio.CancelledError) and self._closed and not _is_being_cancelled():
                    raise RunCancelledError("the connection was closed while the request was under way") from None
                raise

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

    async def _send_once(
        self,
        method: Callable[..., Awaitable[Any]],
        request: Message | Callable[[], Iterable[Message]],
        deadline: Deadline,
    ) -> Any:
        self._require_open()
        remaining_s = deadline.remaining_s()
        if remaining_s <= 0:
            raise self.too_late(deadline.timeout_s)
        try:
            response = await method(request() if callable(request) else request, timeout=remaining_s)
        except grpc.aio.AioRpcError as rpc_error:
            if callable(request) and _is_lost_by_grpc(rpc_error):
                raise UnavailableError("grpc lost the server's answer", retry_after_s=0.0) from rpc_error
            raise self._error_of(rpc_error, deadline) from rpc_error
        self.retrier.succeeded()
        return response

    def _error_of(self, rpc_error: grpc.aio.AioRpcError, deadline: Deadline | None) -> CellServeError:
        error = from_rpc_error(rpc_error)
        if type(error) is UnavailableError and error.retry_after_s is None:
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
            self._loop = loop
            self._channel = grpc.aio.insecure_channel(
                self.address.target, options=channel_options(self.address, self.max_message_bytes)
            )
            # The generated stubs carry no types.
            self._recurrent = recurrent_service_pb2_grpc.RecurrentServiceStub(self._channel)
            self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        elif self._loop is not loop:
            raise FailedPreconditionError(
                "this connection belongs to another event loop; call connect(...) again in this one"
            )

    async def close(self) -> None:
        """Closes the connection; requests under way are cancelled. Again: nothing happens."""
        self._closed = True
        mux, self._mux = self._mux, None
        if mux is not None:
            await mux.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


def channel_options(address: Address, max_message_bytes: int) -> list[tuple[str, str | int]]:
    """The options of a channel. Public, so that what is compared with this client can have the same ones.

    Args:
        address: the server's.
        max_message_bytes: the largest answer that is taken.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.primary_user_agent", "cellserve-client"),
        ("grpc.max_send_message_length", -1),  # The server's limit counts; its answer says what it is.
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),  # How long one attempt to connect may take.
        ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
        ("grpc.enable_retries", 0),  # Retries are ours: they have a budget and keep their run ids.
    ]
    if address.is_loopback:
        options.append(("grpc.enable_http_proxy", 0))  # A proxy cannot reach this machine's own addresses.
    return options


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


def _is_lost_by_grpc(rpc_error: grpc.aio.AioRpcError) -> bool:
    """Whether an error is grpc.aio's own: a server that answers while messages are still sent may trip it.

    It says INTERNAL then, without anything from the server; the streamed requests here can be made again.
    """
    return rpc_error.code() is grpc.StatusCode.INTERNAL and rpc_error.details() == "Internal error from Core"


def _is_being_cancelled() -> bool:
    """Whether somebody cancelled the running task, in contrast to the request under it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
