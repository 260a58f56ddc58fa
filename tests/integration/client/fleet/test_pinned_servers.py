"""Both clients with real servers, each with sessions in its own memory: refused, or pinned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.errors import FailedPreconditionError, SessionNotFoundError
from cellserve_client import rnn
from tests.clients import Kind, client
from tests.integration.client.helpers import DEPTH, UNITS, assert_close
from tests.integration.client.stream_proxy import stream_proxy
from tests.servers import LoopThread, running_app

COUNT = 16
FRAMES = np.random.default_rng(3).standard_normal((COUNT, 3, DEPTH)).astype(np.float32)


def test_sessions_and_groups_are_pinned_to_one_of_two_servers(loop_thread: LoopThread, client_kind: Kind) -> None:
    with running_app(loop_thread) as first, running_app(loop_thread) as second:
        both = f"{first.address},{second.address}"
        with client(client_kind, loop_thread, both, pinned=True) as remote:
            cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
            expected = rnn.dynamic_rnn(cell, FRAMES, dtype=np.float32)[0]
            sessions = [cell.session(session_id=f"s{number}") for number in range(COUNT)]
            for number, session in enumerate(sessions):
                for step in range(3):
                    assert_close(session.step(FRAMES[number, step]), expected[number, step])
                copy = session.fork()
                assert copy.step_count == 3
                copy.close()
            forked = [is_beside(sessions[0], other) for other in sessions[1:]]
            assert any(forked)
            assert not all(forked)
            with cell.session_group(COUNT) as group:
                for step in range(3):
                    assert_close(group.step(FRAMES[:, step]), expected[:, step])
        for address in (first.address, second.address):
            with client(client_kind, loop_thread, address) as alone:
                found = {info.id for info in alone.sessions()}
                assert ("s0" in found) is (found != set())


def is_beside(session: Any, other: Any) -> bool:
    """Whether the id of a session puts it at the server of another one, which is seen by making a copy of that name."""
    other.close()
    try:
        session.fork(other.id).close()
    except FailedPreconditionError:
        return False
    return True


def test_sessions_in_memory_are_refused_and_calls_are_not(loop_thread: LoopThread, client_kind: Kind) -> None:
    with (
        running_app(loop_thread) as first,
        running_app(loop_thread) as second,
        client(client_kind, loop_thread, f"{first.address},{second.address}") as remote,
    ):
        cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
        outputs = [cell(FRAMES[:, 0], cell.zero_state(COUNT))[0] for _ in range(4)]
        for output in outputs[1:]:
            assert_close(output, outputs[0])
        with pytest.raises(FailedPreconditionError, match="keep sessions in memory"):
            cell.session()


def test_calls_go_on_through_another_server_when_one_is_cut_off(loop_thread: LoopThread, client_kind: Kind) -> None:
    with (
        running_app(loop_thread) as first,
        running_app(loop_thread) as second,
        stream_proxy(loop_thread, first.address) as proxy,
        client(client_kind, loop_thread, f"{proxy.address},{second.address}") as remote,
    ):
        cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
        loop_thread.run(proxy.stop())
        for _ in range(4):
            cell(FRAMES[:, 0], cell.zero_state(COUNT))
        with pytest.raises(SessionNotFoundError):
            remote.session_info("nobody")
