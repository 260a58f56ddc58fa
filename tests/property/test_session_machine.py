"""Thousands of actions on sessions, against a model of a few lines: no difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cellserve.cells import BasicRNNCell
from cellserve.specs import describe
from cellserve.tensors import array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as rpc
from cellserve.v1 import sequence_pb2, session_pb2, state_pb2
from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.definitions import define_with_weights
from tests.property.session_model import DEPTH, TTL_S, UNITS, RunRequest, Weights, World
from tests.servers import TEST_CONFIG, RunningApp

NAMES = st.sampled_from(["a", "b", "c"])
SEEDS = st.integers(0, 5)
LENGTHS = st.integers(1, 4)
TOLERANCE = 1e-5
WEIGHTS = Weights(
    np.random.default_rng(0).standard_normal((DEPTH + UNITS, UNITS)).astype(np.float32),
    np.random.default_rng(1).standard_normal(UNITS).astype(np.float32),
)


class Ids:
    """Numbers that no earlier example used: the server lives on from one to the next."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


class SessionMachine(RuleBasedStateMachine):
    """Rules call the server and the model and compare what they say."""

    clock: ManualClock
    stub: Any
    model_name: str
    ids: Ids

    def __init__(self) -> None:
        super().__init__()
        self.world = World(WEIGHTS, self.clock())
        self.sent: list[RunRequest] = []
        self.prefix = f"m{self.ids.next()}-"

    # --- what comes in and goes out ---------------------------------------------------------------------------

    def path(self, name: str) -> str:
        return f"sessions/{self.prefix}{name}"

    def call(self, method: str, request: Any) -> Any:
        """The answer, or the name of the status code."""
        try:
            return getattr(self.stub, method)(request, timeout=30)
        except grpc.RpcError as error:
            return error.code().name

    def session_message(self) -> session_pb2.Session:
        return session_pb2.Session(model=self.model_name, ttl=Duration(seconds=int(TTL_S)))

    def send(self, request: RunRequest) -> None:
        """Sends a run as Step or RunSequence and compares it with the model's."""
        frames = request.frames
        common: Any = {"uid": request.uid, "run_id": request.run_id, "expected_step": request.expected_step}
        if len(frames) == 1:
            inputs = [tensor_from_array(frames[0])]
            answer = self.call("Step", rpc.StepRequest(name=self.path(request.name), inputs=inputs, **common))
        else:
            sequence = sequence_pb2.Sequence(values=[tensor_from_array(frames[None])])
            message = rpc.RunSequenceRequest(session=self.path(request.name), inputs=sequence, **common)
            answer = self.call("RunSequence", message)
        word, outputs = self.world.run(request)
        if isinstance(answer, str):
            assert answer == word
            return
        assert word == ("REPLAYED" if answer.replayed else "OK")
        assert answer.step_count == self.world.sessions[request.name].step_count
        values = answer.outputs[0] if len(frames) == 1 else answer.outputs.values[0]
        np.testing.assert_allclose(array_from_tensor(values).reshape(-1, UNITS), outputs, atol=TOLERANCE)

    def request(self, name: str, seed: int, length: int, expected_step: int | None, pinned: bool) -> RunRequest:
        frames = np.random.default_rng(seed).standard_normal((length, DEPTH)).astype(np.float32)
        session = self.world.living(name)
        uid = session.uid if session is not None and pinned else ""
        return RunRequest(name, uid, frames.tobytes(), expected_step, self.ids.next())

    # --- rules ------------------------------------------------------------------------------------------------

    @rule(name=NAMES, twice=st.booleans())
    def create(self, name: str, twice: bool) -> None:
        message = rpc.CreateSessionRequest(
            session_id=self.prefix + name, session=self.session_message(), request_id=f"create {self.ids.next()}"
        )
        answer = self.call("CreateSession", message)
        if self.world.living(name) is not None:
            assert answer == "ALREADY_EXISTS"
            return
        self.world.create(name, answer.session.uid)
        if twice:
            assert self.call("CreateSession", message) == answer

    @rule(name=NAMES, seed=SEEDS, length=LENGTHS, checked=st.booleans(), pinned=st.booleans())
    def run(self, name: str, seed: int, length: int, checked: bool, pinned: bool) -> None:
        session = self.world.living(name)
        expected = session.step_count if session is not None and checked else None
        request = self.request(name, seed, length, expected, pinned)
        self.sent.append(request)
        self.send(request)

    @rule(name=NAMES, seed=SEEDS, offset=st.sampled_from([-2, -1, 1, 7]))
    def run_for_another_step(self, name: str, seed: int, offset: int) -> None:
        session = self.world.living(name)
        self.send(self.request(name, seed, 1, max((session.step_count if session else 0) + offset, 0), pinned=True))

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """The last run again, or an old one that comes late: after others, a reset, or delete and create."""
        self.send(data.draw(st.sampled_from(self.sent[-6:])))

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data(), seed=SEEDS)
    def another_callers_run_at_the_same_step(self, data: st.DataObject, seed: int) -> None:
        known = data.draw(st.sampled_from(self.sent[-3:]))
        self.send(self.request(known.name, seed, len(known.frames), known.expected_step, pinned=False))

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data(), seed=SEEDS)
    def a_run_id_with_other_inputs(self, data: st.DataObject, seed: int) -> None:
        known = data.draw(st.sampled_from(self.sent[-3:]))
        other = self.request(known.name, seed, len(known.frames), known.expected_step, pinned=False)
        self.send(RunRequest(known.name, known.uid, other.inputs, known.expected_step, known.run_id))

    @rule(name=NAMES, twice=st.booleans())
    def reset(self, name: str, twice: bool) -> None:
        message = rpc.ResetSessionRequest(name=self.path(name), request_id=f"reset {self.ids.next()}")
        self.new_life("ResetSession", message, name, np.zeros(UNITS), 0, twice)

    @rule(name=NAMES, seed=SEEDS, steps=st.none() | st.integers(0, 9), twice=st.booleans())
    def set_state(self, name: str, seed: int, steps: int | None, twice: bool) -> None:
        state = np.random.default_rng(seed).standard_normal((1, UNITS)).astype(np.float32)
        message = rpc.SetSessionStateRequest(
            name=self.path(name),
            state=state_pb2.State(tensor=tensor_from_array(state)),
            step_count=steps,
            request_id=f"set {self.ids.next()}",
        )
        session = self.world.living(name)
        count = session.step_count if session is not None and steps is None else steps or 0
        self.new_life("SetSessionState", message, name, state[0].astype(np.float64), count, twice)

    def new_life(self, method: str, message: Any, name: str, state: Any, steps: int, twice: bool) -> None:
        answer = self.call(method, message)
        session = self.world.living(name)
        if session is None:
            assert answer == "NOT_FOUND"
            return
        assert answer.session.uid != session.uid
        self.world.begin_life(name, answer.session.uid, state, steps)
        if twice:
            assert self.call(method, message) == answer

    @rule(name=NAMES, target_name=NAMES, pinned=st.booleans())
    def fork(self, name: str, target_name: str, pinned: bool) -> None:
        session = self.world.living(name)
        uid = session.uid if session is not None and pinned else ""
        message = rpc.ForkSessionRequest(
            name=self.path(name), uid=uid, session_id=self.prefix + target_name, request_id=f"fork {self.ids.next()}"
        )
        answer = self.call("ForkSession", message)
        if session is None:
            assert answer == "NOT_FOUND"
        elif self.world.living(target_name) is not None:
            assert answer == "ALREADY_EXISTS"
        else:
            copy = self.world.create(target_name, answer.session.uid)
            copy.state, copy.step_count = session.state, session.step_count

    @rule(name=NAMES, twice=st.booleans())
    def delete(self, name: str, twice: bool) -> None:
        message = rpc.DeleteSessionRequest(name=self.path(name), request_id=f"delete {self.ids.next()}")
        answer = self.call("DeleteSession", message)
        if self.world.living(name) is None:
            assert answer == "NOT_FOUND"
            return
        assert answer == rpc.DeleteSessionResponse()
        del self.world.sessions[name]
        if twice:
            assert self.call("DeleteSession", message) == answer

    @rule(seconds=st.sampled_from([1.0, TTL_S / 2, TTL_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.world.now += seconds

    @invariant()
    def the_server_has_what_the_model_has(self) -> None:
        for name in ("a", "b", "c"):
            answer = self.call(
                "GetSession", rpc.GetSessionRequest(name=self.path(name), view=session_pb2.SESSION_VIEW_FULL)
            )
            session = self.world.living(name)
            if session is None:
                assert answer == "NOT_FOUND"
                continue
            assert (answer.session.uid, answer.session.step_count) == (session.uid, session.step_count)
            state = array_from_tensor(answer.session.state.tensor)
            np.testing.assert_allclose(state, session.state[None], atol=TOLERANCE)

    def teardown(self) -> None:
        for name in list(self.world.sessions):
            self.call("DeleteSession", rpc.DeleteSessionRequest(name=self.path(name)))


@pytest.fixture
def machine(start_server: Callable[[ServerConfig], RunningApp], clock: ManualClock) -> type[SessionMachine]:
    """The state machine, on a server whose clock it moves: months pass, so the model must not go meanwhile."""
    server = start_server(replace(TEST_CONFIG, max_ttl_s=3e8, defined_model_ttl_s=3e8))
    variables = {"basic_rnn_cell/kernel": WEIGHTS.kernel, "basic_rnn_cell/bias": WEIGHTS.bias}
    model = define_with_weights(server.stubs.models, describe(BasicRNNCell(UNITS), DEPTH, np.dtype("f4")), variables)
    bound = {"clock": clock, "stub": server.stubs.recurrent, "model_name": model.name, "ids": Ids()}
    return type("BoundSessionMachine", (SessionMachine,), bound)


def settings_for(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def test_five_hundred_actions(machine: type[SessionMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings_for(examples=12, steps=40))


@pytest.mark.slow
def test_twenty_thousand_actions(machine: type[SessionMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings_for(examples=250, steps=80))
