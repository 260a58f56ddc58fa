"""Replicas that share a store, faked at the level of the wire: what each is asked is noted, what it says is scripted.

The model adds: a step gives the session's step count after it, plus the input. Sessions are in a store that all
replicas of a test share; each step is there before it is answered, and a repeat is told by its run id.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import grpc.aio
import numpy as np

from cellserve.errors import (
    CellServeError,
    DrainingError,
    ModelNotFoundError,
    SessionNotFoundError,
    StepOutOfOrderError,
    status_of,
    trailers_of,
)
from cellserve.tensors import tensor_from_array
from cellserve.v1 import (
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    recurrent_service_pb2_grpc,
    session_pb2,
    stream_pb2,
    tensor_pb2,
)
from cellserve.v1 import recurrent_service_pb2 as pb
from tests.servers import LoopThread

MODEL = "models/adder/versions/1"
WIDTH = 2
# An error that a request, or a position of a message, is answered with; LOST: it is applied, its answer gets lost.
Fault: TypeAlias = CellServeError | str | None
LOST = "lost"


@dataclass
class Stored:
    """A session in the store.

    Attributes:
        before: the step count before the last run.
    """

    uid: str
    step_count: int = 0
    before: int = 0
    last_run_id: int = 0


@dataclass
class Store:
    """What replicas share. Attributes: sessions by name; how often each was stepped."""

    sessions: dict[str, Stored] = field(default_factory=dict)
    applied: Counter[str] = field(default_factory=Counter)


class FakeReplica(recurrent_service_pb2_grpc.RecurrentServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """A replica. It is to be touched in the loop in which it runs, but for looking at what it has noted.

    Attributes:
        address: ``host:port``.
        stepped: how often each session was stepped here, or tried to.
        was_stepped: set whenever any is.
        seen: method, session and value of the metadata key of each request, in order.
        shown: method and token's header of each request, the question whether it serves included.
        model: what GetModel answers.
        knows_model: whether sessions can begin.
        defined: how often the model was defined here.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.address = ""
        self.port = 0
        self.stepped: Counter[str] = Counter()
        self.seen: list[tuple[str, str, str]] = []
        self.shown: list[tuple[str, str]] = []
        self.was_stepped = threading.Event()
        self.knows_model = True
        self.defined = 0
        self.health = b"\x08\x01"
        self.checks = 0
        self.model = model_pb2.Model(
            name=MODEL,
            state=model_pb2.MODEL_STATE_READY,
            capabilities=[model_pb2.CAPABILITY_STEP, model_pb2.CAPABILITY_SESSION],
            limits=model_pb2.ModelLimits(max_message_bytes=1 << 20, durability=session_pb2.DURABILITY_SYNC),
        )
        spec = tensor_pb2.TensorSpec(name="inputs", data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[WIDTH])
        self.model.spec.data_type = tensor_pb2.DATA_TYPE_FLOAT32
        self.model.spec.inputs.append(spec)
        spec.name = "outputs"
        self.model.spec.outputs.append(spec)
        self.model.state_spec.tensor.CopyFrom(spec)
        self._faults: dict[str, deque[Fault]] = {}
        self._server: grpc.aio.Server | None = None
        self._streams: set[asyncio.Queue[stream_pb2.StreamStepsResponse | None]] = set()

    @property
    def seen_sessions(self) -> set[str]:
        """The sessions of which it was asked anything."""
        return {name for _, name, _ in self.seen if name.startswith("sessions/")}

    # --- its life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begins to answer; again, at the same port."""
        self._server = grpc.aio.server()
        recurrent_service_pb2_grpc.add_RecurrentServiceServicer_to_server(self, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        check: Any = grpc.unary_unary_rpc_method_handler(self._check)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),)
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.address = f"127.0.0.1:{self.port}"
        await self._server.start()

    async def stop(self) -> None:
        """Is gone all at once, as after a kill."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def drain(self) -> None:
        """Tells all streams that it is about to stop, and refuses what is new."""
        self.health = b"\x08\x02"
        self.plan("", *[DrainingError("stopping", retry_after_s=0.5)] * 10_000)
        for answers in self._streams:
            draining = stream_pb2.Draining(whole_stream=True)
            answers.put_nowait(stream_pb2.StreamStepsResponse(draining=draining))

    def come_back(self) -> None:
        """Serves as before."""
        self.health = b"\x08\x01"
        self._faults.clear()

    def plan(self, name: str, *faults: Fault) -> None:
        """What happens to the next steps of a session, or to the next requests of a method; empty: to any."""
        self._faults.setdefault(name, deque()).extend(faults)

    def _fault(self, *names: str) -> Fault:
        for name in (*names, ""):
            faults = self._faults.get(name)
            if faults:
                return faults.popleft()
        return None

    async def _check(self, _request: bytes, context: Any) -> bytes:
        self._note_token("Check", context)
        self.checks += 1
        return self.health

    # --- requests -------------------------------------------------------------------------------------------------

    def _note_token(self, method: str, context: Any) -> dict[str, str]:
        metadata = dict(context.invocation_metadata())
        self.shown.append((method, metadata.get("authorization", "")))
        return metadata

    async def _begin(self, method: str, name: str, context: Any) -> None:
        metadata = self._note_token(method, context)
        self.seen.append((method, name, metadata.get("cellserve-bucket", "")))
        fault = self._fault(method)
        if isinstance(fault, CellServeError):
            await context.abort(fault.code, fault.message, trailers_of(fault))

    async def GetModel(self, request: Any, context: Any) -> Any:
        await self._begin("GetModel", request.name, context)
        return model_service_pb2.GetModelResponse(model=self.model)

    async def DefineModel(self, request_iterator: Any, context: Any) -> Any:
        await self._begin("DefineModel", "", context)
        async for _ in request_iterator:
            pass
        self.defined += 1
        self.knows_model = True
        return model_service_pb2.DefineModelResponse(model=self.model)

    async def CreateSession(self, request: Any, context: Any) -> Any:
        name = f"sessions/{request.session_id}"
        await self._begin("CreateSession", name, context)
        if not self.knows_model:
            error = ModelNotFoundError(f"no model {MODEL}")
            await context.abort(error.code, error.message, trailers_of(error))
        self.store.sessions[name] = Stored(f"uid-{len(self.store.sessions)}")
        return pb.CreateSessionResponse(session=self._session(name))

    async def GetSession(self, request: Any, context: Any) -> Any:
        await self._begin("GetSession", request.name, context)
        if request.name not in self.store.sessions:
            error = SessionNotFoundError(f"no session {request.name}")
            await context.abort(error.code, error.message, trailers_of(error))
        return pb.GetSessionResponse(session=self._session(request.name))

    async def DeleteSession(self, request: Any, context: Any) -> Any:
        await self._begin("DeleteSession", request.name, context)
        self.store.sessions.pop(request.name, None)
        return pb.DeleteSessionResponse()

    async def ListSessions(self, request: Any, context: Any) -> Any:
        await self._begin("ListSessions", "", context)
        return pb.ListSessionsResponse(sessions=[self._session(name) for name in sorted(self.store.sessions)])

    async def Step(self, request: Any, context: Any) -> Any:
        await self._begin("Step", request.name, context)
        values = np.frombuffer(request.inputs[0].data, np.float32)
        try:
            count, output = self._apply(request.name, request.expected_step, request.run_id, values)
        except CellServeError as error:
            await context.abort(error.code, error.message, trailers_of(error))
        except ConnectionAbortedError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return pb.StepResponse(outputs=[tensor_from_array(output)], step_count=count)

    def _session(self, name: str) -> session_pb2.Session:
        stored = self.store.sessions[name]
        return session_pb2.Session(
            name=name, uid=stored.uid, model=MODEL, step_count=stored.step_count, last_run_id=stored.last_run_id
        )

    def _apply(self, name: str, expected: int, run_id: int, values: Any) -> tuple[int, Any]:
        self.stepped[name] += 1
        self.was_stepped.set()
        fault = self._fault(name, "Step")
        if isinstance(fault, CellServeError):
            raise fault
        stored = self.store.sessions.get(name)
        if stored is None:
            raise SessionNotFoundError(f"no session {name}")
        is_repeat = run_id == stored.last_run_id and expected == stored.before
        if not is_repeat:
            if expected != stored.step_count:
                raise StepOutOfOrderError(f"expected {expected}; it is at {stored.step_count}")
            stored.before, stored.step_count, stored.last_run_id = expected, expected + 1, run_id
            self.store.applied[name] += 1
        if fault == LOST:
            raise ConnectionAbortedError
        return stored.step_count, (values + np.float32(stored.step_count)).astype(np.float32)

    # --- streams --------------------------------------------------------------------------------------------------

    async def StreamSteps(
        self, request_iterator: AsyncIterator[stream_pb2.StreamStepsRequest], context: Any
    ) -> AsyncIterator[stream_pb2.StreamStepsResponse]:
        await self._begin("StreamSteps", "", context)
        handles: dict[tuple[int, int], str] = {}
        answers: asyncio.Queue[stream_pb2.StreamStepsResponse | None] = asyncio.Queue()
        self._streams.add(answers)

        async def take() -> None:
            try:
                async for request in request_iterator:
                    answer = self._answer(request, handles)
                    if answer is not None:
                        answers.put_nowait(answer)
            except ConnectionAbortedError:
                pass  # The stream ends, without an answer to what was applied.
            finally:
                answers.put_nowait(None)

        taking = asyncio.ensure_future(take())
        try:
            while (answer := await answers.get()) is not None:
                yield answer
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        finally:
            taking.cancel()
            self._streams.discard(answers)

    def _answer(
        self, request: stream_pb2.StreamStepsRequest, handles: dict[tuple[int, int], str]
    ) -> stream_pb2.StreamStepsResponse | None:
        kind = request.WhichOneof("kind")
        if kind == "open":
            return self._open(request.open, handles)
        if kind == "steps":
            return self._steps(request.steps, handles)
        if kind == "close":
            close = request.close
            for key in [
                key for key in handles if key[0] == close.group and (not close.handles or key[1] in close.handles)
            ]:
                name = handles.pop(key)
                if close.delete_sessions:
                    self.store.sessions.pop(name, None)
            return stream_pb2.StreamStepsResponse(closed=stream_pb2.Closed(seq=close.seq, group=close.group))
        return None

    def _open(self, open_: stream_pb2.Open, handles: dict[tuple[int, int], str]) -> stream_pb2.StreamStepsResponse:
        opened = stream_pb2.Opened(seq=open_.seq, group=open_.group, model=MODEL)
        fault = self._fault("Open")
        if not self.knows_model:
            fault = ModelNotFoundError(f"no model {MODEL}")
        if isinstance(fault, CellServeError):
            opened.status.CopyFrom(status_of(fault))
            return stream_pb2.StreamStepsResponse(opened=opened)
        for position, (name, handle) in enumerate(zip(open_.names, open_.handles, strict=True)):
            assert (open_.group, handle) not in handles, "a handle is in use once"
            self.seen.append(("Open", name, ""))
            if open_.create_if_missing:
                self.store.sessions.setdefault(name, Stored(f"uid-{len(self.store.sessions)}"))
            stored = self.store.sessions.get(name)
            if stored is None:
                opened.errors.add(position=position, status=status_of(SessionNotFoundError(f"no session {name}")))
            else:
                handles[open_.group, handle] = name
            opened.uids.append("" if stored is None else stored.uid)
            opened.step_counts.append(0 if stored is None else stored.step_count)
        return stream_pb2.StreamStepsResponse(opened=opened)

    def _steps(self, steps: stream_pb2.Steps, handles: dict[tuple[int, int], str]) -> stream_pb2.StreamStepsResponse:
        stepped = stream_pb2.Stepped(seq=steps.seq, group=steps.group)
        inputs = np.frombuffer(steps.inputs[0], np.float32).reshape(-1, WIDTH)
        outputs = []
        for position, handle in enumerate(steps.handles):
            name = handles[steps.group, handle]
            try:
                count, output = self._apply(
                    name, steps.expected_steps[position], steps.run_ids[position], inputs[position]
                )
            except CellServeError as error:
                stepped.errors.add(position=position, status=status_of(error))
                continue
            stepped.positions.append(position)
            stepped.step_counts.append(count)
            outputs.append(output)
        if outputs:
            stepped.outputs.append(np.concatenate(outputs).tobytes())
        return stream_pb2.StreamStepsResponse(stepped=stepped)


class FakeFleet:
    """Some fake replicas on one store.

    Attributes:
        replicas: they.
        store: theirs.
    """

    def __init__(self, loop: LoopThread, count: int) -> None:
        self._loop = loop
        self.store = Store()
        self.replicas = [FakeReplica(self.store) for _ in range(count)]
        for replica in self.replicas:
            loop.run(replica.start())

    @property
    def address(self) -> str:
        """All addresses, as a client takes them."""
        return ",".join(replica.address for replica in self.replicas)

    def holder(self, session_id: str) -> FakeReplica:
        """The replica that was asked to step a session last: the only one, as long as ``forget`` is called between."""
        (found,) = (one for one in self.replicas if one.stepped[f"sessions/{session_id}"])
        return found

    def others(self, replica: FakeReplica) -> list[FakeReplica]:
        """All but one."""
        return [one for one in self.replicas if one is not replica]

    def forget(self) -> None:
        """Forgets what was asked so far."""
        for replica in self.replicas:
            replica.stepped.clear()
            replica.seen.clear()

    def run(self, coroutine: Any) -> None:
        """Runs something of a replica's in its loop."""
        self._loop.run(coroutine)

    def close(self) -> None:
        """Stops all."""
        for replica in self.replicas:
            self._loop.run(replica.stop())


@contextmanager
def fake_fleet(loop: LoopThread, count: int) -> Iterator[FakeFleet]:
    """Runs fake replicas."""
    fleet = FakeFleet(loop, count)
    try:
        yield fleet
    finally:
        fleet.close()
