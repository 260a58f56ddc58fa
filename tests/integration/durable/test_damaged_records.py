"""Records in which something has happened to the bytes: told as DATA_LOSS, and never taken for what was written."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
import pytest

from cellserve.errors import CellServeError, RecordCorruptError, from_rpc_error
from cellserve.states import LSTMStateTuple, state_from_proto
from cellserve.tensors import Array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import session_pb2
from cellserve_server.keys import SessionKey
from cellserve_server.stores.base import Rewrite, Store, Stored
from tests.clocks import START_S
from tests.fuzz.damage import damaged
from tests.integration.durable.replicas import Replicas, step, step_error
from tests.servers import RPC_TIMEOUT_S, RunningApp

SESSIONS = 40
TENANT = "default"


def state_of(server: RunningApp, name: str) -> list[Array]:
    request = messages.GetSessionRequest(name=f"sessions/{name}", view=session_pb2.SESSION_VIEW_FULL)
    answer = server.stubs.recurrent.GetSession(request, timeout=RPC_TIMEOUT_S)
    return state_from_proto(LSTMStateTuple(3, 3), answer.session.state)


def state_or_error(server: RunningApp, name: str) -> list[Array] | CellServeError:
    try:
        return state_of(server, name)
    except grpc.RpcError as error:
        return from_rpc_error(error)


async def _with_store(open_store: Callable[[], Store], change: Callable[[Store], Awaitable[None]]) -> None:
    store = open_store()
    await store.open()
    await change(store)
    await store.close()


def _harmed(stored: Stored, choices: random.Random) -> Rewrite:
    """The record with damage to one of its parts, which may be the one that nobody needs."""
    meta, states = stored.meta, list(stored.states)
    part = choices.choice(["meta", 0, 1])
    if part == "meta":
        meta = damaged(meta, choices)
    else:
        assert isinstance(part, int)
        states[part] = damaged(states[part], choices)
    return Rewrite(stored.ref, stored.epoch, meta, (states[0], states[1]), stored.expire_time)


def test_random_damage_is_told_or_does_no_harm(replicas: Replicas) -> None:
    first = replicas.start()
    names = [f"s{number}" for number in range(SESSIONS)]
    states = {}
    for number, name in enumerate(names):
        replicas.create(first, name)
        for count in range(1 + number % 3):
            step(first, count, name)
        states[name] = state_of(first, name)
    first.loop.run(first.app.drain())
    first.loop.run(first.app.stop())
    choices = random.Random(5)

    async def damage(store: Store) -> None:
        keys = [SessionKey(TENANT, name) for name in names]
        found = await store.look(keys)
        claimed = await store.claim([(key, each.epoch) for key, each in zip(keys, found, strict=True) if each], "")
        changes = [_harmed(stored, choices) for stored in claimed if stored is not None]
        assert await store.rewrite(changes) == [True] * SESSIONS

    second = replicas.start()
    second.loop.run(_with_store(replicas.open_store, damage))
    lost = 0
    for number, name in enumerate(names):
        got = state_or_error(second, name)
        if isinstance(got, CellServeError):
            assert isinstance(got, RecordCorruptError), got
            lost += 1
            continue
        for left, right in zip(got, states[name], strict=True):
            np.testing.assert_array_equal(left, right)
        assert step(second, 1 + number % 3, name).step_count == 2 + number % 3
    assert 0 < lost <= SESSIONS


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_model_is_told(replicas: Replicas, seed: int) -> None:
    first = replicas.start()
    replicas.create(first)
    step(first, 0)
    first.loop.run(first.app.drain())
    first.loop.run(first.app.stop())
    name = replicas.model.split("/")[1]

    async def damage(store: Store) -> None:
        content = await store.get_model(TENANT, name)
        assert content is not None
        place = len(content) - 1 - seed  # In the seed, or in the spec.
        await store.put_model(
            TENANT, name, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :], START_S + 1e9
        )

    second = replicas.start()
    second.loop.run(_with_store(replicas.open_store, damage))
    assert isinstance(step_error(second, 1), RecordCorruptError)
