"""Replicas that lose sessions without being asked, or while they bring them: none speaks of what it does not have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cellserve.errors import SessionMovedError, StateRolledBackError, StepOutOfOrderError, StoreUnavailableError
from cellserve.tensors import tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_server.config import ServerConfig
from tests.integration.durable.replicas import (
    ASYNC,
    SYNC,
    FaultyStore,
    Replicas,
    inputs_of,
    step,
    step_error,
    take_unasked,
)
from tests.integration.durable.slow_stores import SlowStore
from tests.servers import RPC_TIMEOUT_S, RunningApp, error_of_call


def read(server: RunningApp) -> int:
    request = messages.GetSessionRequest(name="sessions/s")
    answer: messages.GetSessionResponse = server.stubs.recurrent.GetSession(request, timeout=RPC_TIMEOUT_S)
    return answer.session.step_count


@pytest.mark.parametrize("expected_step", [0, 2, 3])
def test_an_old_copy_refuses_no_step_for_its_number(replicas: Replicas, expected_step: int) -> None:
    first, second = replicas.start(), replicas.start()
    replicas.create(first)
    step(first, 0)
    take_unasked(second, first, 1)
    error = step_error(first, expected_step, run_id=77)
    assert isinstance(error, SessionMovedError)
    assert error.metadata["owner"] == second.address
    assert isinstance(step_error(second, 7), StepOutOfOrderError)
    assert step(second, 2).step_count == 3


def test_an_old_copy_is_not_read(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    replicas.create(first)
    step(first, 0)
    take_unasked(second, first, 1)
    assert isinstance(error_of_call(lambda: read(first)), SessionMovedError)
    replicas.clock.advance(1)
    assert read(first) == 2


def test_an_old_copy_does_not_deny_a_life_that_began_elsewhere(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    replicas.create(first)
    take_unasked(second, first, 0)
    reset = messages.ResetSessionRequest(name="sessions/s")
    uid = second.stubs.recurrent.ResetSession(reset, timeout=RPC_TIMEOUT_S).session.uid
    assert isinstance(step_error(first, 0, uid=uid), SessionMovedError)
    replicas.clock.advance(1)
    assert step(first, 0, uid=uid).step_count == 1


def test_an_old_copy_does_not_deny_a_life_to_a_request_that_may_have_begun_it(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    replicas.create(first)
    take_unasked(second, first, 0)
    reset = messages.ResetSessionRequest(name="sessions/s", request_id="one")
    uid = second.stubs.recurrent.ResetSession(reset, timeout=RPC_TIMEOUT_S).session.uid
    reset = messages.ResetSessionRequest(name="sessions/s", uid=uid, request_id="two")
    error = error_of_call(lambda: first.stubs.recurrent.ResetSession(reset, timeout=RPC_TIMEOUT_S))
    assert isinstance(error, SessionMovedError)


def test_an_old_copy_does_not_keep_an_id_taken(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    replicas.create(first)
    take_unasked(second, first, 0)
    delete = messages.DeleteSessionRequest(name="sessions/s")
    second.stubs.recurrent.DeleteSession(delete, timeout=RPC_TIMEOUT_S)
    assert replicas.create(first).step_count == 0
    assert step(first, 0).step_count == 1


def test_a_replica_without_its_store_does_not_speak_of_a_step_count(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    server = replicas.start(store=store)
    replicas.create(server)
    step(server, 0)
    store.failing.add("look")
    assert isinstance(step_error(server, 5), StoreUnavailableError)
    assert isinstance(error_of_call(lambda: read(server)), StoreUnavailableError)
    store.failing.clear()
    assert isinstance(step_error(server, 5), StepOutOfOrderError)
    assert step(server, 1).step_count == 2


@pytest.mark.parametrize("config", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_replica_that_is_asked_for_what_it_is_bringing_lets_it_go_before_it_is_used(
    replicas: Replicas, config: ServerConfig
) -> None:
    first = replicas.start(config)
    replicas.create(first)
    store = first.loop.call(lambda: SlowStore(replicas.open_store(), "claim", answers_late=True, waits=True))
    second, third = replicas.start(config, store), replicas.start(config)
    bringing = second.stubs.recurrent.Step.future(_request(0), timeout=RPC_TIMEOUT_S)
    second.loop.run(store.reached.wait())
    # It has claimed the session, and does not know it yet.
    assert step(third, 0).step_count == 1
    second.loop.call(store.goes_on.set)
    error = error_of_call(bringing.result)
    assert isinstance(error, SessionMovedError)
    assert error.metadata["owner"] == third.address
    assert isinstance(step_error(second, 1), SessionMovedError)
    assert step(third, 1).step_count == 2


def test_why_a_step_was_not_written_is_told(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    server = replicas.start(store=store)
    replicas.create(server)
    store.failing.add("write")
    assert "the test has it fail" in step_error(server, 0).message


def test_a_replica_that_could_not_write_for_a_moment_is_asked_again(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    first, second = replicas.start(ASYNC, store), replicas.start(ASYNC)
    for name in ("s", "t"):
        replicas.create(first, name)
        step(first, 0, name)
    store.failing.add("write")
    # It is there, and has steps that the store has not.
    assert isinstance(step_error(second, 1), StoreUnavailableError)
    store.failing.clear()
    for name in ("s", "t"):
        assert step(second, 1, name).step_count == 2


def test_a_replica_that_has_given_up_writing_lets_go_of_what_it_has(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    first, second = replicas.start(replace(ASYNC, flush_interval_ms=10), store), replicas.start(ASYNC)
    replicas.create(first)
    store.failing.add("write")
    step(first, 0)
    replicas.clock.advance(1)
    first.wait_until(lambda: first.app.engine.store_refusal is not None)
    # As after a crash: what was not written is lost, and told.
    assert isinstance(step_error(second, 1), StateRolledBackError)
    assert step(second, 0).step_count == 1


def test_a_replica_that_is_slow_to_let_one_session_go_is_asked_for_the_others(replicas: Replicas) -> None:
    first = replicas.start()
    store = first.loop.call(lambda: SlowStore(replicas.open_store(), "write"))
    first, second = replicas.start(SYNC, store), replicas.start(replace(SYNC, takeover_timeout_ms=100))
    for name in ("s", "t"):
        replicas.create(first, name)
    first.loop.call(store.goes_on.clear)
    busy = first.stubs.recurrent.Step.future(_request(0), timeout=RPC_TIMEOUT_S)
    first.loop.run(store.reached.wait())
    assert step(second, 0, run_id=3).step_count == 1
    step(second, 0, "t")
    assert _claimed(second, "fenced") == 1
    assert _claimed(second, "released") == 1
    first.loop.call(store.goes_on.set)
    assert isinstance(error_of_call(busy.result), SessionMovedError)


def test_a_loss_is_told_by_whichever_replica_has_the_session_by_then(replicas: Replicas) -> None:
    first, second, third = (replicas.start(ASYNC) for _ in range(3))
    replicas.create(first)
    for number in range(3):
        step(first, number)
    first.loop.run(first.app.stop())
    assert read(second) == 0
    error = step_error(third, 3)
    assert isinstance(error, StateRolledBackError)
    assert error.step_count == 0


def test_a_replica_that_asks_is_there(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    replicas.create(second)
    second.loop.call(lambda: second.app.keeping._peers._silent_until.update({first.address: float("inf")}))
    step(first, 0)
    replicas.clock.advance(1)
    step(second, 1)
    assert _claimed(second, "released") == 1


def _claimed(server: RunningApp, how: str) -> float:
    labels = {"how": how}
    return server.app.metrics.registry.get_sample_value("cellserve_sessions_claimed_total", labels) or 0.0


def _request(number: int) -> messages.StepRequest:
    return messages.StepRequest(name="sessions/s", inputs=[tensor_from_array(inputs_of(number))], run_id=number + 100)
