"""It does not matter how steps are asked for: at once or one by one, in company or alone, remote or in process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellserve import cells
from cellserve.specs import ModelDescription, describe
from cellserve.states import state_from_proto, state_to_proto
from cellserve.tensors import Array, array_from_bytes, array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as rpc
from cellserve.v1 import sequence_pb2, session_pb2, stream_pb2
from cellserve_server.cells import build_network, draw_weights
from tests.definitions import define_with_weights
from tests.servers import RunningApp

TOLERANCE = 1e-5
TIMEOUT_S = 30
PROPERTY = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])

UNITS = st.integers(1, 9)
ACTIVATIONS = st.sampled_from(["tanh", "relu", "sigmoid", "identity"])
SIMPLE = st.one_of(
    st.builds(cells.BasicRNNCell, UNITS, ACTIVATIONS),
    st.builds(cells.BasicLSTMCell, UNITS, st.floats(-1, 3), st.booleans(), st.sampled_from(["tanh", "sigmoid"])),
    st.builds(cells.GRUCell, UNITS, st.sampled_from(["tanh", "sigmoid"])),
)
CELLS = st.one_of(
    SIMPLE,
    st.lists(SIMPLE, min_size=1, max_size=3).map(cells.MultiRNNCell),
    st.builds(cells.OutputProjectionWrapper, SIMPLE, UNITS),
)


@dataclass(frozen=True)
class Problem:
    """A model, sequences for it, and what the same cell gives in process."""

    description: ModelDescription
    weights: dict[str, Array]
    inputs: Array  # [batch, time, depth]
    initial: list[Array]
    outputs: Array
    final: list[Array]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    depth, batch, time = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 7))
    description = describe(draw(CELLS), depth, np.dtype(draw(st.sampled_from(["f4", "f8"]))))
    weights = draw_weights(description, draw(st.integers(0, 99)))
    network = build_network(description, weights)
    random = np.random.default_rng(draw(st.integers(0, 99)))
    inputs = random.standard_normal((batch, time, depth)).astype(description.dtype)
    initial = [random.standard_normal((batch, size)).astype(description.dtype) for size in network.leaf_sizes]
    (outputs,), final = network.run([inputs], np.full(batch, time, np.int64), initial)
    return Problem(description, weights, inputs, initial, outputs, final)


class Remote:
    """The problem's model on a server."""

    def __init__(self, server: RunningApp, problem: Problem) -> None:
        self.problem = problem
        self.service = server.stubs.recurrent
        self.model = define_with_weights(server.stubs.models, problem.description, problem.weights).name

    def close_to(self, outputs: Array, leaves: list[Array]) -> None:
        np.testing.assert_allclose(outputs, self.problem.outputs, atol=TOLERANCE, rtol=TOLERANCE)
        for got, want in zip(leaves, self.problem.final, strict=True):
            np.testing.assert_allclose(got, want, atol=TOLERANCE, rtol=TOLERANCE)

    def create(self, row: int | None = None) -> str:
        """A session of all rows, or of one alone, without a batch dimension."""
        leaves = self.problem.initial if row is None else [leaf[row : row + 1] for leaf in self.problem.initial]
        session = session_pb2.Session(
            model=self.model,
            batch_size=len(self.problem.inputs) if row is None else 0,
            state=state_to_proto(self.problem.description.state_size, leaves),
        )
        answer = self.service.CreateSession(rpc.CreateSessionRequest(session=session), timeout=TIMEOUT_S)
        return str(answer.session.name)

    def finish(self, name: str) -> list[Array]:
        """The session's state; the session is deleted."""
        request = rpc.GetSessionRequest(name=name, view=session_pb2.SESSION_VIEW_FULL)
        answer = self.service.GetSession(request, timeout=TIMEOUT_S)
        self.service.DeleteSession(rpc.DeleteSessionRequest(name=name), timeout=TIMEOUT_S)
        return state_from_proto(self.problem.description.state_size, answer.session.state)

    def step_all(self, name: str, inputs: Array) -> Array:
        """Steps a session through ``[time, ...]`` and gives ``[time, ...]``."""
        outputs = []
        for frame in inputs:
            request = rpc.StepRequest(name=name, inputs=[tensor_from_array(frame)])
            answer = self.service.Step(request, timeout=TIMEOUT_S)
            outputs.append(array_from_tensor(answer.outputs[0]))
        return np.stack(outputs)


