"""What callers do to the server of a soak test. Each visit has connections of its own, and leaves nothing for long."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TypeAlias

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration

from cellserve.errors import CellServeError, InvalidArgumentError, ModelNotFoundError, SessionNotFoundError
from cellserve.tensors import Array
from cellserve.v1 import model_service_pb2, model_service_pb2_grpc, recurrent_service_pb2_grpc, stream_pb2
from cellserve_client import RetryPolicy, aio, rnn
from deploy.fleet.ports import free_ports
from tests.faults.tcp_proxy import HOST, TcpProxy
from tests.soak.premises import DEPTH, POLL_MODELS_S, RESIDENT, Premises
from tests.unit.model_samples import put

# Of sessions that nobody deletes.
SHORT_TTL_S = 3.0
WITHIN_S = 20.0
COMING = "coming"
LONG_SEQUENCE = 2000
GROUP = 64
# More than there are threads of any pool.
CROWD = 48


@dataclass(frozen=True)
class Visit:
    """One visit.

    Attributes:
        premises: the server.
        random: says what happens.
        number: no other visit has it.
    """

    premises: Premises
    random: Random
    number: int

    def inputs(self, *shape: int) -> Array:
        """Inputs for the resident model."""
        generator = np.random.default_rng(self.number)
        return generator.standard_normal((*shape, DEPTH)).astype(np.float32)

    def connect(self, address: str = "") -> aio.Server:
        """A connection of its own."""
        # A port that a proxy had a moment ago is met with patience: grpc knows it as one that refuses.
        retry = RetryPolicy(max_first_contact_attempts=50)
        return aio.connect(address or self.premises.address, timeout_s=WITHIN_S, retry=retry)


Deed: TypeAlias = Callable[[Visit], Awaitable[None]]


async def whole_life(visit: Visit) -> None:
    """A session is made, stepped, read, set, forked, reset, fed sequences, and deleted."""
    async with visit.connect() as server, server.session(RESIDENT, batch_size=2) as session:
        for inputs in visit.inputs(5, 2):
            await session.step(inputs)
        state = await session.state()
        fork = await session.fork()
        await session.run(visit.inputs(2, 40), [40, 7], outputs="last")
        await session.set_state(state)
        await session.reset()
        await session.step(visit.inputs(2))
        await fork.close()


async def abandoned(visit: Visit) -> None:
    """Sessions are stepped and left to expire."""
    async with visit.connect() as server:
        for _ in range(5):
            session = await server.session(RESIDENT, ttl_s=SHORT_TTL_S)
            await session.step(visit.inputs())
            session.detach()


async def group(visit: Visit) -> None:
    """A group of sessions is stepped, and deleted or left to expire."""
    async with visit.connect() as server:
        many = await server.session_group(RESIDENT, GROUP, ttl_s=SHORT_TTL_S)
        for inputs in visit.inputs(3, GROUP):
            await many.step(inputs)
        if visit.random.random() < 0.5:
            await many.close()
        else:
            many.detach()


async def cancelled(visit: Visit) -> None:
    """Calls are given up: long sequences, steps, and those whose deadline has all but passed."""
    async with visit.connect() as server:
        session = await server.session(RESIDENT, ttl_s=SHORT_TTL_S)
        other = await server.session(RESIDENT, ttl_s=SHORT_TTL_S)
        calls = [
            asyncio.ensure_future(session.run(visit.inputs(LONG_SEQUENCE), timeout_s=visit.random.uniform(0.001, 0.1))),
            asyncio.ensure_future(other.step(visit.inputs())),
        ]
        await asyncio.wait(calls, timeout=visit.random.uniform(0, 0.05))
        for call in calls:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, CellServeError | asyncio.CancelledError):
                raise outcome


async def stream_cut_off(visit: Visit) -> None:
    """The connection is cut while steps are under way, or a stream is cancelled after its first answer."""
    if visit.random.random() < 0.5:
        await _cancel_stream(visit)
        return
    (port,) = free_ports(1)
    server_port = int(visit.premises.address.rpartition(":")[2])
    async with TcpProxy(port, server_port) as proxy, visit.connect(f"{HOST}:{port}") as server:
        many = await server.session_group(RESIDENT, GROUP, ttl_s=SHORT_TTL_S)
        steps = asyncio.ensure_future(many.step(visit.inputs(GROUP), timeout_s=0.3))
        await asyncio.wait([steps], timeout=visit.random.uniform(0, 0.01))
        await proxy.cut()
        with contextlib.suppress(CellServeError):  # Unless the answer was there before.
            await steps


async def _cancel_stream(visit: Visit) -> None:
    async with grpc.aio.insecure_channel(visit.premises.address) as channel:
        call = recurrent_service_pb2_grpc.RecurrentServiceStub(channel).StreamSteps()
        names = [f"sessions/cancelled-{visit.number}-{index}" for index in range(GROUP)]
        handles = list(range(GROUP))
        ttl = Duration()
        ttl.FromMilliseconds(round(SHORT_TTL_S * 1000))
        opening = stream_pb2.Open(
            seq=1, model=f"models/{RESIDENT}", names=names, handles=handles, ttl=ttl, create_if_missing=True
        )
        await call.write(stream_pb2.StreamStepsRequest(open=opening))
        await call.read()
        steps = stream_pb2.Steps(seq=2, handles=handles, inputs=[visit.inputs(GROUP).tobytes()])
        await call.write(stream_pb2.StreamStepsRequest(steps=steps))
        call.cancel()


async def refused(visit: Visit) -> None:
    """What is asked cannot be."""
    async with visit.connect() as server, server.session(RESIDENT) as session:
        attempts: tuple[tuple[Awaitable[object], type[CellServeError]], ...] = (
            (session.run(np.zeros((3, DEPTH + 1), np.float32)), InvalidArgumentError),
            (server.open_session(f"nobody-{visit.number}"), SessionNotFoundError),
            (server.model_info("no-such-model"), ModelNotFoundError),
        )
        for attempt, expected in attempts:
            try:
                await attempt
            except expected:
                continue
            raise AssertionError(f"expected {expected.__name__}")


async def defined(visit: Visit) -> None:
    """A client describes a model, uses it, and unloads it."""
    async with visit.connect() as server:
        cell = await server.cell(rnn.GRUCell(16), seed=visit.number, input_size=DEPTH, ttl_s=WITHIN_S)
        await cell.call(visit.inputs(4), cell.zero_state(4))
        async with server.session(cell) as session:
            await session.step(visit.inputs())
        assert cell.info is not None, "it was made"
        await _unload(visit, cell.info.resource_name)


async def vanished(visit: Visit) -> None:
    """A client's process is killed while it steps."""
    command = [sys.executable, "-m", "tests.soak.vanishing", visit.premises.address, RESIDENT, str(SHORT_TTL_S)]
    client = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        assert client.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            if not await client.stdout.readline():
                raise AssertionError("a client ended before it was killed")
        await asyncio.sleep(visit.random.uniform(0, 0.3))  # Any moment will do.
    finally:
        if client.returncode is None:
            client.kill()
        await client.wait()


