"""What bad requests on sessions get, why sessions are not there, pages, and request_ids."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration

from cellserve.cells import BasicLSTMCell
from cellserve.v1 import (
    model_service_pb2,
    session_pb2,
)
from cellserve.v1 import recurrent_service_pb2 as messages
from tests.integration.edges import (
    DEPTH,
    FIELD,
    ROWS,
    SHAPE,
    UNITS,
    Edge,
    create_session,
    expect_error,
    floats,
    lstm_state,
    step_request,
)
from tests.servers import (
    RPC_TIMEOUT_S,
    RunningApp,
    define_model,
)


def test_bad_creations(edge: Edge) -> None:
    create = edge.server.stubs.recurrent.CreateSession

    def request(session_id: str = "new", **fields: Any) -> messages.CreateSessionRequest:
        session = session_pb2.Session(**{"model": edge.lstm, **fields})
        return messages.CreateSessionRequest(session_id=session_id, session=session)

    cases = [
        (request("a/b"), FIELD, ["session_id", "'a/b'"]),
        (request("\N{SNOWMAN}"), FIELD, ["session_id"]),
        (request("x" * 129), FIELD, ["session_id", "128"]),
        (request(batch_size=-1), FIELD, ["session.batch_size", "0 to 8", "-1"]),
        (request(batch_size=9), FIELD, ["session.batch_size", "0 to 8", "9"]),
        (request(ttl=Duration(seconds=0)), FIELD, ["session.ttl", "above 0"]),
        (request(ttl=Duration(seconds=-5)), FIELD, ["session.ttl", "-5"]),
        (request(ttl=Duration(seconds=8 * 86400)), FIELD, ["session.ttl", "604800"]),
        (request(ttl=Duration(seconds=1, nanos=-(2**31))), FIELD, ["session.ttl"]),
        (request(state=lstm_state(2)), SHAPE, ["session.state.c", "[1, 3]", "[2, 3]"]),
        (request(model=""), FIELD, ["session.model"]),
    ]
    for bad, reason, words in cases:
        expect_error(lambda bad=bad: create(bad, timeout=RPC_TIMEOUT_S), "INVALID_ARGUMENT", reason, words)  # type: ignore[misc]
    taken = request("pair")
    expect_error(lambda: create(taken), "ALREADY_EXISTS", "SESSION_EXISTS", ["'pair'"])


def test_sessions_that_are_not_there_say_why(edge: Edge) -> None:
    stubs, server = edge.server.stubs.recurrent, edge.server
    step = stubs.Step
    expect_error(
        lambda: step(step_request("sessions/never")), "NOT_FOUND", "SESSION_NOT_FOUND", ["sessions/never", "never was"]
    )
    create_session(server, "gone", edge.lstm)
    stubs.DeleteSession(messages.DeleteSessionRequest(name="sessions/gone"))
    expect_error(
        lambda: step(step_request("sessions/gone")), "NOT_FOUND", "SESSION_NOT_FOUND", ["sessions/gone", "deleted"]
    )
    short = session_pb2.Session(model=edge.lstm, ttl=Duration(seconds=5))
    stubs.CreateSession(messages.CreateSessionRequest(session_id="short", session=short))
    edge.clock.advance(6)
    expect_error(
        lambda: step(step_request("sessions/short")), "NOT_FOUND", "SESSION_NOT_FOUND", ["sessions/short", "expired"]
    )
    first = create_session(server, "twice", edge.lstm)
    stubs.ResetSession(messages.ResetSessionRequest(name="sessions/twice"))
    old_life = step_request("sessions/twice", uid=first.uid, inputs=[floats(DEPTH)])
    expect_error(lambda: step(old_life), "NOT_FOUND", "SESSION_NOT_FOUND", ["sessions/twice", first.uid, "reset"])


def test_the_wrong_step(edge: Edge) -> None:
    create_session(edge.server, "order", edge.lstm)
    bad = step_request("sessions/order", inputs=[floats(DEPTH)], expected_step=4)
    error = expect_error(lambda: edge.server.stubs.recurrent.Step(bad), "ABORTED", "STEP_OUT_OF_ORDER", ["4", "0"])
    assert (error.metadata["expected_step"], error.metadata["step_count"]) == ("4", "0")


def test_bad_states_and_views(edge: Edge) -> None:
    stubs = edge.server.stubs.recurrent

    def set_state(**fields: Any) -> messages.SetSessionStateRequest:
        return messages.SetSessionStateRequest(**{"name": "sessions/pair", "state": lstm_state(ROWS), **fields})

    cases = [
        (set_state(state=None), FIELD, ["state"]),
        (set_state(state=lstm_state(1)), SHAPE, ["state.c", "[2, 3]", "[1, 3]"]),
        (set_state(step_count=-1), FIELD, ["step_count", "-1"]),
        (set_state(step_count=2**63 - 1), FIELD, ["step_count"]),
        (set_state(name="pair"), FIELD, ["name"]),
        (set_state(request_id="x" * 129), FIELD, ["request_id", "128", "129"]),
    ]
    for bad, reason, words in cases:
        expect_error(lambda bad=bad: stubs.SetSessionState(bad), "INVALID_ARGUMENT", reason, words)  # type: ignore[misc]
    view = messages.GetSessionRequest(name="sessions/pair", view=7)  # type: ignore[arg-type]
    expect_error(lambda: stubs.GetSession(view), "INVALID_ARGUMENT", FIELD, ["view", "7"])


def test_bad_pages(edge: Edge) -> None:
    stubs = edge.server.stubs
    for token in ("!", "abc", "\N{SNOWMAN}", "/w=="):
        sessions = messages.ListSessionsRequest(page_token=token)
        expect_error(lambda r=sessions: stubs.recurrent.ListSessions(r), "INVALID_ARGUMENT", FIELD, ["page_token"])  # type: ignore[misc]
        models = model_service_pb2.ListModelsRequest(page_token=token)
        expect_error(lambda r=models: stubs.models.ListModels(r), "INVALID_ARGUMENT", FIELD, ["page_token"])  # type: ignore[misc]
    negative = messages.ListSessionsRequest(page_size=-1)
    expect_error(lambda: stubs.recurrent.ListSessions(negative), "INVALID_ARGUMENT", FIELD, ["page_size", "-1"])


def test_pages_cover_everything_once(server: RunningApp) -> None:
    lstm = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH, seed=1)
    ids = sorted(f"s{number}" for number in range(7))
    for id_ in ids:
        create_session(server, id_, lstm)
    seen, token = [], ""
    while True:
        request = messages.ListSessionsRequest(page_size=3, page_token=token, model=lstm)
        page = server.stubs.recurrent.ListSessions(request, timeout=RPC_TIMEOUT_S)
        assert page.total_size == len(ids)
        seen += [session.name.removeprefix("sessions/") for session in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert seen == ids
    first = server.stubs.models.ListModels(model_service_pb2.ListModelsRequest(page_size=1))
    second = server.stubs.models.ListModels(
        model_service_pb2.ListModelsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert first.models[0].name < second.models[0].name
    assert second.next_page_token == ""


def test_request_ids(edge: Edge) -> None:
    stubs = edge.server.stubs.recurrent
    session = session_pb2.Session(model=edge.lstm)
    request = messages.CreateSessionRequest(session=session, request_id="once")
    first, second = stubs.CreateSession(request), stubs.CreateSession(request)
    assert first == second
    other = messages.CreateSessionRequest(session_id="else", session=session, request_id="once")
    expect_error(lambda: stubs.CreateSession(other), "INVALID_ARGUMENT", FIELD, ["request_id", "'once'"])
    reset = messages.ResetSessionRequest(name=first.session.name, request_id="again")
    assert stubs.ResetSession(reset).session.uid == stubs.ResetSession(reset).session.uid
    fork = messages.ForkSessionRequest(name=first.session.name, request_id="copy")
    assert stubs.ForkSession(fork).session.name == stubs.ForkSession(fork).session.name
    delete = messages.DeleteSessionRequest(name=first.session.name, request_id="end")
    assert stubs.DeleteSession(delete) == stubs.DeleteSession(delete)