@PROPERTY
@given(problem=problems(), data=st.data())
def test_at_once_equals_in_pieces_equals_in_process(server: RunningApp, problem: Problem, data: st.DataObject) -> None:
    remote = Remote(server, problem)
    name, time = remote.create(), problem.inputs.shape[1]
    cut = data.draw(st.integers(0, time))
    outputs = []
    for piece in (problem.inputs[:, :cut], problem.inputs[:, cut:]):
        request = rpc.RunSequenceRequest(session=name, inputs=sequence_pb2.Sequence(values=[tensor_from_array(piece)]))
        answer = remote.service.RunSequence(request, timeout=TIMEOUT_S)
        outputs.append(array_from_tensor(answer.outputs.values[0]))
    assert answer.step_count == time
    remote.close_to(np.concatenate(outputs, axis=1), remote.finish(name))


@PROPERTY
@given(problem=problems())
def test_a_sequence_equals_its_steps(server: RunningApp, problem: Problem) -> None:
    remote = Remote(server, problem)
    name = remote.create()
    outputs = remote.step_all(name, problem.inputs.swapaxes(0, 1)).swapaxes(0, 1)
    remote.close_to(outputs, remote.finish(name))


@PROPERTY
@given(problem=problems())
def test_rows_in_company_equal_rows_alone(server: RunningApp, problem: Problem) -> None:
    """Every row is a session of its own, stepped from its own thread, while the others are."""
    remote = Remote(server, problem)
    names = [remote.create(row) for row in range(len(problem.inputs))]
    with ThreadPoolExecutor(len(names)) as threads:
        outputs = list(threads.map(remote.step_all, names, problem.inputs))
    states = [remote.finish(name) for name in names]
    remote.close_to(np.stack(outputs), [np.concatenate(leaves) for leaves in zip(*states, strict=True)])


@PROPERTY
@given(problem=problems())
def test_streamed_rows_equal_the_batch(server: RunningApp, problem: Problem) -> None:
    """Every row is a session of its own; each message of a stream steps all of them."""
    remote = Remote(server, problem)
    batch, time = problem.inputs.shape[:2]
    names = [remote.create(row) for row in range(batch)]

    def requests() -> Iterator[stream_pb2.StreamStepsRequest]:
        opening = stream_pb2.Open(seq=1, group=1, model=remote.model, names=names, handles=range(batch))
        yield stream_pb2.StreamStepsRequest(open=opening)
        for step in range(time):
            data = problem.inputs[:, step].tobytes()
            steps = stream_pb2.Steps(seq=2 + step, group=1, handles=range(batch), inputs=[data])
            yield stream_pb2.StreamStepsRequest(steps=steps)

    outputs = np.full(problem.outputs.shape, np.nan, problem.outputs.dtype)
    for answer in remote.service.StreamSteps(requests(), timeout=TIMEOUT_S):
        if answer.HasField("opened"):
            continue
        assert not answer.stepped.errors
        positions = list(answer.stepped.positions) or list(range(batch))
        shape = (len(positions), problem.outputs.shape[2])
        values = array_from_bytes(answer.stepped.outputs[0], outputs.dtype, shape, "outputs")
        outputs[positions, answer.stepped.seq - 2] = values
    states = [remote.finish(name) for name in names]
    remote.close_to(outputs, [np.concatenate(leaves) for leaves in zip(*states, strict=True)])
