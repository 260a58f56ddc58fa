"""Both clients with several replicas: sessions move, are followed, fail over and come back; callers see a pause."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from cellserve.buckets import bucket_of
from cellserve.errors import (
    DeadlineExceededError,
    DrainingError,
    FailedPreconditionError,
    FieldInvalidError,
    GroupStepError,
    SessionMovedError,
    SessionNotFoundError,
    StateRolledBackError,
    StepOutOfOrderError,
    StoreUnavailableError,
    UnavailableError,
)
from cellserve.v1 import session_pb2
from cellserve_client import RetryPolicy, Server, rnn
from tests.clients import Kind, client
from tests.integration.client.fleet.fake_replicas import LOST, FakeFleet, FakeReplica, fake_fleet
from tests.integration.client.helpers import ONCE, WAIT_S
from tests.servers import LoopThread

FRAME = np.array([0.25, 0.5], np.float32)
AT_ONCE = RetryPolicy(first_delay_s=0.001, max_delay_s=0.01)
Connect = Callable[..., Server]
# So many sessions that each of three replicas surely has some, whatever their ports are.
MANY = 48


@pytest.fixture
def fleet(loop_thread: LoopThread) -> Iterator[FakeFleet]:
    """Three replicas on one store."""
    with fake_fleet(loop_thread, 3) as made:
        yield made


@pytest.fixture(params=[pytest.param(True, id="stream"), pytest.param(False, id="requests", marks=pytest.mark.slow)])
def connected(
    request: pytest.FixtureRequest, client_kind: Kind, loop_thread: LoopThread, fleet: FakeFleet
) -> Iterator[Connect]:
    """Connects either client to the fleet; steps go over streams, or are requests of their own."""

    def connect(address: str | None = None, retry: RetryPolicy | None = AT_ONCE, **options: Any) -> Server:
        coalesce = request.param
        return stack.enter_context(
            client(client_kind, loop_thread, address or fleet.address, retry=retry, coalesce=coalesce, **options)
        )

    with ExitStack() as stack:
        yield connect


@pytest.fixture
def remote(connected: Connect) -> Server:
    """Connected to all replicas."""
    return connected()


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that are down are asked again soon."""
    monkeypatch.setattr("cellserve_client.fleet.replica.FIRST_PROBE_S", 0.005)
    monkeypatch.setattr("cellserve_client.fleet.replica.LONGEST_PROBE_S", 0.01)


def step(session: Any, count: int) -> None:
    """Steps a session that is to be at this count then."""
    np.testing.assert_array_equal(session.step(FRAME), FRAME + count)
    assert session.step_count == count


def moved(owner: FakeReplica | None) -> SessionMovedError:
    return SessionMovedError("moved", metadata={"session": "s", "owner": owner.address if owner else ""})


# --- where sessions go -----------------------------------------------------------------------------------------------


def test_each_session_has_one_replica_the_same_for_every_client(connected: Connect, fleet: FakeFleet) -> None:
    remote, other = connected(), connected(",".join(reversed(fleet.address.split(","))))
    for number in range(MANY):
        session = remote.session("adder", session_id=f"s{number}")
        step(session, 1)
        again = other.open_session(session.id)
        step(again, 2)
        fleet.holder(session.id)  # One only.
        asked = [one for one in fleet.replicas if any(name == f"sessions/s{number}" for _, name, _ in one.seen)]
        assert len(asked) == 1
    assert all(replica.stepped for replica in fleet.replicas)


def test_every_request_on_a_session_carries_its_bucket(remote: Server, fleet: FakeFleet) -> None:
    with remote.session("adder", session_id="speaker") as session:
        step(session, 1)
        session.refresh()
    seen = [
        (method, value)
        for replica in fleet.replicas
        for method, name, value in replica.seen
        if name.endswith("speaker")
    ]
    methods = {method for method, value in seen if value == str(bucket_of("speaker"))}
    assert methods - {"Step"} == {"CreateSession", "GetSession", "DeleteSession"}
    assert {value for method, value in seen if method not in methods} <= {""}
    assert {value for replica in fleet.replicas for method, _, value in replica.seen if method == "GetModel"} == {""}