async def reloaded(visit: Visit) -> None:
    """A version comes into the folder, is loaded because it is asked for or found, is used, and goes again."""
    # Always the same model: each name has metrics of its own, which stay.
    name = f"{COMING}/versions/{visit.number}"
    folder = await asyncio.to_thread(partial(put, visit.premises.models, COMING, visit.number, seed=visit.number))
    async with visit.connect() as server:
        if visit.random.random() < 0.5:
            await _load(visit, name)
            # The same content is loaded again, which changes nothing.
            await _load(visit, name)
        else:
            await _until_found(server, name)
        async with server.session(name, ttl_s=WITHIN_S) as session:
            await session.step(visit.inputs())
        left = await server.session(name, ttl_s=WITHIN_S)
        left.detach()  # Unloading ends it.
    await asyncio.to_thread(shutil.rmtree, folder)
    await _unload(visit, f"models/{name}")


async def _until_found(server: aio.Server, name: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await server.model_info(name)
            except ModelNotFoundError:
                await asyncio.sleep(POLL_MODELS_S / 4)
                continue
            return


async def _load(visit: Visit, name: str) -> None:
    async with grpc.aio.insecure_channel(visit.premises.address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        await stub.LoadModel(model_service_pb2.LoadModelRequest(name=f"models/{name}"), timeout=WITHIN_S)


async def _unload(visit: Visit, full_name: str) -> None:
    async with grpc.aio.insecure_channel(visit.premises.address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        await stub.UnloadModel(model_service_pb2.UnloadModelRequest(name=full_name, force=True), timeout=WITHIN_S)


async def crowd(visit: Visit) -> None:
    """So much at once that the server has all the threads that it may ever have."""
    await asyncio.gather(*(defined(replace(visit, number=visit.number + index)) for index in range(CROWD)))


# What many callers do, and what one does at a time: it takes a process, or the folder's poll.
COMMON: tuple[Deed, ...] = (whole_life, abandoned, group, cancelled, stream_cut_off, refused, defined)
SOLITARY: tuple[Deed, ...] = (vanished, reloaded)
