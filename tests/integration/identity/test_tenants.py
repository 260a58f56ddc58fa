"""What belongs to a tenant is there for nobody else, whatever RPC is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cellserve.cells import BasicLSTMCell
from cellserve.errors import (
    CellServeError,
    FieldInvalidError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from cellserve.specs import describe, model_to_proto
from cellserve.states import state_to_proto
from cellserve.tensors import tensor_from_array
from cellserve.v1 import model_service_pb2, peer_service_pb2, sequence_pb2, session_pb2, stream_pb2
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_client import connect, rnn
from tests.identities import TokenBook, metadata_of
from tests.integration.identity.asking import Outcome, all_methods, ask
from tests.integration.tls.using import Start
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, error_of_call

UNITS, DEPTH = 3, 2
MINE = "sessions/mine"
FRAME = np.zeros((1, DEPTH), np.float32)
METHODS = {f"{method.containing_service.name}.{method.name}": method for method in all_methods()}
Questions: TypeAlias = "Mapping[str, Sequence[Message]]"


@dataclass(frozen=True)
class Scene:
    """A server; a tenant, whose session is ``mine``; and another one with all rights, who has the same model."""

    server: RunningApp
    mine: str
    others: str
    plain: str
    model: str


@pytest.fixture
def scene(start_server: Start, book: TokenBook, tmp_path: Path) -> Scene:
    mine = book.issue("clinic", "admin", "metrics")
    others = book.issue("shop", "admin", "metrics")
    plain = book.issue("shop")
    server = start_server(book.config(replace(TEST_CONFIG, store=f"sqlite:{tmp_path / 'store.db'}")))
    with connect(server.address, token=mine) as remote:
        cell = remote.cell(rnn.BasicLSTMCell(UNITS), seed=5, input_size=DEPTH)
        session = remote.session(cell, session_id="mine")
        session.step(FRAME[0])
        model = remote.session_info("mine").model
    return Scene(server, mine, others, plain, model)


def questions(model: str) -> Questions:
    """For each method what asks for the session, or for the model, of the tenant."""
    tensor = tensor_from_array(FRAME)
    state = state_to_proto(BasicLSTMCell(UNITS).state_size, [np.zeros((1, UNITS), np.float32)] * 2)
    sequence = sequence_pb2.Sequence(values=[tensor_from_array(FRAME[:, None])])
    of_model = session_pb2.Session(model=model)
    opening = stream_pb2.Open(seq=1, group=1, model=model, names=[MINE], handles=[1])
    making = stream_pb2.Open(seq=1, group=1, model=model, names=[MINE], handles=[1], create_if_missing=True)
    held = peer_service_pb2.HeldSession(tenant="clinic", id="mine", epoch=1)
    return {
        "RecurrentService.Call": [messages.CallRequest(model=model, inputs=[tensor], state=state)],
        "RecurrentService.Step": [messages.StepRequest(name=MINE, inputs=[tensor])],
        "RecurrentService.RunSequence": [
            messages.RunSequenceRequest(session=MINE, inputs=sequence),
            messages.RunSequenceRequest(model=model, inputs=sequence),
        ],
        "RecurrentService.StreamSteps": [
            stream_pb2.StreamStepsRequest(open=opening),
            stream_pb2.StreamStepsRequest(open=making),
        ],
        "RecurrentService.CreateSession": [
            messages.CreateSessionRequest(session_id="another", session=of_model),
            messages.CreateSessionRequest(session_id="mine", session=of_model),
        ],
        "RecurrentService.GetSession": [
            messages.GetSessionRequest(name=MINE, view=session_pb2.SESSION_VIEW_BASIC),
            messages.GetSessionRequest(name=MINE, view=session_pb2.SESSION_VIEW_FULL),
        ],
        "RecurrentService.ListSessions": [
            messages.ListSessionsRequest(),
            messages.ListSessionsRequest(model=model),
            messages.ListSessionsRequest(order_by="steps_per_second desc"),
        ],
        "RecurrentService.DeleteSession": [messages.DeleteSessionRequest(name=MINE)],
        "RecurrentService.ResetSession": [messages.ResetSessionRequest(name=MINE)],
        "RecurrentService.ForkSession": [messages.ForkSessionRequest(name=MINE, session_id="another")],
        "RecurrentService.SetSessionState": [messages.SetSessionStateRequest(name=MINE, state=state)],
        "ModelService.ListModels": [model_service_pb2.ListModelsRequest()],
        "ModelService.GetModel": [model_service_pb2.GetModelRequest(name=model)],
        # Of the operator's folder, which is nobody's own, and empty here.
        "ModelService.LoadModel": [model_service_pb2.LoadModelRequest(name="models/a/versions/1")],
        "ModelService.UnloadModel": [model_service_pb2.UnloadModelRequest(name=model, force=True)],
        # It makes a model of the asker's own, as long as it does not ask for one that is there.
        "ModelService.DefineModel": [],
        "PeerService.ReleaseSessions": [
            peer_service_pb2.ReleaseSessionsRequest(sessions=[held], taker="evil.example:1"),
            peer_service_pb2.ReleaseSessionsRequest(sessions=[held], taker="evil.example:1", holder="127.0.0.1:1#"),
        ],
    }


def test_every_method_has_a_question() -> None:
    assert set(questions("m")) == set(METHODS), "a new method needs one: what asks for somebody else's session?"


def finds_nothing(outcome: Outcome) -> bool:
    """Whether an answer has nothing of the tenant's, or says that there is nothing."""
    if isinstance(outcome, NotFoundError):
        return "mine" not in outcome.message or "never was" in outcome.message
    if isinstance(outcome, stream_pb2.StreamStepsResponse):
        return outcome.opened.status.code == grpc.StatusCode.NOT_FOUND.value[0] and not outcome.opened.uids
    if isinstance(outcome, messages.ListSessionsResponse):
        return not outcome.sessions and not outcome.total_size and not outcome.next_page_token
    if isinstance(outcome, model_service_pb2.ListModelsResponse):
        return not outcome.models
    # Not even who has every right among clients is a replica.
    return isinstance(outcome, UnauthenticatedError) and "holder" in outcome.message


