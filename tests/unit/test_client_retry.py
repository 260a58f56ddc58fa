"""When the client sends a request again, and after how long: on a clock of the test's own, nothing sleeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from cellserve.errors import (
    CellServeError,
    DeadlineExceededError,
    DrainingError,
    FailedPreconditionError,
    FieldInvalidError,
    InternalError,
    QueueFullError,
    QuotaExceededError,
    ResourceExhaustedError,
    RunCancelledError,
    SessionNotFoundError,
    ShapeMismatchError,
    StepOutOfOrderError,
    StoreUnavailableError,
    UnavailableError,
    from_rpc_error,
    trailers_of,
)
from cellserve_client import methods
from cellserve_client.address import Address
from cellserve_client.fleet import Fleet
from cellserve_client.outcomes import Attempts, was_surely_not_applied
from cellserve_client.retry import Retrier, RetryPolicy, is_retryable
from cellserve_client.transport import Settings, Transport


class Longest(random.Random):
    """Draws the longest wait there may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def reached(policy: RetryPolicy = RetryPolicy()) -> Retrier:  # noqa: B008
    retrier = Retrier(policy, Longest())
    retrier.reached()
    return retrier


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnavailableError("gone"), True),
        (DrainingError("draining", retry_after_s=1), True),
        (StoreUnavailableError("no store"), True),
        (QueueFullError("full", retry_after_s=0.05), True),
        (QuotaExceededError("too many", retry_after_s=5), False),
        (QuotaExceededError("too many", retry_after_s=5, metadata={"quota": "max_sessions"}), False),
        (QuotaExceededError("too fast", retry_after_s=5, metadata={"quota": "max_steps_per_s"}), True),
        (QuotaExceededError("too many"), False),
        (SessionNotFoundError("none"), False),
        (StepOutOfOrderError("other step"), False),
        (DeadlineExceededError("late"), False),
        (FieldInvalidError("wrong"), False),
    ],
)
def test_only_what_may_pass_is_repeated(error: CellServeError, expected: bool) -> None:
    assert is_retryable(error) is expected


def test_waits_double_up_to_the_longest() -> None:
    retrier = reached(RetryPolicy(first_delay_s=0.1, max_delay_s=0.5, max_attempts=6))
    waits = [retrier.delay_s(QueueFullError("full", retry_after_s=0.0), attempt, 100.0) for attempt in range(1, 7)]
    assert waits == [0.1, 0.2, 0.4, 0.5, 0.5, None]


@pytest.mark.parametrize("error", [UnavailableError("gone"), DrainingError("stopping", retry_after_s=0.0)])
def test_a_server_that_was_there_is_tried_until_the_deadline(error: CellServeError) -> None:
    retrier = reached(RetryPolicy(max_attempts=2, max_delay_s=0.5))
    assert retrier.delay_s(error, 100, 100.0) == 0.5
    assert retrier.delay_s(error, 100, 0.5) is None
    assert reached(RetryPolicy(max_attempts=1)).delay_s(error, 1, 100.0) is None


def test_waits_are_drawn_from_nothing_to_the_longest() -> None:
    retrier = Retrier(RetryPolicy(first_delay_s=1.0), random.Random(0))
    retrier.reached()
    waits = [retrier.delay_s(UnavailableError("gone"), 1, 100.0) or 0.0 for _ in range(200)]
    assert 0.0 <= min(waits) < 0.1
    assert 0.9 < max(waits) <= 1.0


def test_what_the_server_asks_for_is_the_least() -> None:
    retrier = reached(RetryPolicy(first_delay_s=0.1))
    assert retrier.delay_s(QueueFullError("full", retry_after_s=3.0), 1, 100.0) == pytest.approx(3.1)


def test_no_wait_passes_the_deadline() -> None:
    assert reached(RetryPolicy(first_delay_s=0.1)).delay_s(UnavailableError("gone"), 1, 0.1) is None


def test_a_server_that_never_answered_is_given_up_soon() -> None:
    retrier = Retrier(RetryPolicy(max_first_contact_attempts=2), Longest())
    assert retrier.delay_s(UnavailableError("gone"), 1, 100.0) is not None
    assert retrier.delay_s(UnavailableError("gone"), 2, 100.0) is None
    retrier.reached()
    assert retrier.delay_s(UnavailableError("gone"), 2, 100.0) is not None


def test_an_empty_budget_ends_retries_and_successes_fill_it() -> None:
    retrier = reached(RetryPolicy(budget_retries=3, budget_refund=0.5))
    waits = [retrier.delay_s(UnavailableError("gone"), 1, 100.0) for _ in range(4)]
    assert [wait is None for wait in waits] == [False, False, False, True]
    retrier.succeeded()
    assert retrier.delay_s(UnavailableError("gone"), 1, 100.0) is None
    retrier.succeeded()
    assert retrier.delay_s(UnavailableError("gone"), 1, 100.0) is not None


