"""Sessions that are stepped, reset, deleted and made again through several replicas at once, all of it at random."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence

import grpc
import grpc.aio
import numpy as np
import pytest

from cellserve.errors import (
    CellServeError,
    SessionExistsError,
    SessionMovedError,
    SessionNotFoundError,
    StepOutOfOrderError,
    from_rpc_error,
)
from cellserve.tensors import array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import recurrent_service_pb2_grpc, session_pb2
from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.faults.check import TOLERANCE
from tests.faults.feed import CELL, CELL_SEED, DEPTH, Feed
from tests.faults.history import Step, judge
from tests.integration.durable.replicas import ASYNC, SYNC, Replicas
from tests.servers import RPC_TIMEOUT_S, RunningApp, define_model

CALLERS, NAMES, CALLS = 8, 3, 120
TICK_S = 0.01
# What tells that nothing was done.
EXPECTED = (SessionExistsError, SessionMovedError, SessionNotFoundError, StepOutOfOrderError)


class Caller:
    """Does one thing after the other, each at a replica of its whim.

    Args:
        number: its own.
        addresses: of the replicas.
        model: of the sessions.
        clock: the servers': time passes with every call.
    """

    def __init__(self, number: int, addresses: Sequence[str], model: str, clock: ManualClock) -> None:
        self.steps: defaultdict[str, list[Step]] = defaultdict(list)  # by life
        self.refusals: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._number = number
        self._addresses = addresses
        self._model = model
        self._clock = clock
        self._random = np.random.default_rng(number)
        self._feed = Feed(9)
        self._uids: dict[str, str] = {}

    async def run(self) -> None:
        channels = [grpc.aio.insecure_channel(address) for address in self._addresses]
        self._stubs = [recurrent_service_pb2_grpc.RecurrentServiceStub(channel) for channel in channels]
        try:
            for count in range(CALLS):
                self._clock.advance(TICK_S)
                await self._do(count)
        finally:
            for channel in channels:
                await channel.close()

    async def _do(self, count: int) -> None:
        name = f"life-{self._random.integers(NAMES)}"
        kinds = {"step": 0.75, "reset": 0.08, "delete": 0.05, "create": 0.06, "read": 0.06}
        kind = str(self._random.choice(list(kinds), p=list(kinds.values())))
        stub = self._stubs[int(self._random.integers(len(self._stubs)))]
        try:
            await getattr(self, f"_{kind}")(stub, name, count)
        except grpc.aio.AioRpcError as rpc_error:
            error: CellServeError = from_rpc_error(rpc_error)
            assert isinstance(error, EXPECTED), f"{kind} {name}: {error!r}"
            self.refusals[error.reason] += 1
            if isinstance(error, SessionNotFoundError):
                self._uids.pop(name, None)
        else:
            self.done[kind] += 1

    async def _step(self, stub: recurrent_service_pb2_grpc.RecurrentServiceStub, name: str, count: int) -> None:
        uid = self._uids.get(name)
        if uid is None:
            await self._read(stub, name, count)
            return
        inputs = self._feed.at(self._number, count)
        request = messages.StepRequest(name=f"sessions/{name}", uid=uid, inputs=[tensor_from_array(inputs)])
        began = asyncio.get_running_loop().time()
        answer: messages.StepResponse = await stub.Step(request, timeout=RPC_TIMEOUT_S)
        ended = asyncio.get_running_loop().time()
        output = array_from_tensor(answer.outputs[0], "outputs[0]")
        self.steps[uid].append(Step(self._number, count, inputs, answer.step_count, output, began, ended))

    async def _reset(self, stub: recurrent_service_pb2_grpc.RecurrentServiceStub, name: str, _: int) -> None:
        request = messages.ResetSessionRequest(name=f"sessions/{name}")
        self._uids[name] = (await stub.ResetSession(request, timeout=RPC_TIMEOUT_S)).session.uid

    async def _delete(self, stub: recurrent_service_pb2_grpc.RecurrentServiceStub, name: str, _: int) -> None:
        await stub.DeleteSession(messages.DeleteSessionRequest(name=f"sessions/{name}"), timeout=RPC_TIMEOUT_S)
        self._uids.pop(name, None)

    async def _create(self, stub: recurrent_service_pb2_grpc.RecurrentServiceStub, name: str, _: int) -> None:
        request = messages.CreateSessionRequest(session_id=name, session=session_pb2.Session(model=self._model))
        self._uids[name] = (await stub.CreateSession(request, timeout=RPC_TIMEOUT_S)).session.uid

    async def _read(self, stub: recurrent_service_pb2_grpc.RecurrentServiceStub, name: str, _: int) -> None:
        request = messages.GetSessionRequest(name=f"sessions/{name}")
        self._uids[name] = (await stub.GetSession(request, timeout=RPC_TIMEOUT_S)).session.uid


@pytest.mark.slow
@pytest.mark.parametrize("config", [SYNC, ASYNC], ids=["sync", "async"])
def test_each_life_has_every_step_once_whoever_ends_it(replicas: Replicas, config: ServerConfig) -> None:
    servers: list[RunningApp] = [replicas.start(config) for _ in range(3)]
    model = define_model(servers[0].stubs, CELL, DEPTH, seed=CELL_SEED).name
    callers = [
        Caller(number, [server.address for server in servers], model, replicas.clock) for number in range(CALLERS)
    ]

    async def run() -> None:
        await asyncio.gather(*(caller.run() for caller in callers))

    servers[0].loop.run(run())
    steps: defaultdict[str, list[Step]] = defaultdict(list)
    for caller in callers:
        for uid, some in caller.steps.items():
            steps[uid] += some
    done = sum((caller.done for caller in callers), Counter())
    assert min(done[kind] for kind in ("step", "reset", "delete", "create", "read")) > 0, done
    for uid, some in steps.items():
        verdict = judge(some, max(step.step_count for step in some))
        assert (uid, verdict.lost, verdict.doubled, verdict.disordered) == (uid, 0, 0, 0)
        assert verdict.max_abs_diff <= TOLERANCE