def test_another_tenant_finds_nothing_by_any_method(scene: Scene) -> None:
    channel = scene.server.stubs.channel
    before = seen_by_its_owner(scene)
    for name, requests in questions(scene.model).items():
        for request in requests:
            outcome = ask(channel, METHODS[name], request, scene.others)
            assert finds_nothing(outcome), f"{name}: {outcome!r}"
    assert seen_by_its_owner(scene) == before


def test_another_tenant_with_the_same_model_finds_no_session(scene: Scene) -> None:
    """The model's name, which its content says, is the same for both; under it each has its own."""
    channel = scene.server.stubs.channel
    before = seen_by_its_owner(scene)
    spec = model_to_proto(describe(BasicLSTMCell(UNITS), DEPTH, np.dtype(np.float32)))
    header = model_service_pb2.DefineModelHeader(spec=spec, seed=5)
    define = METHODS["ModelService.DefineModel"]
    made = ask(channel, define, model_service_pb2.DefineModelRequest(header=header), scene.others)
    assert isinstance(made, model_service_pb2.DefineModelResponse)
    assert scene.model.startswith(made.model.name)
    asked = questions(scene.model)
    for name in ("Step", "GetSession", "DeleteSession", "ResetSession", "ForkSession", "SetSessionState"):
        for request in asked[f"RecurrentService.{name}"]:
            outcome = ask(channel, METHODS[f"RecurrentService.{name}"], request, scene.others)
            assert finds_nothing(outcome), f"{name}: {outcome!r}"
    opening, making = asked["RecurrentService.StreamSteps"]
    stream = METHODS["RecurrentService.StreamSteps"]
    opened = ask(channel, stream, opening, scene.others)
    assert isinstance(opened, stream_pb2.StreamStepsResponse)
    assert [error.status.code for error in opened.opened.errors] == [grpc.StatusCode.NOT_FOUND.value[0]]
    opened = ask(channel, stream, making, scene.others)
    assert isinstance(opened, stream_pb2.StreamStepsResponse)
    assert opened.opened.step_counts == [0], "a session of its own, of the same name"
    listed = ask(channel, METHODS["RecurrentService.ListSessions"], messages.ListSessionsRequest(), scene.others)
    assert isinstance(listed, messages.ListSessionsResponse)
    assert [(session.name, session.step_count) for session in listed.sessions] == [(MINE, 0)]
    unload = asked["ModelService.UnloadModel"][0]
    assert not isinstance(ask(channel, METHODS["ModelService.UnloadModel"], unload, scene.others), CellServeError)
    assert seen_by_its_owner(scene) == before