def test_the_budget_never_grows_beyond_its_beginning() -> None:
    retrier = reached(RetryPolicy(budget_retries=1, budget_refund=10))
    retrier.succeeded()
    assert retrier.delay_s(UnavailableError("gone"), 1, 100.0) is not None
    assert retrier.delay_s(UnavailableError("gone"), 1, 100.0) is None


@pytest.mark.parametrize(
    "error", [QueueFullError("full", retry_after_s=0.05), ResourceExhaustedError("a proxy", retry_after_s=0.1)]
)
def test_what_a_server_refuses_has_a_budget_of_its_own(error: CellServeError) -> None:
    retrier = reached(RetryPolicy(budget_retries=1, budget_refusals=2, budget_refund=0.5))
    assert [retrier.delay_s(error, 1, 100.0) is None for _ in range(3)] == [False, False, True]
    # A server that is out of reach is another matter.
    assert retrier.delay_s(UnavailableError("gone"), 1, 100.0) is not None
    assert retrier.delay_s(UnavailableError("gone"), 1, 100.0) is None
    retrier.succeeded(2)
    assert retrier.delay_s(error, 1, 100.0) is not None
    assert retrier.delay_s(error, 1, 100.0) is None


def test_who_waits_for_its_own_rate_does_not_draw_on_the_budget_of_overload() -> None:
    retrier = reached(RetryPolicy(budget_refusals=0))
    error = QuotaExceededError("too fast", retry_after_s=0.1, metadata={"quota": "max_steps_per_s"})
    assert retrier.delay_s(error, 1, 100.0) is not None
    assert retrier.delay_s(QueueFullError("full", retry_after_s=0.1), 1, 100.0) is None


def test_a_refusal_that_lasts_beyond_the_deadline_takes_nothing_from_the_budget() -> None:
    retrier = reached(RetryPolicy(budget_refusals=1))
    assert retrier.delay_s(QueueFullError("overloaded", retry_after_s=0.4), 1, 0.3) is None
    assert retrier.delay_s(QueueFullError("full", retry_after_s=0.05), 1, 0.3) is not None


NUMBERS = ["max_attempts", "first_delay_s", "max_delay_s", "budget_retries", "budget_refusals", "budget_refund"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_policy_out_of_range_is_refused(name: str, value: float) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(FieldInvalidError, match=name):
        RetryPolicy(**arguments)


def rpc_error(error: CellServeError) -> grpc.aio.AioRpcError:
    """What grpc raises when the server answers with this error."""
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(error.code, empty, grpc.aio.Metadata(*trailers_of(error)), error.message)


def lost(detail: str) -> grpc.aio.AioRpcError:
    """What grpc raises when the connection is gone."""
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), detail)


class Method:
    """A stub's method that fails as it is told and then answers with the request."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.timeouts: list[float] = []

    async def __call__(self, request: Any, timeout: float, metadata: object) -> Any:  # noqa: ASYNC109
        self.timeouts.append(timeout)
        if self.failures:
            raise self.failures.pop(0)
        return request


class Sent(methods.Method):
    """A method whose requests go to a function of the test's."""

    def __init__(self, send: Callable[..., Awaitable[Any]]) -> None:
        super().__init__("recurrent.Step")
        self._send = send

    def __call__(self, transport: Any) -> Callable[..., Awaitable[Any]]:
        return self._send


def invoke(
    method: Callable[..., Awaitable[Any]], time: Time, *, timeout_s: float = 10.0, attempts: Attempts | None = None
) -> Any:
    fleet = Fleet(
        "localhost:50051",
        policy=RetryPolicy(first_delay_s=1.0, max_first_contact_attempts=8),
        clock=time,
        sleep=time.sleep,
        randomness=Longest(),
    )
    request: Any = "request"
    return asyncio.run(fleet.invoke(Sent(method), request, fleet.deadline(timeout_s), attempts))


def test_a_request_is_repeated_until_it_is_answered() -> None:
    time, method = Time(), Method(lost("Socket closed"), rpc_error(QueueFullError("full", retry_after_s=0.5)))
    assert invoke(method, time) == "request"
    assert time.slept == [1.0, 1.5]
    assert method.timeouts == [10.0, 9.0, 7.5]


def test_an_answer_that_says_no_is_not_repeated() -> None:
    time, method = Time(), Method(rpc_error(SessionNotFoundError("no such session")))
    with pytest.raises(SessionNotFoundError, match="no such session"):
        invoke(method, time)
    assert time.slept == []


