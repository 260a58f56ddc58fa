"""Both clients where requests and answers get lost: a step is applied once, and what is not known is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from cellserve.errors import (
    CellServeError,
    DeadlineExceededError,
    DrainingError,
    InternalError,
    QueueFullError,
    ResourceExhaustedError,
    SessionNotFoundError,
    StepOutOfOrderError,
    UnavailableError,
)
from cellserve.tensors import Array
from cellserve_client import Server, connect, rnn
from tests.clients import Kind, client
from tests.flaky_proxy import FlakyProxy, Loss
from tests.integration.client.helpers import (
    DEPTH,
    ONCE,
    TWICE,
    UNITS,
    Connect,
    assert_close,
)
from tests.servers import LoopThread

SOON_S = 0.2
FRAME = np.array([0.1, -0.2, 0.3], np.float32)


@pytest.fixture(params=[pytest.param(True, id="stream"), pytest.param(False, id="requests", marks=pytest.mark.slow)])
def connected(request: pytest.FixtureRequest, client_kind: Kind, loop_thread: LoopThread) -> Iterator[Connect]:
    """Connects either client; steps go over the stream, or are requests of their own. All losses are for both."""
    with ExitStack() as stack:
        yield lambda address, retry=None: stack.enter_context(
            client(client_kind, loop_thread, address, retry=retry, coalesce=request.param)
        )


@pytest.fixture
def flaky(connected: Connect, proxy: FlakyProxy) -> Server:
    """Connected to the proxy, with retries that hardly wait."""
    return connected(proxy.address, TWICE)


@pytest.fixture
def cell(flaky: Server) -> Any:
    """A cell on the server behind the proxy."""
    return flaky.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)


@pytest.fixture
def expected(cell: Any) -> Array:
    """The outputs of ten times ``FRAME``."""
    outputs: Array = rnn.dynamic_rnn(cell, np.tile(FRAME, (1, 10, 1)), dtype=np.float32)[0][0]
    return outputs


@pytest.mark.parametrize(
    "fault",
    [
        Loss.REQUEST,
        Loss.ANSWER,
        QueueFullError("full", retry_after_s=0.001),
        DrainingError("stopping", retry_after_s=0.001),
        UnavailableError("busy"),
    ],
    ids=["request lost", "answer lost", "queue full", "draining", "unavailable"],
)
def test_a_step_that_is_sent_again_is_applied_once(proxy: FlakyProxy, cell: Any, expected: Array, fault: Any) -> None:
    with cell.session() as session:
        assert_close(session.step(FRAME), expected[0])
        proxy.plan("Step", fault)
        assert_close(session.step(FRAME), expected[1])
        assert proxy.seen["Step"] == 3
        assert session.step_count == session.refresh().step_count == 2
        assert_close(session.step(FRAME), expected[2])


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.ANSWER])
@pytest.mark.parametrize("method", ["CreateSession", "ResetSession", "SetSessionState", "ForkSession", "DeleteSession"])
def test_what_changes_a_session_is_done_once(
    proxy: FlakyProxy, flaky: Server, cell: Any, expected: Array, method: str, loss: Loss
) -> None:
    proxy.plan(method, loss)
    session = cell.session()
    session.step(FRAME)
    copy = session.fork()
    assert copy.step_count == 1
    session.set_state(cell.zero_state(1), step_count=5)
    session.step(FRAME)
    assert session.step_count == 6
    session.reset()
    assert_close(session.step(FRAME), expected[0])
    assert session.step_count == 1
    session.close()
    copy.close()
    assert proxy.seen[method] == (3 if method == "DeleteSession" else 2)
    with pytest.raises(SessionNotFoundError, match="deleted"):
        flaky.session_info(session.id)


def test_a_definition_is_sent_again_whole(proxy: FlakyProxy, flaky: Server) -> None:
    proxy.plan("DefineModel", Loss.ANSWER)
    made = flaky.cell(rnn.BasicRNNCell(UNITS), seed=77, input_size=DEPTH)
    assert made.info is not None
    assert proxy.seen["DefineModel"] == 2


def test_retries_have_an_end(proxy: FlakyProxy, cell: Any) -> None:
    with cell.session() as session:
        full = QueueFullError("full", retry_after_s=0.001)
        proxy.plan("Step", full, full)
        with pytest.raises(QueueFullError):
            session.step(FRAME)
        assert proxy.seen["Step"] == 2


def test_a_server_that_was_there_is_tried_more_often_than_one_that_refuses(proxy: FlakyProxy, cell: Any) -> None:
    with cell.session() as session:
        proxy.plan("Step", *[Loss.REQUEST] * 5)
        session.step(FRAME)
        assert proxy.seen["Step"] == 6


def test_a_server_that_stays_away_is_named(connected: Connect, proxy: FlakyProxy) -> None:
    cell: Any = connected(proxy.address, ONCE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        proxy.plan("Step", Loss.REQUEST)
        with pytest.raises(UnavailableError, match=rf"lost the server at {proxy.address} \(socket closed\)"):
            session.step(FRAME)


# --- what is not known is found out ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "applied"),
    [
        (Loss.REQUEST, UnavailableError, False),
        (Loss.ANSWER, UnavailableError, True),
        (Loss.REQUEST_SILENTLY, DeadlineExceededError, False),
        (Loss.ANSWER_SILENTLY, DeadlineExceededError, True),
        (InternalError("a bug"), InternalError, False),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_lost_step_is_settled_by_the_next(
    connected: Connect, proxy: FlakyProxy, expected: Array, fault: Any, error: type[CellServeError], applied: bool
) -> None:
    cell: Any = connected(proxy.address, ONCE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        proxy.plan("Step", fault)
        with pytest.raises(error):
            session.step(FRAME, timeout_s=SOON_S if error is DeadlineExceededError else None)
        assert session.step_count == 0
        assert_close(session.step(FRAME), expected[int(applied)])
        assert session.step_count == 1 + applied
        assert proxy.seen["GetSession"] == 1
        session.step(FRAME)
        assert proxy.seen["GetSession"] == 1


@pytest.mark.parametrize(("loss", "applied"), [(Loss.REQUEST, 0), (Loss.ANSWER, 3)])
def test_a_lost_run_is_settled_by_refresh_or_by_reading(
    connected: Connect, proxy: FlakyProxy, expected: Array, loss: Loss, applied: int
) -> None:
    cell: Any = connected(proxy.address, ONCE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    settling: list[Callable[[Any], object]] = [lambda session: session.refresh(), lambda session: session.state()]
    for settle in settling:
        with cell.session() as session:
            proxy.plan("RunSequence", loss)
            with pytest.raises(UnavailableError):
                session.run(np.tile(FRAME, (5, 1)), lengths=3)
            settle(session)
            assert session.step_count == applied
            assert_close(session.step(FRAME), expected[applied])


@pytest.mark.parametrize("loss", [Loss.REQUEST, Loss.ANSWER])
@pytest.mark.parametrize("method", ["ResetSession", "SetSessionState"])
def test_a_lost_change_is_settled_by_the_next_step(
    connected: Connect, proxy: FlakyProxy, expected: Array, method: str, loss: Loss
) -> None:
    cell: Any = connected(proxy.address, ONCE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        session.step(FRAME)
        proxy.plan(method, loss)
        with pytest.raises(UnavailableError):
            session.reset() if method == "ResetSession" else session.set_state(cell.zero_state(1), step_count=0)
        applied = loss is Loss.ANSWER
        assert_close(session.step(FRAME), expected[0 if applied else 1])
        assert session.step_count == (1 if applied else 2)


def test_somebody_elses_steps_are_not_taken_for_a_lost_one(
    connected: Connect, proxy: FlakyProxy, expected: Array
) -> None:
    remote = connected(proxy.address, ONCE)
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        proxy.plan("Step", Loss.REQUEST)
        with pytest.raises(UnavailableError):
            session.step(FRAME)
        remote.open_session(session.id).run(np.tile(FRAME, (2, 1)))
        for _ in range(2):
            with pytest.raises(StepOutOfOrderError, match=r"expected step 0, or 1 .* the server is at 2"):
                session.step(FRAME)
        session.refresh()
        assert_close(session.step(FRAME), expected[2])


@pytest.mark.parametrize(
    ("loss", "others", "at"),
    [(Loss.REQUEST, 1, 1), (Loss.ANSWER, 1, 2)],
    ids=["as many steps as the lost one", "after the lost one was applied"],
)
def test_one_step_of_somebody_else_is_not_taken_for_the_lost_one(
    connected: Connect, proxy: FlakyProxy, expected: Array, loss: Loss, others: int, at: int
) -> None:
    remote = connected(proxy.address, ONCE)
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        proxy.plan("Step", loss)
        with pytest.raises(UnavailableError):
            session.step(FRAME)
        other = remote.open_session(session.id)
        for _ in range(others):
            other.step(FRAME)
        for use in (lambda: session.step(FRAME), session.state, session.fork):
            with pytest.raises(StepOutOfOrderError, match=rf"expected step 0, or 1 .* the server is at {at}") as caught:
                use()
            assert caught.value.metadata == {"expected_step": "0", "step_count": str(at)}
        assert session.step_count == 0
        session.refresh()
        assert_close(session.step(FRAME), expected[at])


def test_a_refused_repetition_does_not_tell_what_became_of_the_first_attempt(
    connected: Connect, proxy: FlakyProxy, expected: Array
) -> None:
    cell: Any = connected(proxy.address, TWICE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        proxy.plan("Step", Loss.ANSWER, StepOutOfOrderError("somebody else was faster"))
        with pytest.raises(StepOutOfOrderError, match="faster"):
            session.step(FRAME)
        assert_close(session.step(FRAME), expected[1])
        assert session.step_count == 2


def test_an_answer_above_the_clients_limit_is_settled(server_address: str) -> None:
    with connect(server_address, max_message_bytes=2048) as remote:
        cell = remote.cell(rnn.BasicRNNCell(600), seed=3, input_size=DEPTH)
        with cell.session() as session:
            message = r"the answer has 2\d\d\d bytes, .* at most max_message_bytes=2048"
            for count in (0, 1):
                with pytest.raises(ResourceExhaustedError, match=message):
                    session.step(FRAME)
                assert session.step_count == count, "the second step has settled the first"
            assert session.refresh().step_count == 2


def test_somebody_elses_reset_is_not_taken_for_a_lost_one(connected: Connect, proxy: FlakyProxy) -> None:
    remote = connected(proxy.address, ONCE)
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        proxy.plan("ResetSession", Loss.REQUEST)
        with pytest.raises(UnavailableError):
            session.reset()
        remote.open_session(session.id).reset()
        with pytest.raises(SessionNotFoundError):
            session.step(FRAME)
        session.refresh()
        session.step(FRAME)


def test_an_unsettled_session_can_be_reset_and_closed(connected: Connect, proxy: FlakyProxy) -> None:
    remote = connected(proxy.address, ONCE)
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        for operation in (session.reset, session.close):
            proxy.plan("Step", Loss.ANSWER)
            with pytest.raises(UnavailableError):
                session.step(FRAME)
            remote.open_session(session.id).run(np.tile(FRAME, (2, 1)))
            operation()
        with pytest.raises(SessionNotFoundError, match="deleted"):
            remote.session_info(session.id)


def test_what_fails_in_the_block_is_told_before_a_failing_close(connected: Connect, proxy: FlakyProxy) -> None:
    cell: Any = connected(proxy.address, ONCE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    proxy.plan("DeleteSession", Loss.REQUEST)

    def fail() -> None:
        with cell.session():
            raise KeyError("the block's own")

    with pytest.raises(KeyError, match="the block's own") as caught:
        fail()
    assert "failed too: lost the server" in caught.value.__notes__[0]
    proxy.plan("DeleteSession", Loss.REQUEST)
    session = cell.session()
    with pytest.raises(UnavailableError), session:
        pass
    session.close()
