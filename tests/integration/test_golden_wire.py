"""TensorFlow's own numbers through the wire: by Call, by Step after Step, by RunSequence and by StreamSteps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import grpc
import numpy as np
import pytest

from cellserve.states import state_from_proto, state_to_proto
from cellserve.tensors import Array, array_from_bytes, array_from_tensor, tensor_from_array
from cellserve.v1 import (
    model_service_pb2_grpc,
    recurrent_service_pb2,
    recurrent_service_pb2_grpc,
    sequence_pb2,
    session_pb2,
    stream_pb2,
)
from tests.definitions import define_with_weights
from tests.golden_cases import GoldenCase, golden_cases

CASES = golden_cases()
STEPPABLE = [case for case in CASES if case.steppable and case.sequence_length is None]
TIMEOUT_S = 30


class Wire:
    """The generated stubs, and every case's model, defined once."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.service = recurrent_service_pb2_grpc.RecurrentServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)
        self._names: dict[str, str] = {}

    def model(self, case: GoldenCase) -> str:
        """The name of the case's model, with TensorFlow's weights under TensorFlow's names."""
        if case.id not in self._names:
            self._names[case.id] = define_with_weights(self._models, case.description, case.weights).name
        return self._names[case.id]

    def create(self, case: GoldenCase) -> str:
        """A session with the case's rows and initial state."""
        session = session_pb2.Session(
            model=self.model(case),
            batch_size=len(case.inputs),
            state=state_to_proto(case.description.state_size, case.initial_leaves),
        )
        request = recurrent_service_pb2.CreateSessionRequest(session=session)
        return str(self.service.CreateSession(request, timeout=TIMEOUT_S).session.name)

    def final_leaves(self, case: GoldenCase, name: str) -> list[Array]:
        request = recurrent_service_pb2.GetSessionRequest(name=name, view=session_pb2.SESSION_VIEW_FULL)
        answer = self.service.GetSession(request, timeout=TIMEOUT_S)
        return state_from_proto(case.description.state_size, answer.session.state)


@pytest.fixture(scope="module")
def wire(server_address: str) -> Iterator[Wire]:
    with grpc.insecure_channel(server_address) as channel:
        yield Wire(channel)


def by_id(cases: list[GoldenCase]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])


def assert_close(case: GoldenCase, outputs: Array, leaves: list[Array]) -> None:
    np.testing.assert_allclose(outputs, case.outputs, atol=case.tolerance, rtol=case.tolerance)
    for got, want in zip(leaves, case.final_leaves, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, atol=case.tolerance, rtol=case.tolerance)


@by_id(STEPPABLE)
def test_by_call(wire: Wire, case: GoldenCase) -> None:
    structure = case.description.state_size
    leaves, outputs = case.initial_leaves, []
    for step in range(case.inputs.shape[1]):
        request = recurrent_service_pb2.CallRequest(
            model=wire.model(case),
            inputs=[tensor_from_array(case.inputs[:, step])],
            state=state_to_proto(structure, leaves),
        )
        answer = wire.service.Call(request, timeout=TIMEOUT_S)
        leaves = state_from_proto(structure, answer.state)
        outputs.append(array_from_tensor(answer.outputs[0]))
    assert_close(case, np.stack(outputs, axis=1), leaves)


@by_id(STEPPABLE)
def test_by_step_after_step(wire: Wire, case: GoldenCase) -> None:
    name, outputs = wire.create(case), []
    for step in range(case.inputs.shape[1]):
        request = recurrent_service_pb2.StepRequest(
            name=name, inputs=[tensor_from_array(case.inputs[:, step])], expected_step=step, run_id=step + 1
        )
        answer = wire.service.Step(request, timeout=TIMEOUT_S)
        assert answer.step_count == step + 1
        outputs.append(array_from_tensor(answer.outputs[0]))
    assert_close(case, np.stack(outputs, axis=1), wire.final_leaves(case, name))


def sequence_of(case: GoldenCase) -> sequence_pb2.Sequence:
    return sequence_pb2.Sequence(values=[tensor_from_array(case.inputs)], lengths=case.sequence_length)


@by_id(CASES)
def test_by_run_sequence(wire: Wire, case: GoldenCase) -> None:
    structure = case.description.state_size
    request = recurrent_service_pb2.RunSequenceRequest(
        model=wire.model(case), inputs=sequence_of(case), initial_state=state_to_proto(structure, case.initial_leaves)
    )
    answer = wire.service.RunSequence(request, timeout=TIMEOUT_S)
    assert_close(case, array_from_tensor(answer.outputs.values[0]), state_from_proto(structure, answer.state))
    assert answer.steps_applied == case.lengths.max()


@by_id([case for case in CASES if case.steppable])
def test_by_run_sequence_of_a_session(wire: Wire, case: GoldenCase) -> None:
    name = wire.create(case)
    request = recurrent_service_pb2.RunSequenceRequest(session=name, inputs=sequence_of(case))
    answer = wire.service.RunSequence(request, timeout=TIMEOUT_S)
    assert not answer.HasField("state")
    assert_close(case, array_from_tensor(answer.outputs.values[0]), wire.final_leaves(case, name))


@by_id(STEPPABLE)
def test_by_stream_steps(wire: Wire, case: GoldenCase) -> None:
    """Three sessions of the case in one group, all stepped by each message."""
    names = [wire.create(case) for _ in range(3)]
    rows, time = case.inputs.shape[:2]
    handles = [7, 0, 4_000_000_000]
    seqs = count(1)

    def requests() -> Iterator[stream_pb2.StreamStepsRequest]:
        opening = stream_pb2.Open(
            seq=next(seqs), group=5, model=wire.model(case), names=names, handles=handles, batch_size=rows
        )
        yield stream_pb2.StreamStepsRequest(open=opening)
        for step in range(time):
            steps = stream_pb2.Steps(
                seq=next(seqs),
                group=5,
                handles=handles,
                expected_steps=[step] * 3,
                run_ids=[step + 1] * 3,
                inputs=[case.inputs[:, step].tobytes() * 3],
            )
            yield stream_pb2.StreamStepsRequest(steps=steps)

    outputs = np.full((3, *case.outputs.shape), np.nan, case.dtype)
    for answer in wire.service.StreamSteps(requests(), timeout=TIMEOUT_S):
        if answer.HasField("opened"):
            assert not answer.opened.errors
            continue
        stepped = answer.stepped
        assert not stepped.errors
        assert not stepped.HasField("status")
        positions = list(stepped.positions) or [0, 1, 2]
        shape = (len(positions), rows, case.output_size)
        step = stepped.seq - 2
        outputs[positions, :, step] = array_from_bytes(stepped.outputs[0], case.dtype, shape, "outputs")
    for name, got in zip(names, outputs, strict=True):
        assert_close(case, got, wire.final_leaves(case, name))