def test_retries_end_before_the_deadline_with_the_last_error() -> None:
    time, method = Time(), Method(*(lost("Connection refused") for _ in range(9)))
    with pytest.raises(UnavailableError, match=r"no server answers at localhost:50051 \(connection refused\)"):
        invoke(method, time, timeout_s=2.5)
    assert time.slept == [1.0, 1.0]


def test_the_deadline_names_the_server_and_the_time() -> None:
    late = grpc.aio.AioRpcError(
        grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata(), "Deadline Exceeded"
    )
    attempts = Attempts()
    with pytest.raises(DeadlineExceededError, match=r"no answer from localhost:50051 within 2 s"):
        invoke(Method(late), Time(), timeout_s=2.0, attempts=attempts)
    assert attempts.ambiguous


@pytest.mark.parametrize(
    ("failure", "ambiguous"),
    [
        (lost("Socket closed"), True),
        (rpc_error(DrainingError("stopping", retry_after_s=0.1)), False),
        (rpc_error(QueueFullError("full", retry_after_s=0.1)), False),
        (rpc_error(StoreUnavailableError("no store", retry_after_s=0.1)), True),
        (grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "draining"), True),
    ],
)
def test_it_is_known_whether_an_attempt_may_have_been_applied(failure: BaseException, ambiguous: bool) -> None:
    attempts = Attempts()
    invoke(Method(failure), Time(), attempts=attempts)
    assert attempts.ambiguous is ambiguous


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_code_alone_never_says_that_nothing_was_applied(code: grpc.StatusCode) -> None:
    bare = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "from a proxy, or from grpc itself")
    assert not was_surely_not_applied(from_rpc_error(bare))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ShapeMismatchError("shape"), True),
        (FieldInvalidError("field"), True),
        (StepOutOfOrderError("step"), True),
        (SessionNotFoundError("none"), True),
        (QuotaExceededError("quota"), True),
        (QueueFullError("full"), True),
        (DrainingError("stopping"), True),
        (InternalError("a bug"), False),
        (StoreUnavailableError("store"), False),
        (DeadlineExceededError("late"), False),
        (RunCancelledError("cancelled"), False),
    ],
)
def test_only_our_own_refusals_say_so(error: CellServeError, expected: bool) -> None:
    assert was_surely_not_applied(from_rpc_error(rpc_error(error))) is expected


def test_an_answer_above_the_limit_names_the_option() -> None:
    words = "Received message larger than max (70000000 vs. 67108864)"
    for detail in (words, f"CLIENT: {words}", f"Stream removed (CLIENT: {words})"):
        empty = grpc.aio.Metadata()
        attempts = Attempts()
        with pytest.raises(ResourceExhaustedError, match=r"70000000 bytes.* max_message_bytes=67108864"):
            invoke(
                Method(grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, empty, empty, detail)),
                Time(),
                attempts=attempts,
            )
        assert attempts.ambiguous


def test_a_cancelled_request_may_have_been_applied() -> None:
    attempts = Attempts()
    with pytest.raises(asyncio.CancelledError):
        invoke(Method(asyncio.CancelledError()), Time(), attempts=attempts)
    assert attempts.ambiguous


def test_the_messages_of_a_stream_are_made_anew_for_every_attempt() -> None:
    seen: list[list[int]] = []

    async def method(requests: Any, timeout: float, metadata: object) -> str:  # noqa: ASYNC109
        seen.append(list(requests))
        if len(seen) == 1:
            raise lost("Socket closed")
        return "done"

    time = Time()
    fleet = Fleet("localhost:1", clock=time, sleep=time.sleep)
    requests: Any = lambda: iter([1, 2])  # noqa: E731
    assert asyncio.run(fleet.invoke(Sent(method), requests, fleet.deadline(None))) == "done"
    assert seen == [[1, 2], [1, 2]]


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), True, "3"])
def test_a_timeout_is_seconds_above_0(timeout_s: Any) -> None:
    with pytest.raises(FieldInvalidError, match="timeout_s"):
        Fleet("localhost:1", timeout_s=timeout_s)
    with pytest.raises(FieldInvalidError, match="timeout_s"):
        Fleet("localhost:1").deadline(timeout_s)


def test_a_connection_belongs_to_one_event_loop() -> None:
    transport = Transport(Address("localhost", 1), Settings())

    async def use() -> None:
        assert transport.recurrent is not None

    async def use_and_close() -> None:
        await use()
        with pytest.raises(FailedPreconditionError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(use()))
        await transport.close()
        with pytest.raises(FailedPreconditionError, match="closed"):
            await use()

    asyncio.run(use_and_close())
