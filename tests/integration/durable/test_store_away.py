"""A replica whose store does not answer says so in its health, and says when it does again."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellserve.errors import StoreUnavailableError
from tests.integration.durable.replicas import FaultyStore, Replicas, step, step_error
from tests.servers import RPC_TIMEOUT_S

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def test_health_tells_whether_the_store_answers(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    server = replicas.start(store=store)
    replicas.create(server)
    health: Any = health_pb2_grpc.HealthStub(server.stubs.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=RPC_TIMEOUT_S)
    assert next(watch).status == SERVING
    store.failing.update({"write", "look"})
    assert isinstance(step_error(server, 0), StoreUnavailableError)
    assert next(watch).status == NOT_SERVING
    store.failing.clear()
    assert next(watch).status == SERVING
    assert step(server, 0).step_count == 1
    # One operation that fails is not the store.
    store.failing.add("write")
    looks = store.calls["look"]
    assert isinstance(step_error(server, 1), StoreUnavailableError)
    server.wait_until(lambda: store.calls["look"] > looks)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=RPC_TIMEOUT_S).status == SERVING
