"""Clients that take more than their share, and how a server is seen meanwhile."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import grpc
import numpy as np

from cellserve.cells import BasicRNNCell, OutputProjectionWrapper
from cellserve.errors import QueueFullError, UnavailableError, from_rpc_error
from cellserve.tensors import Array, tensor_from_array
from cellserve.v1 import model_service_pb2_grpc, recurrent_service_pb2_grpc, stream_pb2
from cellserve_server.keys import SessionKey
from tests.gates import TENANT, GatedNetwork
from tests.integration.edges import DEPTH, step_request
from tests.servers import RPC_TIMEOUT_S, RunningApp, ServerProcess, Stubs, define_model

FRAME = tensor_from_array(np.ones(DEPTH, np.float32))
# How metrics call two methods.
SERVICE = "cellserve.v1.RecurrentService"
STEP = {"grpc_type": "unary", "grpc_service": SERVICE, "grpc_method": "Step"}
STREAM_STEPS = {"grpc_type": "bidi_stream", "grpc_service": SERVICE, "grpc_method": "StreamSteps"}


@contextmanager
def own_connection(address: str) -> Iterator[Stubs]:
    """Connects as a client of its own: grpc has the channels of one process share a connection otherwise."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield Stubs(
            channel,
            recurrent_service_pb2_grpc.RecurrentServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )


# --- how a server is seen --------------------------------------------------------------------------------------------


def gauge(server: RunningApp, name: str, labels: dict[str, str] | None = None) -> float:
    """A metric of a server in this process; 0 as long as nothing has counted."""
    return server.app.metrics.registry.get_sample_value(name, labels or {}) or 0.0


def ticks(server: RunningApp) -> int:
    """The ticks of all models that clients have defined, so far."""
    return int(gauge(server, "cellserve_ticks_total", {"model": "defined"}))


def is_at_rest(server: RunningApp) -> bool:
    """Whether nothing is under way, and nobody has a stream."""
    names = ("cellserve_queue_runs", "cellserve_queue_bytes", "cellserve_streams")
    return not any(gauge(server, name) for name in names)


def step_count(server: RunningApp, session_id: str) -> int:
    """What a session has applied, by the server's own account and without waiting for anybody's turn."""
    key = SessionKey(TENANT, session_id)
    return server.loop.call(lambda: server.app.operations.sessions.get(key).step_count)


class SeenFromOutside:
    """A server process, by its metrics page and its memory.

    Args:
        process: started with ``--http-port 0``.
    """

    def __init__(self, process: ServerProcess) -> None:
        found = re.search(r"http://[0-9.]+:\d+/metrics", process.errors())
        assert found is not None, process.errors()
        self._url = found[0]
        self._memory = Path(f"/proc/{process.process.pid}/statm")

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as they stand on the page."""
        with urllib.request.urlopen(self._url, timeout=RPC_TIMEOUT_S) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def resident_bytes(self) -> int:
        """The memory that it holds."""
        return int(self._memory.read_text().split()[1]) * 4096

    def wait_until(self, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """Reads the page until something holds of it."""
        give_up = time.monotonic() + RPC_TIMEOUT_S
        while not condition(metrics := self.metrics()):
            assert time.monotonic() < give_up, metrics
        return metrics


# --- who takes more than their share ---------------------------------------------------------------------------------


class Wide(NamedTuple):
    """A model whose answers are far larger than its inputs: eight steps of a session are a message of 3.2 MB."""

    name: str
    run_bytes: int

    @classmethod
    def on(cls, stubs: Stubs) -> Wide:
        """Defines it."""
        width = 50_000
        model = define_model(stubs, OutputProjectionWrapper(BasicRNNCell(1), width), DEPTH)
        return cls(model.name, WIDE_ROWS * 4 * (DEPTH + width + 1))


WIDE_ROWS, WIDE_STEPS = 2, 8


def endless_steps(model: str, session_id: str) -> Iterator[stream_pb2.StreamStepsRequest]:
    """Opens a session of a wide model and steps it without end, and without waiting for an answer."""
    opened = stream_pb2.Open(
        seq=1,
        group=1,
        model=model,
        names=[f"sessions/{session_id}"],
        handles=[0],
        create_if_missing=True,
        batch_size=WIDE_ROWS,
    )
    yield stream_pb2.StreamStepsRequest(open=opened)
    inputs = bytes(WIDE_STEPS * WIDE_ROWS * 4 * DEPTH)
    for seq in range(2, 1_000_000):
        yield stream_pb2.StreamStepsRequest(
            steps=stream_pb2.Steps(seq=seq, group=1, handles=[0] * WIDE_STEPS, inputs=[inputs])
        )


class Flood:
    """Keeps one call of ``Step`` for each of many sessions under way, whatever is answered, until it is stopped.

    Args:
        stubs: a connection of its own.
        session_ids: the sessions.
        inputs: of every step.

    Attributes:
        answered: by session, how many steps were.
        refused: how many were: by the server, whose queue is full, or by grpc, which takes no more at once.
        errors: whatever else came.
    """

    def __init__(self, stubs: Stubs, session_ids: list[str], inputs: Array) -> None:
        self.answered = dict.fromkeys(session_ids, 0)
        self.refused = 0
        self.errors: list[str] = []
        self._step: Any = stubs.recurrent.Step
        self._inputs = [tensor_from_array(inputs)]
        self._under_way = 0
        self._is_stopped = False
        self._changed = threading.Condition()

    def __enter__(self) -> Flood:
        for session_id in self.answered:
            self._send(session_id)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._is_stopped = True
        with self._changed:
            assert self._changed.wait_for(lambda: self._under_way == 0, RPC_TIMEOUT_S), "some were never answered"

    def _send(self, session_id: str) -> None:
        with self._changed:
            self._under_way += 1
        request = step_request(f"sessions/{session_id}", inputs=self._inputs)
        self._step.future(request, timeout=RPC_TIMEOUT_S).add_done_callback(partial(self._note, session_id))

    def _note(self, session_id: str, call: Any) -> None:
        error = call.exception()
        if not self._is_stopped:
            self._send(session_id)
        with self._changed:
            if error is None:
                self.answered[session_id] += 1
            elif isinstance(from_rpc_error(error), (QueueFullError, UnavailableError)):
                self.refused += 1
            else:
                self.errors.append(str(error))
            self._under_way -= 1
            self._changed.notify_all()


class GatedRuns(GatedNetwork):
    """A gate before whole sequences too, of which a chunk is done each time."""

    def run(
        self,
        inputs: Sequence[Array],
        lengths: Array,
        leaves: Sequence[Array],
        before_step: Callable[[], None] = lambda: None,
    ) -> tuple[list[Array], list[Array]]:
        self.pass_through()
        return super().run(inputs, lengths, leaves, before_step)
