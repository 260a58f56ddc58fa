"""Whatever becomes of sessions, what their tenants are counted to have is what they have, and in the end nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cellserve.cells import BasicLSTMCell
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import session_pb2
from cellserve_server.keys import SessionKey
from cellserve_server.stores.memory import MemoryStore
from tests.clocks import ManualClock
from tests.identities import TokenBook
from tests.integration.durable.replicas import FaultyStore
from tests.integration.edges import DEPTH, ROWS, UNITS, create_session, floats, lstm_state, step_request
from tests.integration.stream_client import StreamClient
from tests.servers import (
    RPC_TIMEOUT_S,
    TEST_CONFIG,
    LoopThread,
    RunningApp,
    Stubs,
    define_model,
    error_of_call,
    running_app,
)
from tests.tenants import stubs_of

TENANTS = ("a", "b")
NAMES = st.sampled_from(["x", "y", "z", "w"])
WHO = st.sampled_from(TENANTS)
TTL_S = 50
# What the rules may meet.
FINE = {"OK", "NOT_FOUND", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"}


class Machine(RuleBasedStateMachine):
    """Rules do things to sessions of two tenants; after each it is counted anew what these have."""

    server: RunningApp
    clock: ManualClock
    stubs: dict[str, Stubs]
    models: dict[str, str]

    def call(self, tenant: str, method: str, request: object) -> None:
        outcome = "OK"
        try:
            getattr(self.stubs[tenant].recurrent, method)(request, timeout=RPC_TIMEOUT_S)
        except grpc.RpcError as error:
            outcome = error.code().name
        assert outcome in FINE

    @rule(tenant=WHO, name=NAMES, batch_size=st.sampled_from([0, ROWS]))
    def create(self, tenant: str, name: str, batch_size: int) -> None:
        session = session_pb2.Session(model=self.models[tenant], batch_size=batch_size, ttl=Duration(seconds=TTL_S))
        self.call(tenant, "CreateSession", messages.CreateSessionRequest(session_id=name, session=session))

    @rule(tenant=WHO, name=NAMES, other=NAMES)
    def fork(self, tenant: str, name: str, other: str) -> None:
        self.call(tenant, "ForkSession", messages.ForkSessionRequest(name=f"sessions/{name}", session_id=other))

    @rule(tenant=WHO, name=NAMES)
    def step(self, tenant: str, name: str) -> None:
        for inputs in ([floats(DEPTH)], [floats(ROWS, DEPTH)]):
            self.call(tenant, "Step", step_request(f"sessions/{name}", inputs=inputs))

    @rule(tenant=WHO, name=NAMES)
    def set_state(self, tenant: str, name: str) -> None:
        request = messages.SetSessionStateRequest(name=f"sessions/{name}", state=lstm_state(ROWS))
        self.call(tenant, "SetSessionState", request)

    @rule(tenant=WHO, name=NAMES)
    def reset(self, tenant: str, name: str) -> None:
        self.call(tenant, "ResetSession", messages.ResetSessionRequest(name=f"sessions/{name}"))

    @rule(tenant=WHO, name=NAMES)
    def delete(self, tenant: str, name: str) -> None:
        self.call(tenant, "DeleteSession", messages.DeleteSessionRequest(name=f"sessions/{name}"))

    @rule(seconds=st.sampled_from([1, TTL_S // 2, TTL_S + 1]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.server.loop.call(self.server.app.residents.expire_now)

    @invariant()
    def counts_are_what_there_is(self) -> None:
        self.server.loop.call(lambda: require_counted(self.server))

    def teardown(self) -> None:
        self.clock.advance(2 * TTL_S)
        self.server.loop.call(self.server.app.residents.expire_now)
        for tenant in TENANTS:
            for name in ("x", "y", "z", "w"):
                self.call(tenant, "DeleteSession", messages.DeleteSessionRequest(name=f"sessions/{name}"))
        sessions = self.server.app.operations.sessions
        held = sessions.held
        assert self.server.loop.call(lambda: (held.sessions, held.state_bytes, held.rows)) == (0, 0, 0)
        assert not sessions.held_by


def require_counted(server: RunningApp) -> None:
    """What is counted is what there is."""
    table = server.app.operations.sessions
    found = {tenant: [0, 0, 0] for tenant in {session.key.tenant for session in table}}
    for session in table:
        counts = found[session.key.tenant]
        counts[0] += 1
        counts[1] += session.state_bytes
        counts[2] += session.rows
    held = {tenant: [held.sessions, held.state_bytes, held.rows] for tenant, held in table.held_by.items()}
    assert held == found
    of_all = [table.held.sessions, table.held.state_bytes, table.held.rows]
    assert of_all == [sum(counts[place] for counts in found.values()) for place in range(3)]
    assert not server.app.engine.queue._tenants


@pytest.fixture(params=["memory", "store"])
def scene(request: pytest.FixtureRequest, loop_thread: LoopThread, tmp_path: Path) -> Iterator[type[Machine]]:
    clock = ManualClock()
    book = TokenBook.at(tmp_path / "tokens")
    tokens = {tenant: book.issue(tenant) for tenant in TENANTS}
    quotas = tmp_path / "quotas.toml"
    quotas.write_text("[tenants.a]\nmax_sessions = 2\nmax_state_rows = 3\n", encoding="utf-8")
    config = replace(book.config(), quotas_file=str(quotas), max_sessions=6)
    store = FaultyStore(MemoryStore(clock)) if request.param == "store" else None
    with ExitStack() as exit_:
        server = exit_.enter_context(running_app(loop_thread, config, clock, store))
        Machine.server, Machine.clock = server, clock
        Machine.stubs = {
            tenant: exit_.enter_context(stubs_of(server.address, token)) for tenant, token in tokens.items()
        }
        Machine.models = {
            tenant: define_model(stubs, BasicLSTMCell(UNITS), DEPTH).name for tenant, stubs in Machine.stubs.items()
        }
        yield Machine


@pytest.mark.parametrize("examples", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_no_count_is_ever_off(scene: type[Machine], examples: int) -> None:
    run_state_machine_as_test(
        scene,
        settings=settings(max_examples=examples, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )


def test_all_that_a_tenant_has_in_a_store_is_limited(loop_thread: LoopThread) -> None:
    clock = ManualClock()
    config = replace(TEST_CONFIG, max_stored_sessions=3, max_sessions=2)
    with running_app(loop_thread, config, clock, FaultyStore(MemoryStore(clock))) as server:
        model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
        for number in range(3):
            create_session(server, f"s{number}", model)
        error = error_of_call(lambda: create_session(server, "more", model))
        assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        assert (error.metadata["quota"], error.metadata["limit"]) == ("max_stored_sessions", "3")
        server.stubs.recurrent.DeleteSession(messages.DeleteSessionRequest(name="sessions/s0"))
        clock.advance(error.retry_after_s or 0.0)
        create_session(server, "more", model)
        with StreamClient(server.stubs) as stream:
            opened = stream.open(["s1", "new", "newer"], model=model)
        assert [error.position for error in opened.errors] == [1, 2]


def test_a_session_of_a_full_tenant_sends_its_own_idlest_away(loop_thread: LoopThread, tmp_path: Path) -> None:
    """With a store, memory is what is limited: the tenant's own sessions make room, and nobody else's."""
    clock = ManualClock()
    book = TokenBook.at(tmp_path / "tokens")
    token = book.issue("a")
    other = book.issue("b")
    quotas = tmp_path / "quotas.toml"
    quotas.write_text("[tenants.a]\nmax_sessions = 2\n", encoding="utf-8")
    config = replace(book.config(), quotas_file=str(quotas))
    with ExitStack() as exit_:
        server = exit_.enter_context(running_app(loop_thread, config, clock, FaultyStore(MemoryStore(clock))))
        for tenant, owner in (("b", other), ("a", token)):
            stubs = exit_.enter_context(stubs_of(server.address, owner))
            model = define_model(stubs, BasicLSTMCell(UNITS), DEPTH).name
            for number in range(5):
                clock.advance(1)
                session = session_pb2.Session(model=model)
                stubs.recurrent.CreateSession(messages.CreateSessionRequest(session_id=f"s{number}", session=session))
            assert server.app.operations.sessions.count_of(tenant) == (5 if tenant == "b" else 2)
        resident = server.app.operations.sessions.resident
        assert [
            number
            for number in range(5)
            if server.loop.call(lambda: resident(SessionKey("a", f"s{number}")))  # noqa: B023
        ] == [3, 4]
        assert server.app.operations.sessions.count_of("b") == 5
