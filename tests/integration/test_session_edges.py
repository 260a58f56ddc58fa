"""What bad requests on sessions get, why sessions are not there, pages, and request_ids."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration

from cellserve.cells import BasicLSTMCell, GRUCell
from cellserve.v1 import (
    model_service_pb2,
    session_pb2,
)
from cellserve.v1 import recurrent_service_pb2 as messages
from tests.clocks import ManualClock
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
    get_session,
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
    made_up = step_request("sessions/twice", uid="u" * 300, inputs=[floats(DEPTH)])
    expect_error(lambda: step(made_up), "NOT_FOUND", "SESSION_NOT_FOUND", [f"(uid {'u' * 80})"])


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


def test_bad_orders(edge: Edge) -> None:
    list_sessions = edge.server.stubs.recurrent.ListSessions
    every = ["order_by", "steps_per_second", "step_count", "last_used_time", "create_time", "desc"]
    for order_by in ("steps", "step_count asc", "step_count desc desc", "step_count,name", "name desc", "desc", "ttl"):
        bad = messages.ListSessionsRequest(order_by=order_by)
        expect_error(lambda r=bad: list_sessions(r), "INVALID_ARGUMENT", FIELD, [*every, order_by])  # type: ignore[misc]
    token = messages.ListSessionsRequest(order_by="step_count", page_token="c2luZ2xl")
    expect_error(lambda: list_sessions(token), "INVALID_ARGUMENT", FIELD, ["page_token", "order_by", "c2luZ2xl"])
    long = messages.ListSessionsRequest(id_contains="x" * 129)
    expect_error(lambda: list_sessions(long), "INVALID_ARGUMENT", FIELD, ["id_contains", "128", "129"])


def test_sessions_by_activity(server: RunningApp, clock: ManualClock) -> None:
    lstm = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    gru = define_model(server.stubs, GRUCell(UNITS), DEPTH).name
    for number, model in enumerate((lstm, lstm, gru, lstm)):
        create_session(server, f"s{number}", model)
        clock.advance(1.0)

    def listed(order_by: str, **fields: Any) -> list[tuple[str, float]]:
        request = messages.ListSessionsRequest(order_by=order_by, **fields)
        answer = server.stubs.recurrent.ListSessions(request, timeout=RPC_TIMEOUT_S)
        assert answer.next_page_token == ""
        assert order_by.split() in ([], ["name"]) or answer.total_size == 4
        return [(session.name.removeprefix("sessions/"), session.steps_per_second) for session in answer.sessions]

    def step(id_: str, count: int) -> None:
        for _ in range(count):
            server.stubs.recurrent.Step(step_request(f"sessions/{id_}", inputs=[floats(DEPTH)]), timeout=RPC_TIMEOUT_S)

    step("s1", 4)
    assert [id_ for id_, _ in listed("step_count desc")] == ["s1", "s3", "s2", "s0"]
    step("s0", 2)
    step("s2", 3)
    clock.advance(2.0)
    fastest = [("s2", 1.5), ("s0", 1.0), ("s1", 0.0), ("s3", 0.0)]
    assert listed("steps_per_second desc") == fastest
    assert listed(" steps_per_second   desc ", page_size=2) == fastest[:2]
    assert listed("steps_per_second", page_size=2) == [("s1", 0.0), ("s3", 0.0)]
    assert listed("steps_per_second desc", model=lstm) == [each for each in fastest if each[0] != "s2"]
    assert listed("steps_per_second desc", id_contains="0") == [("s0", 1.0)]
    assert [id_ for id_, _ in listed("create_time")] == ["s0", "s1", "s2", "s3"]
    assert {id_ for id_, _ in listed("last_used_time desc", page_size=3)} == {"s0", "s1", "s2"}
    for by_name in ("", "name"):
        assert listed(by_name) == [("s0", 0.0), ("s1", 0.0), ("s2", 0.0), ("s3", 0.0)]
        assert listed(by_name, id_contains="s2") == [("s2", 0.0)]
    assert server.stubs.recurrent.ListSessions(messages.ListSessionsRequest(id_contains="s2")).total_size == 1


def test_when_a_session_was_last_used(server: RunningApp, clock: ManualClock) -> None:
    lstm = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    made = create_session(server, "s", lstm)
    assert made.last_used_time == made.create_time
    clock.advance(5.0)
    assert get_session(server, "s").last_used_time == made.create_time
    server.stubs.recurrent.Step(step_request("sessions/s", inputs=[floats(DEPTH)]), timeout=RPC_TIMEOUT_S)
    clock.advance(1.0)
    assert get_session(server, "s").last_used_time.ToMicroseconds() == made.create_time.ToMicroseconds() + 5_000_000


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