def seen_by_its_owner(scene: Scene) -> list[str]:
    """The session and the models, as their owner has them."""
    channel = scene.server.stubs.channel
    outcomes = [
        ask(channel, METHODS[name], request, scene.mine)
        for name, request in (
            ("RecurrentService.GetSession", messages.GetSessionRequest(name=MINE, view=session_pb2.SESSION_VIEW_FULL)),
            ("RecurrentService.ListSessions", messages.ListSessionsRequest()),
            ("ModelService.ListModels", model_service_pb2.ListModelsRequest()),
        )
    ]
    assert not [outcome for outcome in outcomes if isinstance(outcome, CellServeError)]
    assert "step_count: 1" in str(outcomes[0])
    return [str(outcome) for outcome in outcomes]


def empty(method: MethodDescriptor) -> Message:
    message: Message = GetMessageClass(method.input_type)()
    return message


def strangers_tokens(scene: Scene) -> Iterator[str | None]:
    yield None
    yield "cs_wrong"
    yield scene.mine[:-1]
    yield scene.mine.swapcase()


def test_without_a_token_no_method_does_anything(scene: Scene) -> None:
    channel = scene.server.stubs.channel
    for token in strangers_tokens(scene):
        for name, method in METHODS.items():
            for request in (empty(method), *questions(scene.model)[name]):
                outcome = ask(channel, method, request, token)
                assert type(outcome) is UnauthenticatedError, f"{name}: {outcome!r}"
                assert "mine" not in outcome.message


def test_health_is_open_and_reflection_is_not(scene: Scene) -> None:
    channel = scene.server.stubs.channel
    check: Any = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
    answer = ask(channel, check, health_pb2.HealthCheckRequest(), None)
    assert isinstance(answer, health_pb2.HealthCheckResponse)
    reflect: Any = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods[0]
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    assert type(ask(channel, reflect, request, None)) is UnauthenticatedError
    assert isinstance(ask(channel, reflect, request, scene.plain), reflection_pb2.ServerReflectionResponse)


@pytest.mark.parametrize("name", ["ModelService.LoadModel", "ModelService.UnloadModel"])
def test_the_right_that_is_missing_is_named(scene: Scene, name: str) -> None:
    channel = scene.server.stubs.channel
    (request,) = questions(scene.model)[name]
    error = ask(channel, METHODS[name], request, scene.plain)
    assert isinstance(error, PermissionDeniedError)
    assert error.message == "expected the right 'admin'; tenant 'shop' shows none"


def test_what_strangers_send_is_not_even_decoded(scene: Scene) -> None:
    """Garbage from them is told apart from nothing else."""
    call: Any = scene.server.stubs.channel.unary_unary("/cellserve.v1.RecurrentService/Step")
    for metadata, kind in (((), UnauthenticatedError), (metadata_of(scene.mine), FieldInvalidError)):
        error = error_of_call(partial(call, b"\xff" * 1000, metadata=metadata, timeout=RPC_TIMEOUT_S))
        assert type(error) is kind