def test_lists_are_asked_of_one_replica(remote: Server, fleet: FakeFleet) -> None:
    for number in range(4):
        remote.session("adder", session_id=f"s{number}")
    assert [info.id for info in remote.sessions()] == ["s0", "s1", "s2", "s3"]
    assert sum(method == "ListSessions" for replica in fleet.replicas for method, _, _ in replica.seen) == 1


# --- moves that a server tells ---------------------------------------------------------------------------------------


def test_a_session_that_moved_is_followed_and_stays_there(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    step(session, 1)
    here = fleet.holder(session.id)
    owner = fleet.others(here)[0]
    here.plan(f"sessions/{session.id}", moved(owner))
    here.plan("GetSession", moved(owner))
    fleet.forget()
    step(session, 2)
    step(session, 3)
    session.refresh()
    assert (here.stepped.total(), owner.stepped.total()) == (1, 2)


@pytest.mark.parametrize("owner", ["", "10.9.9.9:50051"])
def test_an_owner_that_is_not_known_is_found_by_the_usual_way(remote: Server, fleet: FakeFleet, owner: str) -> None:
    session = remote.session("adder")
    step(session, 1)
    here = fleet.holder(session.id)
    here.plan(f"sessions/{session.id}", *[SessionMovedError("moved", metadata={"owner": owner})] * 12)
    step(session, 2)  # More often than a request is repeated otherwise.


def test_two_replicas_that_pull_at_a_session_are_followed_with_pauses(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    step(session, 1)
    here = fleet.holder(session.id)
    other = fleet.others(here)[0]
    here.plan(f"sessions/{session.id}", *[moved(other)] * 6)
    other.plan(f"sessions/{session.id}", *[moved(here)] * 6)
    step(session, 2)


def test_the_last_steps_were_lost_in_a_crash(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    for count in (1, 2, 3):
        step(session, count)
    fleet.store.sessions[f"sessions/{session.id}"].step_count = 1
    error = StateRolledBackError("lost", metadata={"session": "s", "expected_step": "3", "step_count": "1"})
    fleet.holder(session.id).plan(f"sessions/{session.id}", error)
    with pytest.raises(StateRolledBackError) as caught:
        session.step(FRAME)
    assert (caught.value.expected_step, caught.value.step_count) == (3, 1)
    assert session.step_count == 1
    step(session, 2)


def test_a_count_that_went_back_is_told_when_a_lost_step_is_settled(connected: Connect, fleet: FakeFleet) -> None:
    session: Any = connected(None, ONCE).session("adder")
    step(session, 1)
    step(session, 2)
    fleet.holder(session.id).plan(f"sessions/{session.id}", UnavailableError("cut"))
    with pytest.raises(UnavailableError):
        session.step(FRAME)
    fleet.store.sessions[f"sessions/{session.id}"].step_count = 1
    with pytest.raises(StateRolledBackError) as caught:
        session.step(FRAME)
    assert (caught.value.expected_step, caught.value.step_count) == (2, 1)
    step(session, 2)


# --- replicas that are away ------------------------------------------------------------------------------------------


def test_the_session_of_a_dead_replica_goes_on_at_the_next(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    step(session, 1)
    here = fleet.holder(session.id)
    fleet.run(here.stop())
    fleet.forget()
    step(session, 2)
    step(session, 3)
    assert fleet.holder(session.id) is not here
    assert {info.id for info in remote.sessions()} == {session.id}


@pytest.mark.usefixtures("quick_probes")
def test_it_comes_back_when_the_replica_is_up_again(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    step(session, 1)
    here = fleet.holder(session.id)
    fleet.run(here.stop())
    step(session, 2)
    fleet.run(here.start())
    fleet.forget()
    count = 2
    while not here.stepped:
        count += 1
        step(session, count)
    fleet.forget()
    step(session, count + 1)
    assert fleet.holder(session.id) is here


def test_a_step_whose_answer_is_lost_is_told_as_a_repeat_by_the_next_replica(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    step(session, 1)
    here = fleet.holder(session.id)
    here.plan(f"sessions/{session.id}", LOST)
    fleet.forget()
    step(session, 2)
    assert fleet.store.applied[f"sessions/{session.id}"] == 2
    assert sum(replica.stepped.total() for replica in fleet.replicas) == 2
    step(session, 3)


def test_a_draining_replica_is_left_at_once(connected: Connect, fleet: FakeFleet) -> None:
    # Without the fleet the pause would be at least the half second that the server asks for.
    remote = connected(None, RetryPolicy(first_delay_s=30.0, max_delay_s=30.0))
    sessions = [remote.session("adder", session_id=f"s{number}") for number in range(6)]
    for session in sessions:
        step(session, 1)
    leaving = fleet.holder("s0")
    fleet.run(leaving.drain())
    for count in (2, 3):
        for session in sessions:
            step(session, count)
    assert all(stored.step_count == 3 for stored in fleet.store.sessions.values())


@pytest.mark.usefixtures("quick_probes")
def test_a_rolling_restart_under_load_is_no_error_for_anybody(remote: Server, fleet: FakeFleet) -> None:
    sessions: list[Any] = []
    while len(sessions) < 6 or not all(replica.seen_sessions for replica in fleet.replicas):
        sessions.append(remote.session("adder", session_id=f"s{len(sessions)}"))
    done, counts, errors = threading.Event(), [0] * len(sessions), []

    def go_on(number: int) -> None:
        try:
            while not done.is_set():
                step(sessions[number], counts[number] + 1)
                counts[number] += 1
        except Exception as error:  # Any is one too many.
            errors.append(error)

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(len(sessions))]
    for thread in threads:
        thread.start()
    for replica in fleet.replicas:
        fleet.run(replica.drain())
        fleet.run(replica.stop())
        replica.come_back()
        replica.was_stepped.clear()
        fleet.run(replica.start())
        # Its own sessions come back to it.
        assert replica.was_stepped.wait(WAIT_S) or errors
    done.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert not errors
    assert [fleet.store.applied[f"sessions/s{number}"] for number in range(len(sessions))] == counts


@pytest.mark.usefixtures("quick_probes")
def test_when_all_are_away_the_first_that_is_back_is_asked(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    step(session, 1)
    for replica in fleet.replicas:
        fleet.run(replica.stop())
    waiting = threading.Thread(target=lambda: step(session, 2))
    waiting.start()
    fleet.run(fleet.replicas[1].start())
    waiting.join(WAIT_S)
    assert session.step_count == 2


def test_without_retries_the_next_call_goes_elsewhere(connected: Connect, fleet: FakeFleet) -> None:
    session: Any = connected(None, ONCE).session("adder")
    step(session, 1)
    fleet.holder(session.id).plan(f"sessions/{session.id}", UnavailableError("cut"))
    fleet.forget()
    with pytest.raises(UnavailableError):
        session.step(FRAME)
    step(session, 2)
    assert sorted(replica.stepped.total() for replica in fleet.replicas) == [0, 1, 1]


def test_a_replica_without_its_store_is_left_after_some_answers(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    step(session, 1)
    here = fleet.holder(session.id)
    here.plan(f"sessions/{session.id}", *[StoreUnavailableError("no store", retry_after_s=0.001)] * 9)
    fleet.forget()
    step(session, 2)
    assert here.stepped.total() == 3


def test_a_step_that_is_given_up_while_a_stream_is_begun_holds_no_later_one_up(
    connected: Connect, fleet: FakeFleet
) -> None:
    replica = fleet.replicas[0]
    session: Any = connected(replica.address).session("adder")
    step(session, 1)
    fleet.run(replica.stop())
    with (
        socket.create_server(("127.0.0.1", replica.port)),  # It takes connections and says nothing.
        pytest.raises((DeadlineExceededError, UnavailableError)),
    ):
        session.step(FRAME, timeout_s=0.15)
    fleet.run(replica.start())
    step(session, 2)


def test_nobody_anywhere_is_told_soon(connected: Connect, fleet: FakeFleet) -> None:
    fleet.close()
    remote = connected(None, None)
    with pytest.raises(UnavailableError, match=r"no server answers at 127\.0\.0\.1"):
        remote.sessions()


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_that_the_client_defined_is_made_where_it_is_not_known(remote: Server, fleet: FakeFleet) -> None:
    for replica in fleet.replicas:
        replica.knows_model = False
    cell = remote.cell(rnn.BasicRNNCell(1), input_size=2)
    assert sum(replica.defined for replica in fleet.replicas) == 1
    for number in range(MANY):
        step(cell.session(session_id=f"s{number}"), 1)
    with remote.session_group(cell, MANY) as group:
        group.step(np.zeros((MANY, 2), np.float32))
    assert [replica.defined for replica in fleet.replicas] == [1, 1, 1]


def test_sessions_in_memory_are_refused_unless_pinned(connected: Connect, fleet: FakeFleet) -> None:
    remote = connected()
    for durability in (session_pb2.DURABILITY_MEMORY, session_pb2.DURABILITY_UNSPECIFIED):
        for replica in fleet.replicas:
            replica.model.limits.durability = durability
        with pytest.raises(FailedPreconditionError, match="shared store, or connect"):
            remote.session("adder")
        with pytest.raises(FailedPreconditionError, match="pinned=True"):
            remote.session_group("adder", 3)
    with connected(fleet.replicas[0].address).session("adder") as alone:
        step(alone, 1)
    pinned = connected(pinned=True)
    session = pinned.session("adder")
    step(session, 1)
    home = fleet.holder(session.id)
    fleet.run(home.stop())
    fleet.forget()
    with pytest.raises((UnavailableError, DeadlineExceededError)):
        session.step(FRAME, timeout_s=0.1)
    assert not any(replica.stepped for replica in fleet.replicas)
    fleet.run(home.start())
    session.refresh()
    step(session, 2)
    assert fleet.holder(session.id) is home


def test_a_session_that_is_gone_after_a_failover_is_gone(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    step(session, 1)
    fleet.run(fleet.holder(session.id).stop())
    fleet.store.sessions.clear()
    with pytest.raises(SessionNotFoundError):
        session.step(FRAME)


# --- behind a proxy --------------------------------------------------------------------------------------------------


def test_behind_a_proxy_streams_and_requests_carry_the_same_value(connected: Connect, fleet: FakeFleet) -> None:
    proxy = fleet.replicas[0]
    remote = connected(proxy.address, proxied=True)
    for number in range(16):
        step(remote.session("adder", session_id=f"s{number}"), 1)
    streams = {value for method, _, value in proxy.seen if method == "StreamSteps"}
    sent = {(name, value) for method, name, value in proxy.seen if method in ("CreateSession", "Step")}
    assert sent == {(f"sessions/s{number}", str(bucket_of(f"s{number}") % 4)) for number in range(16)}
    assert streams in ({"0", "1", "2", "3"}, set())
    with remote.session_group("adder", 16) as group:
        group.step(np.zeros((16, 2), np.float32))
    with pytest.raises(FieldInvalidError, match="proxied: expected one address"):
        connected(proxied=True)


def test_a_session_that_moved_behind_a_proxy_is_asked_for_again(connected: Connect, fleet: FakeFleet) -> None:
    proxy = fleet.replicas[0]
    session: Any = connected(proxy.address, proxied=True).session("adder")
    step(session, 1)
    proxy.plan(f"sessions/{session.id}", *[moved(fleet.replicas[1])] * 3)
    step(session, 2)
    assert not fleet.replicas[1].seen


# --- groups ----------------------------------------------------------------------------------------------------------

COUNT = MANY


@pytest.fixture
def group(remote: Server) -> Any:
    """Of members at every replica, stepped once."""
    made = remote.session_group("adder", COUNT)
    step_group(made, 1)
    return made


def step_group(group: Any, count: int) -> None:
    inputs = np.arange(2 * COUNT, dtype=np.float32).reshape(COUNT, 2)
    np.testing.assert_array_equal(group.step(inputs), inputs + count)
    assert group.step_counts.tolist() == [count] * COUNT


def test_members_of_a_group_are_where_single_sessions_would_be(remote: Server, group: Any, fleet: FakeFleet) -> None:
    assert all(replica.stepped for replica in fleet.replicas)
    for id_ in group.ids:
        step(remote.open_session(id_), 2)
        fleet.holder(id_)
    assert sum(replica.stepped.total() for replica in fleet.replicas) == 2 * COUNT
    assert group.detach() == group.ids


def test_a_group_survives_a_dead_replica_and_a_draining_one(group: Any, fleet: FakeFleet) -> None:
    fleet.run(fleet.replicas[0].stop())
    step_group(group, 2)
    fleet.run(fleet.replicas[1].drain())
    fleet.forget()
    for count in (3, 4):
        step_group(group, count)
    assert fleet.replicas[2].stepped.total() == 2 * COUNT
    assert set(fleet.store.applied.values()) == {4}
    group.close()
    assert not fleet.store.sessions


def test_members_that_moved_are_followed(group: Any, fleet: FakeFleet) -> None:
    first, second = group.ids[:2]
    here = fleet.holder(first)
    owner = fleet.others(here)[0]
    here.plan(f"sessions/{first}", moved(owner))
    fleet.holder(second).plan(f"sessions/{second}", moved(None))
    fleet.forget()
    step_group(group, 2)
    fleet.forget()
    step_group(group, 3)
    assert fleet.holder(first) is owner
    group.close()
    assert not fleet.store.sessions


def test_answers_lost_to_a_group_are_told_as_repeats(group: Any, fleet: FakeFleet) -> None:
    fleet.replicas[0].plan("Step", None, None, LOST)
    step_group(group, 2)
    step_group(group, 3)
    assert set(fleet.store.applied.values()) == {3}


def test_members_that_were_rolled_back_go_on_from_where_they_are(group: Any, fleet: FakeFleet) -> None:
    step_group(group, 2)
    lost = group.ids[3]
    fleet.store.sessions[f"sessions/{lost}"].step_count = 1
    error = StateRolledBackError("lost", metadata={"session": lost, "expected_step": "2", "step_count": "1"})
    next(replica for replica in fleet.replicas if replica.stepped[f"sessions/{lost}"]).plan(f"sessions/{lost}", error)
    with pytest.raises(GroupStepError) as caught:
        group.step(np.zeros((COUNT, 2), np.float32))
    assert list(caught.value.errors) == [3]
    assert group.step_counts.tolist() == [1 if index == 3 else 3 for index in range(COUNT)]
    for count in (2, 3):
        group.step(np.zeros((1, 2), np.float32), members=[3])
        assert group.step_counts[3] == count
    step_group(group, 4)


def test_somebody_elses_step_is_still_a_conflict(remote: Server, fleet: FakeFleet) -> None:
    session = remote.session("adder")
    step(session, 1)
    step(remote.open_session(session.id), 2)
    fleet.holder(session.id).plan(f"sessions/{session.id}", DrainingError("stopping"))
    with pytest.raises(StepOutOfOrderError):
        session.step(FRAME)
