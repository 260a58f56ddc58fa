"""Whoever had a seat before: a session has zeros, or what it was given, and then what its own inputs make of that.

The cells of the model add up, so that every state is known to the last bit, and numbers of one session in another
would be seen. Sessions come and go by chance, of several batch sizes, some of them out of memory and back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicRNNCell, MultiRNNCell
from cellserve.errors import InvalidArgumentError, SessionNotFoundError
from cellserve.specs import describe, place_layers
from cellserve.states import state_from_proto, state_to_proto
from cellserve.tensors import Array, array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as rpc
from cellserve.v1 import sequence_pb2, session_pb2
from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.definitions import define_with_weights
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, error_of_call

UNITS = 2
CELL = MultiRNNCell([BasicRNNCell(UNITS, "identity"), BasicRNNCell(UNITS, "identity")])
MODEL = describe(CELL, UNITS, np.dtype(np.float64))
ACTIONS = 900
TTL_S = 3600.0


@dataclass
class Expected:
    """What a session has to have: its rows' states, ``[rows, UNITS]`` for each of the two layers."""

    batch_size: int
    leaves: list[Array]

    def step(self, inputs: Array) -> Array:
        """One step of inputs ``[rows, UNITS]``: each layer adds what comes in to what it has."""
        first = self.leaves[0] + inputs
        self.leaves = [first, self.leaves[1] + first]
        return self.leaves[1]


class World:
    """A server, and what its sessions have to have."""

    def __init__(self, server: RunningApp, clock: ManualClock, most: int, seed: int) -> None:
        weights = {name: _adding(array) for name, array in _variables().items()}
        self.stub: Any = server.stubs.recurrent
        self.model = define_with_weights(server.stubs.models, MODEL, weights).name
        self.clock = clock
        self.most = most
        self.random = random.Random(seed)
        self.sessions: dict[str, Expected] = {}
        self.made = 0
        self.gone: list[str] = []

    def act(self) -> None:
        """One action, by chance."""
        actions: list[Callable[[], None]] = [self.step] * 6 + [self.read, self.run, self.set_state, self.set_part]
        actions += [
            self.reset,
            self.fork,
            self.delete,
            self.delete,
            self.create,
            self.create,
            self.create,
            self.look_back,
        ]
        if self.random.randrange(150) == 0:
            actions = [self.expire]
        self.random.choice(actions if self.sessions else [self.create])()

    def numbers(self, *shape: int) -> Array:
        """Whole numbers that hardly any other session has."""
        return (
            np.array([self.random.randrange(-(1 << 30), 1 << 30) for _ in range(int(np.prod(shape)))])
            .reshape(shape)
            .astype(np.float64)
        )

    def any(self) -> tuple[str, Expected]:
        name = self.random.choice(list(self.sessions))
        return name, self.sessions[name]

    def call(self, method: str, request: Any) -> Any:
        return getattr(self.stub, method)(request, timeout=RPC_TIMEOUT_S)

    def create(self) -> None:
        if len(self.sessions) >= self.most:
            self.delete()
        self.made += 1
        batch_size = self.random.choice([0, 0, 0, 1, 2, 3])
        rows = max(batch_size, 1)
        expected = Expected(batch_size, [np.zeros((rows, UNITS)), np.zeros((rows, UNITS))])
        session = session_pb2.Session(model=self.model, batch_size=batch_size)
        if self.random.randrange(3) == 0:
            expected.leaves = [self.numbers(rows, UNITS), self.numbers(rows, UNITS)]
            session.state.CopyFrom(state_to_proto(MODEL.state_size, expected.leaves))
        answer = self.call("CreateSession", rpc.CreateSessionRequest(session_id=f"s{self.made}", session=session))
        self.sessions[answer.session.name] = expected
        self.check(answer.session.name)

    def check(self, name: str) -> None:
        answer = self.call("GetSession", rpc.GetSessionRequest(name=name, view=session_pb2.SESSION_VIEW_FULL))
        for got, want in zip(
            state_from_proto(MODEL.state_size, answer.session.state), self.sessions[name].leaves, strict=True
        ):
            np.testing.assert_array_equal(got, want)

    def read(self) -> None:
        self.check(self.any()[0])

    def step(self) -> None:
        name, expected = self.any()
        inputs = self.numbers(max(expected.batch_size, 1), UNITS)
        given = inputs if expected.batch_size else inputs[0]
        answer = self.call("Step", rpc.StepRequest(name=name, inputs=[tensor_from_array(given)]))
        got = array_from_tensor(answer.outputs[0]).reshape(inputs.shape)
        np.testing.assert_array_equal(got, expected.step(inputs))

    def run(self) -> None:
        name, expected = self.any()
        inputs = self.numbers(max(expected.batch_size, 1), self.random.randrange(1, 5), UNITS)
        sequence = sequence_pb2.Sequence(values=[tensor_from_array(inputs)])
        answer = self.call("RunSequence", rpc.RunSequenceRequest(session=name, inputs=sequence))
        got = array_from_tensor(answer.outputs.values[0])
        for step in range(inputs.shape[1]):
            np.testing.assert_array_equal(got[:, step], expected.step(inputs[:, step]))

    def set_state(self) -> None:
        name, expected = self.any()
        expected.leaves = [self.numbers(*leaf.shape) for leaf in expected.leaves]
        state = state_to_proto(MODEL.state_size, expected.leaves)
        self.call("SetSessionState", rpc.SetSessionStateRequest(name=name, state=state))

    def set_part(self) -> None:
        """A state of which a part is missing, or a row, is refused, and nothing of it is taken."""
        name, expected = self.any()
        state = state_to_proto(MODEL.state_size, [self.numbers(*leaf.shape) for leaf in expected.leaves])
        if self.random.randrange(2):
            del state.tuple.items[1]
        else:
            state.tuple.items[1].tensor.CopyFrom(tensor_from_array(self.numbers(len(expected.leaves[0]) + 1, UNITS)))
        error = error_of_call(lambda: self.call("SetSessionState", rpc.SetSessionStateRequest(name=name, state=state)))
        assert isinstance(error, InvalidArgumentError)
        self.check(name)

    def reset(self) -> None:
        name, expected = self.any()
        self.call("ResetSession", rpc.ResetSessionRequest(name=name))
        expected.leaves = [np.zeros_like(leaf) for leaf in expected.leaves]
        self.check(name)

    def fork(self) -> None:
        if len(self.sessions) >= self.most:
            self.delete()
        name, expected = self.any()
        self.made += 1
        answer = self.call("ForkSession", rpc.ForkSessionRequest(name=name, session_id=f"s{self.made}"))
        self.sessions[answer.session.name] = replace(expected)

    def delete(self) -> None:
        name, _ = self.any()
        self.call("DeleteSession", rpc.DeleteSessionRequest(name=name))
        del self.sessions[name]
        self.gone.append(name)

    def look_back(self) -> None:
        """A session that is gone is gone, whoever has its seat now."""
        if self.gone:
            request = rpc.GetSessionRequest(name=self.random.choice(self.gone), view=session_pb2.SESSION_VIEW_FULL)
            assert isinstance(error_of_call(lambda: self.call("GetSession", request)), SessionNotFoundError)

    def expire(self) -> None:
        self.clock.advance(TTL_S + 1)
        self.gone.extend(self.sessions)
        self.sessions.clear()


