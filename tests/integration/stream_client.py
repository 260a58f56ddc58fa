"""A client of StreamSteps with generated stubs alone: sends and receives one message at a time."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import grpc
import numpy as np

from cellserve.errors import CellServeError, error_of, from_rpc_error
from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from tests.integration.edges import DEPTH
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, Stubs

IN_THREAD = replace(TEST_CONFIG, inline_tick_us=0)
"""Settings with which a `GatedNetwork` may hold ticks up."""


class Answers(NamedTuple):
    """What came of some steps, by (seq, position).

    Attributes:
        counts: the session's step count after the step.
        outputs: the bytes of the step's first output.
        errors: why there is none.
        replayed: which were repeats.
    """

    counts: dict[tuple[int, int], int]
    outputs: dict[tuple[int, int], bytes]
    errors: dict[tuple[int, int], CellServeError]
    replayed: set[tuple[int, int]]


class StreamClient:
    """One stream; sequence numbers count from 1 unless a test gives its own."""

    def __init__(self, stubs: Stubs) -> None:
        self._outgoing: queue.Queue[stream_pb2.StreamStepsRequest | None] = queue.Queue()
        self._seq = 0
        requests: Iterator[stream_pb2.StreamStepsRequest] = iter(self._outgoing.get, None)
        self.call: Any = stubs.recurrent.StreamSteps(requests, timeout=RPC_TIMEOUT_S)

    def __enter__(self) -> StreamClient:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._outgoing.put(None)
        self.call.cancel()

    def send(self, request: stream_pb2.StreamStepsRequest) -> None:
        """Sends a message."""
        self._outgoing.put(request)

    def end(self) -> None:
        """Sends nothing more."""
        self._outgoing.put(None)

    def receive(self) -> stream_pb2.StreamStepsResponse:
        """The next message of the server."""
        message: stream_pb2.StreamStepsResponse = next(self.call)
        return message

    def error(self) -> CellServeError:
        """The error that the stream ends with, now."""
        try:
            message = next(self.call, None)
        except grpc.RpcError as error:
            return from_rpc_error(error)
        raise AssertionError(f"expected the stream to fail; got {message}")

    def next_seq(self) -> int:
        """A fresh number."""
        self._seq += 1
        return self._seq

    def open(
        self, names: Sequence[str], handles: Iterable[int] | None = None, group: int = 1, **fields: Any
    ) -> stream_pb2.Opened:
        """Opens sessions by their ids, made if they are missing, and waits for the answer."""
        request = stream_pb2.Open(
            seq=self.next_seq(),
            group=group,
            names=[f"sessions/{name}" for name in names],
            handles=range(len(names)) if handles is None else handles,
            **{"create_if_missing": True, **fields},
        )
        self.send(stream_pb2.StreamStepsRequest(open=request))
        opened = self.receive().opened
        assert (opened.seq, opened.group) == (request.seq, group)
        return opened

    def steps(self, handles: Sequence[int], inputs: Array, group: int = 1, **fields: Any) -> int:
        """Sends one step for each handle and gives the message's number."""
        seq = self.next_seq()
        request = stream_pb2.Steps(
            seq=seq, group=group, handles=handles, inputs=[np.ascontiguousarray(inputs).tobytes()], **fields
        )
        self.send(stream_pb2.StreamStepsRequest(steps=request))
        return seq

    def stepped(self) -> stream_pb2.Stepped:
        """The next message of the server, which has to be an answer to Steps."""
        message = self.receive()
        assert message.WhichOneof("kind") == "stepped", message
        return message.stepped

    def answers(self, count: int) -> Answers:
        """Receives until so many positions are answered, each of them once, in whatever parts they come."""
        answers = Answers({}, {}, {}, set())
        while len(answers.counts) + len(answers.errors) < count:
            part = self.stepped()
            assert not part.HasField("status"), part.status
            assert list(part.positions) == sorted(part.positions)
            positions = part.positions or range(len(part.step_counts))
            size = len(part.outputs[0]) // len(positions) if positions else 0
            for index, (position, step_count) in enumerate(zip(positions, part.step_counts, strict=True)):
                assert (part.seq, position) not in answers.counts
                answers.counts[part.seq, position] = step_count
                answers.outputs[part.seq, position] = part.outputs[0][index * size : (index + 1) * size]
            for entry in part.errors:
                assert (part.seq, entry.position) not in answers.errors
                answers.errors[part.seq, entry.position] = error_of(entry.status)
            answers.replayed.update((part.seq, position) for position in part.replayed)
        assert not answers.counts.keys() & answers.errors.keys()
        return answers

    def cancel(self, seq: int, group: int = 1, positions: Sequence[int] = ()) -> None:
        """Takes steps back."""
        request = stream_pb2.Cancel(seq=seq, group=group, positions=positions)
        self.send(stream_pb2.StreamStepsRequest(cancel=request))

    def close(self, handles: Sequence[int] = (), group: int = 1, delete_sessions: bool = False) -> stream_pb2.Closed:
        """Gives handles back and waits for the answer."""
        request = stream_pb2.Close(seq=self.next_seq(), group=group, handles=handles, delete_sessions=delete_sessions)
        self.send(stream_pb2.StreamStepsRequest(close=request))
        message = self.receive()
        assert message.WhichOneof("kind") == "closed", message
        return message.closed


class Streaming(NamedTuple):
    """A server with a model, and a stream to it."""

    server: RunningApp
    model: str
    stream: StreamClient


def step_inputs(positions: int, rows: int = 1, seed: int = 0) -> Array:
    """Inputs of one step of so many positions, `[positions, rows, DEPTH]`."""
    return np.random.default_rng(seed).normal(size=(positions, rows, DEPTH)).astype(np.float32)
