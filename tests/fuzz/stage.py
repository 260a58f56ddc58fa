"""What garbage finds on a server: a few models, a session on each, and a canary that has to go on unharmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from google.protobuf.message import Message

from cellserve.cells import BasicLSTMCell, BasicRNNCell, EmbeddingWrapper, GRUCell, MultiRNNCell
from cellserve.specs import describe
from cellserve.tensors import array_from_tensor, tensor_from_array
from cellserve.v1 import model_service_pb2, session_pb2
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_server.cells import build_network, draw_weights
from tests.unit.model_samples import FLOAT32, FLOAT64, bidirectional, model, put

RpcCall: TypeAlias = Callable[[str, Message], Message | None]
"""Makes a call of the method whose path is given and gives the answer; None: what it is about is not there."""

DEPTH = 3
UNITS = 2
ROWS = 2
RECURRENT = "/cellserve.v1.RecurrentService/"
MODELS = "/cellserve.v1.ModelService/"
MODEL_NAMES = ("rnn", "stack", "ids", "bi")
SESSIONS = {"a": ("rnn", 0), "b": ("stack", ROWS), "c": ("ids", 0)}
"""By id: the model and the batch size."""

# A name that nobody hits by chance.
CANARY = "canary-4711"
CANARY_MODEL = describe(BasicLSTMCell(8), DEPTH, FLOAT32)
TOLERANCE = 1e-5
PAGE = 1000


def write_models(folder: Path) -> None:
    """Puts the models into a server's folder."""
    put(folder, "rnn", 1, describe(BasicRNNCell(UNITS), DEPTH, FLOAT32))
    put(folder, "stack", 1, describe(MultiRNNCell([BasicLSTMCell(UNITS), GRUCell(UNITS)]), DEPTH, FLOAT64))
    put(folder, "ids", 1, model([EmbeddingWrapper(BasicRNNCell(UNITS), 10, UNITS)]))
    put(folder, "bi", 1, bidirectional())
    put(folder, CANARY, 1, CANARY_MODEL)


def set_stage(call: RpcCall) -> None:
    """Has the server have these models and these sessions and, but for the canary's, no others."""
    for name in MODEL_NAMES:
        call(f"{MODELS}LoadModel", model_service_pb2.LoadModelRequest(name=f"models/{name}/versions/1"))
    while True:
        listed = call(f"{RECURRENT}ListSessions", messages.ListSessionsRequest(page_size=PAGE))
        assert isinstance(listed, messages.ListSessionsResponse)
        gone = [session.name for session in listed.sessions if session.name != f"sessions/{CANARY}"]
        for name in gone:
            call(f"{RECURRENT}DeleteSession", messages.DeleteSessionRequest(name=name))
        if not listed.next_page_token:
            break
    models = call(f"{MODELS}ListModels", model_service_pb2.ListModelsRequest(page_size=PAGE))
    assert isinstance(models, model_service_pb2.ListModelsResponse)
    for found in models.models:  # One that has just expired may be listed and yet not be there.
        if found.name.split("/")[1] not in (*MODEL_NAMES, CANARY):
            call(f"{MODELS}UnloadModel", model_service_pb2.UnloadModelRequest(name=found.name, force=True))
    for id_, (name, batch_size) in SESSIONS.items():
        session = session_pb2.Session(model=f"models/{name}", batch_size=batch_size)
        call(f"{RECURRENT}CreateSession", messages.CreateSessionRequest(session_id=id_, session=session))


class Canary:
    """A session that is stepped now and then; its outputs are compared with those of the same cell beside the server.

    Args:
        call: makes calls of the server.
    """

    def __init__(self, call: RpcCall) -> None:
        self._call = call
        self._network = build_network(CANARY_MODEL, draw_weights(CANARY_MODEL, 0))
        self._leaves = [np.zeros((1, size), np.float32) for size in self._network.leaf_sizes]
        self._random = np.random.default_rng(0)
        self._steps = 0
        session = session_pb2.Session(model=f"models/{CANARY}")
        call(f"{RECURRENT}CreateSession", messages.CreateSessionRequest(session_id=CANARY, session=session))

    def step(self) -> None:
        """Takes one step.

        Raises:
            AssertionError: the server's answer is another than the cell's.
        """
        inputs = self._random.normal(size=DEPTH).astype(np.float32)
        request = messages.StepRequest(
            name=f"sessions/{CANARY}", inputs=[tensor_from_array(inputs)], expected_step=self._steps
        )
        answer = self._call(f"{RECURRENT}Step", request)
        assert isinstance(answer, messages.StepResponse)
        (expected,), self._leaves = self._network.step([inputs[np.newaxis]], self._leaves)
        self._steps += 1
        assert answer.step_count == self._steps, f"the canary is at step {answer.step_count}, not {self._steps}"
        np.testing.assert_allclose(array_from_tensor(answer.outputs[0]), expected[0], rtol=TOLERANCE, atol=TOLERANCE)