def _variables() -> dict[str, Array]:
    """The model's variables, as zeros."""
    return {variable.name: np.zeros(variable.shape) for layer in place_layers(MODEL) for variable in layer.variables}


def _adding(array: Array) -> Array:
    """Kernels that add input and state; biases of 0."""
    return np.concatenate([np.eye(UNITS), np.eye(UNITS)]) if array.ndim == 2 else array


CONFIGS = {
    "memory": (replace(TEST_CONFIG, default_ttl_s=TTL_S), 200),
    # Most of them are out of memory at any time.
    "evicted": (replace(TEST_CONFIG, default_ttl_s=TTL_S, max_sessions=6), 30),
    "async": (
        replace(TEST_CONFIG, default_ttl_s=TTL_S, max_sessions=6, durability="async", flush_interval_ms=10),
        30,
    ),
}


@pytest.mark.parametrize(
    "kind", ["memory", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("evicted", "async"))]
)
def test_a_seats_next_owner_sees_nothing_of_the_last(
    start_server: Callable[[ServerConfig], RunningApp], clock: ManualClock, kind: str, tmp_path: Path
) -> None:
    config, most = CONFIGS[kind]
    if kind != "memory":
        config = replace(config, store=f"sqlite:{tmp_path / 'sessions.db'}")
    world = World(start_server(config), clock, most, seed=11)
    for _ in range(most):  # The tables grow while they are full of numbers.
        world.create()
    for _ in range(ACTIONS):
        world.act()
    for name in world.sessions:
        world.check(name)
    assert world.made > 200
