"""Sequences that are longer than the server takes at once, by both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cellserve.errors import (
    FieldInvalidError,
    PartialRunError,
    QueueFullError,
)
from cellserve.tensors import Array
from cellserve_client import connect, rnn
from cellserve_server.config import ServerConfig
from tests.flaky_proxy import FlakyProxy, Loss, flaky_proxy
from tests.integration.client.helpers import (
    DEPTH,
    ONCE,
    TWICE,
    UNITS,
    Connect,
    assert_close,
)
from tests.integration.edges import bidirectional_spec
from tests.servers import TEST_CONFIG, LoopThread, RunningApp, define_spec, server_process, stubs_for


@pytest.fixture(scope="module")
def narrow_address() -> Iterator[str]:
    """A server that takes seven steps in a request."""
    with server_process(["--max-sequence-steps", "7"]) as server:
        yield server.address


@pytest.fixture
def narrow(loop_thread: LoopThread, narrow_address: str) -> Iterator[FlakyProxy]:
    """In front of it."""
    with flaky_proxy(loop_thread, narrow_address) as made:
        yield made


def sequence(rows: int, steps: int) -> Array:
    return np.random.default_rng(8).standard_normal((rows, steps, DEPTH)).astype(np.float32)


def in_one_piece(address: str, inputs: Array, lengths: Any) -> tuple[Array, Any]:
    """What a server without these limits gives."""
    with connect(address) as wide:
        cell = wide.cell(rnn.BasicLSTMCell(UNITS), seed=3)
        outputs, state = rnn.dynamic_rnn(cell, inputs, lengths, dtype=np.float32)
        return outputs, state


@pytest.mark.parametrize("lengths", [None, [20, 7, 0], [6, 8, 14], [0, 0, 0]])
def test_pieces_are_as_the_whole(
    connected: Connect, narrow: FlakyProxy, server_address: str, lengths: list[int] | None
) -> None:
    inputs = sequence(3, 20)
    outputs, state = in_one_piece(server_address, inputs, lengths)
    longest = 20 if lengths is None else max(lengths)
    cell: Any = connected(narrow.address, TWICE).cell(rnn.BasicLSTMCell(UNITS), seed=3)
    found, found_state = rnn.dynamic_rnn(cell, inputs, lengths, dtype=np.float32)
    assert_close(found, outputs)
    assert_close(found_state, state)
    pieces = max(-(-longest // 7), 1)
    assert narrow.seen["RunSequence"] == pieces
    last = [
        np.zeros(UNITS) if end == 0 else row[end - 1] for row, end in zip(outputs, lengths or [20] * 3, strict=True)
    ]
    for mode, wanted in (("all", outputs), ("last", last)):
        with cell.session(batch_size=3) as session:
            assert_close(session.run(inputs, lengths, mode), wanted)
            assert session.step_count == longest
            assert_close(session.state(), state)
    assert narrow.seen["RunSequence"] == 3 * pieces


def test_messages_are_cut_to_the_servers_size(
    connected: Connect, server_address: str, start_server: Callable[[ServerConfig], RunningApp]
) -> None:
    inputs = sequence(2, 3000)
    outputs, state = in_one_piece(server_address, inputs, None)
    small = start_server(replace(TEST_CONFIG, max_message_bytes=16384))
    cell: Any = connected(small.address).cell(rnn.BasicLSTMCell(UNITS), seed=3)
    found, found_state = rnn.dynamic_rnn(cell, inputs, dtype=np.float32)
    assert_close(found, outputs)
    assert_close(found_state, state)
    with cell.session(batch_size=2) as session:
        assert_close(session.run(inputs, outputs="last"), outputs[:, -1])


def test_a_model_that_needs_whole_sequences_is_never_cut(connected: Connect, narrow_address: str) -> None:
    with stubs_for(narrow_address) as stubs:
        name = define_spec(stubs, bidirectional_spec()).name
    model = connected(narrow_address).model(name)
    inputs = np.ones((1, 8, *model.info.inputs[0].shape), np.float32)
    assert rnn.dynamic_rnn(model, inputs, sequence_length=[7], dtype=np.float32)[0].shape == (1, 8, model.output_size)
    with pytest.raises(FieldInvalidError, match="at most 7 steps"):
        rnn.dynamic_rnn(model, inputs, dtype=np.float32)


@pytest.mark.parametrize("mode", ["all", "last", "none"])
def test_a_failure_in_the_middle_tells_what_was_applied(
    connected: Connect, narrow: FlakyProxy, server_address: str, mode: Any
) -> None:
    inputs = sequence(2, 20)
    lengths = [20, 5]
    outputs, _ = in_one_piece(server_address, inputs, lengths)
    cell: Any = connected(narrow.address, TWICE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session(batch_size=2) as session:
        narrow.plan("RunSequence", None, None, QueueFullError("full", retry_after_s=60))
        with pytest.raises(PartialRunError, match="stopped after 14 applied steps: full") as caught:
            session.run(inputs, lengths, mode)
        error = caught.value
        assert error.steps_applied == session.step_count == 14
        assert isinstance(error.cause, QueueFullError)
        if mode == "none":
            assert error.outputs is None
        else:
            assert_close(error.outputs, outputs[:, :14] if mode == "all" else [outputs[0, 13], outputs[1, 4]])
        assert_close(session.run(inputs[:, 14:], [6, 0]), outputs[:, 14:])


def test_a_failure_at_the_beginning_is_told_as_it_is(connected: Connect, narrow: FlakyProxy) -> None:
    cell: Any = connected(narrow.address, TWICE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        narrow.plan("RunSequence", QueueFullError("full", retry_after_s=60))
        with pytest.raises(QueueFullError):
            session.run(sequence(1, 20)[0])


def test_a_piece_whose_answer_is_lost_is_repeated(connected: Connect, narrow: FlakyProxy, server_address: str) -> None:
    inputs = sequence(1, 20)
    outputs, _ = in_one_piece(server_address, inputs, None)
    once: Any = connected(narrow.address, ONCE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with once.session() as session:
        narrow.plan("RunSequence", None, Loss.ANSWER)
        with pytest.raises(PartialRunError):
            session.run(inputs[0])
        assert session.refresh().step_count == 14
    cell: Any = connected(narrow.address, TWICE).cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
    with cell.session() as session:
        narrow.plan("RunSequence", None, Loss.ANSWER, Loss.REQUEST)
        assert_close(session.run(inputs[0]), outputs[0])
        assert session.step_count == 20
