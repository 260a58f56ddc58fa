"""Servers of one process that share a store, and a store that fails when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from typing import Any

import grpc
import numpy as np

from cellserve.cells import BasicLSTMCell
from cellserve.errors import CellServeError, StoreUnavailableError
from cellserve.tensors import Array, array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import sequence_pb2, session_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.stores.base import Store
from tests.clocks import ManualClock
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, LoopThread, RunningApp, define_model, error_of_call, running_app

UNITS, DEPTH = 3, 2
SYNC = replace(TEST_CONFIG, durability="sync", takeover_timeout_ms=5000)
ASYNC = replace(SYNC, durability="async", flush_interval_ms=60_000)


class FaultyStore:
    """A store that hands everything on to another one, but for what a test has fail.

    Attributes:
        failing: names of operations that fail without being done.
        deaf: names of operations that are done, and whose answer is lost.
        calls: how often each operation was asked for.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.failing: set[str] = set()
        self.deaf: set[str] = set()
        self.calls: dict[str, int] = {}
        self.url = store.url
        self.is_volatile = False

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.store, name)

        async def call(*arguments: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            await asyncio.sleep(0)  # As a store that has to be reached.
            if name in self.failing:
                raise StoreUnavailableError(f"{name}: the test has it fail", retry_after_s=0.01)
            result = await operation(*arguments)
            if name in self.deaf:
                raise StoreUnavailableError(f"{name}: the test has its answer lost", retry_after_s=0.01)
            return result

        return call


class Replicas:
    """Replicas on one store. A model of LSTM cells is defined on the first one."""

    def __init__(self, loop: LoopThread, clock: ManualClock, open_store: Callable[[], Store], stack: ExitStack) -> None:
        self.clock = clock
        self.open_store = open_store
        self.loop = loop
        self._stack = stack
        self._serials = count(1)
        self.model = ""

    def start(
        self,
        config: ServerConfig = SYNC,
        store: Store | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> RunningApp:
        """Starts a replica; None: its stubs speak without TLS."""
        server = self._stack.enter_context(
            running_app(self.loop, config, self.clock, store or self.open_store(), self._serials, credentials)
        )
        if not self.model:
            self.model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH, seed=4).name
        return server

    def create(self, server: RunningApp, name: str = "s", request_id: str = "", **fields: Any) -> session_pb2.Session:
        """Makes a session."""
        request = messages.CreateSessionRequest(
            session_id=name, session=session_pb2.Session(model=self.model, **fields), request_id=request_id
        )
        answer: messages.CreateSessionResponse = server.stubs.recurrent.CreateSession(request, timeout=RPC_TIMEOUT_S)
        return answer.session


def inputs_of(step: int, seed: int = 0) -> Array:
    """The input of a session's step."""
    generated: Array = np.random.default_rng([seed, step]).standard_normal(DEPTH).astype(np.float32)
    return generated


def step(server: RunningApp, number: int, name: str = "s", seed: int = 0, **fields: Any) -> messages.StepResponse:
    """Does step ``number``, from 0, with the input that is its own."""
    options = {"expected_step": number, "run_id": number + 100, **fields}
    request = messages.StepRequest(
        name=f"sessions/{name}", inputs=[tensor_from_array(inputs_of(number, seed))], **options
    )
    answer: messages.StepResponse = server.stubs.recurrent.Step(request, timeout=RPC_TIMEOUT_S)
    return answer


def take_unasked(server: RunningApp, victim: RunningApp, number: int) -> None:
    """Has a replica take a session from another one as if that did not answer, and do a step."""
    peers = server.app.keeping._peers
    server.loop.call(lambda: peers._silent_until.update({victim.address: float("inf")}))
    step(server, number)
    server.loop.call(lambda: peers._silent_until.clear())


def step_error(server: RunningApp, number: int, name: str = "s", **fields: Any) -> CellServeError:
    """Does a step that has to fail."""
    return error_of_call(lambda: step(server, number, name, **fields))


def output_of(answer: messages.StepResponse) -> Array:
    """A step's output."""
    return array_from_tensor(answer.outputs[0], "outputs[0]")


def uninterrupted(replicas: Replicas, server: RunningApp, steps: int, seed: int = 0) -> list[Array]:
    """The outputs of so many steps of one session, all in one run without a session."""
    sequence = np.stack([inputs_of(number, seed) for number in range(steps)])[np.newaxis]
    request = messages.RunSequenceRequest(
        model=replicas.model, inputs=sequence_pb2.Sequence(values=[tensor_from_array(sequence)])
    )
    answer: messages.RunSequenceResponse = server.stubs.recurrent.RunSequence(request, timeout=RPC_TIMEOUT_S)
    return list(array_from_tensor(answer.outputs.values[0], "outputs")[0])
