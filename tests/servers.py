"""Servers for tests: in this process with a clock that tests move, or as a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import grpc
import numpy as np

from cellserve.cells import CellDescription
from cellserve.errors import CellServeError, from_rpc_error
from cellserve.specs import describe, model_to_proto
from cellserve.v1 import model_pb2, model_service_pb2_grpc, recurrent_service_pb2_grpc
from cellserve.v1 import model_service_pb2 as model_messages
from cellserve_server.app import App
from cellserve_server.config import ServerConfig
from cellserve_server.stores.base import Store

if TYPE_CHECKING:
    from cellserve_server.tracing.tracing import Tracing

T = TypeVar("T")
RPC_TIMEOUT_S = 20.0
START_TIMEOUT_S = 30.0
LISTENING = "cellserve listening on "
NO_MODELS = "no-such-folder"
TEST_CONFIG = ServerConfig(port=0, http_port=-1, models=NO_MODELS, drain_timeout_s=10.0)


class LoopThread:
    """An event loop in a thread, for servers beside a test that blocks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begins to run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and waits for it."""
        return self.begin(coroutine).result(START_TIMEOUT_S)

    def call(self, function: Callable[[], T]) -> T:
        """Calls a function there, between two steps of the loop, and waits for it."""

        async def call() -> T:
            return function()

        return self.run(call())

    def close(self) -> None:
        """Stops the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(frozen=True)
class Stubs:
    """The generated stubs on one channel."""

    channel: grpc.Channel
    recurrent: recurrent_service_pb2_grpc.RecurrentServiceStub
    models: model_service_pb2_grpc.ModelServiceStub


@contextmanager
def stubs_for(address: str, credentials: grpc.ChannelCredentials | None = None) -> Iterator[Stubs]:
    """Connects to a server with generated stubs alone, without limits of the client's own; None: without TLS."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with (
        grpc.insecure_channel(address, options=unlimited)
        if credentials is None
        else grpc.secure_channel(address, credentials, options=unlimited)
    ) as channel:
        yield Stubs(
            channel,
            recurrent_service_pb2_grpc.RecurrentServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )


@dataclass(frozen=True)
class RunningApp:
    """A server in this process.

    Attributes:
        app: the server; touch it through ``loop`` only.
        loop: where it runs.
        stubs: connected to it.
    """

    app: App
    loop: LoopThread
    stubs: Stubs

    @property
    def address(self) -> str:
        return self.app.address

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits until something holds; asks on the server's loop, between two of its steps."""
        give_up = time.monotonic() + RPC_TIMEOUT_S
        while not self.loop.call(condition):
            assert time.monotonic() < give_up, "it never came to hold"


@contextmanager
def running_app(
    loop: LoopThread,
    config: ServerConfig = TEST_CONFIG,
    clock: Callable[[], float] | None = None,
    store: Store | None = None,
    serials: Iterator[int] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    tracing: Tracing | None = None,
) -> Iterator[RunningApp]:
    """Runs a server in this process, with ids ``id-1``, ``id-2``, ... and the clock that is handed in.

    Args:
        store: where its sessions are; None: as the settings say.
        serials: the numbers of the ids, for servers that share a store.
        credentials: of the stubs; None: they speak without TLS.
        tracing: makes its spans; None: as the settings say.
    """
    numbers = itertools.count(1) if serials is None else serials

    async def start() -> App:
        app = App(config, clock=clock, new_id=lambda: f"id-{next(numbers)}", store=store, tracing=tracing)
        await app.start()
        return app

    app = loop.run(start())
    try:
        with stubs_for(app.address, credentials) as stubs:
            yield RunningApp(app, loop, stubs)
    finally:
        loop.run(app.stop())


class ServerProcess:
    """``cellserve serve`` as a process of its own.

    Args:
        arguments: besides ``--port 0``.
        environment: besides this process's.
    """

    def __init__(self, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cellserve", "serve", "--port", "0", "--http-port", "-1", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **(environment or {})},
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline().rstrip("\n")

    @property
    def address(self) -> str:
        """``host:port`` as the server printed it."""
        assert self.first_line.startswith(LISTENING), self.errors()
        return self.first_line.removeprefix(LISTENING)

    def errors(self) -> str:
        """What it wrote to its standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Waits for its end and returns its exit code."""
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """Ends it, if it has not ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


@contextmanager
def server_process(
    arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Runs ``cellserve serve`` on a free port, without models of its own unless the arguments name some."""
    with tempfile.TemporaryDirectory() as empty:
        models = () if "--models" in arguments else ("--models", str(Path(empty)))
        server = ServerProcess((*models, *arguments), environment)
        try:
            yield server
        finally:
            server.close()


def define_model(
    stubs: Stubs, cell: CellDescription, input_size: int, seed: int = 0, dtype: str = "float32"
) -> model_pb2.Model:
    """Defines a model that is one cell, with weights drawn from a seed."""
    return define_spec(stubs, model_to_proto(describe(cell, input_size, np.dtype(dtype))), seed)


def define_spec(stubs: Stubs, spec: model_pb2.ModelSpec, seed: int = 0) -> model_pb2.Model:
    """Defines a model of any description, with weights drawn from a seed."""
    header = model_messages.DefineModelHeader(spec=spec, seed=seed)
    requests = iter([model_messages.DefineModelRequest(header=header)])
    answer: model_messages.DefineModelResponse = stubs.models.DefineModel(requests, timeout=RPC_TIMEOUT_S)
    return answer.model


def error_of_call(call: Callable[[], object]) -> CellServeError:
    """Makes a call that has to fail and gives the error that came over the wire."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"expected an error; got {answer}")


async def error_of_await(awaitable: Awaitable[object]) -> CellServeError:
    """As ``error_of_call``, for calls of ``grpc.aio``."""
    try:
        answer = await awaitable
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"expected an error; got {answer}")
