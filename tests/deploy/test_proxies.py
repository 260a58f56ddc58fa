"""Debian's nginx and HAProxy, with the configurations that ship, before replicas that are processes of their own."""

from __future__ import annotations

import collections
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from cellserve.buckets import BUCKETS
from cellserve.errors import SessionNotFoundError
from cellserve.tensors import array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import sequence_pb2
from deploy.fleet import PROXIES, Fleet, proxy_process
from deploy.fleet.ports import HOST, free_ports
from tests.deploy.buckets import WIDTH, Proxied, wait_until, with_bucket
from tests.integration.stream_client import StreamClient
from tests.programs import require_program
from tests.servers import RPC_TIMEOUT_S, Stubs, error_of_call, stubs_for
from tests.tools import ROOT

# Each test starts several programs; together they take a good part of a minute.
pytestmark = pytest.mark.slow

REPLICAS = 3
STREAM_MESSAGES = 1000
# 12 MB each way, of the 16 MiB that a server takes.
BIG_STEPS = 3000
# What a stream ends with whose replica has gone.
CUT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)
HAPROXY_FILE = ROOT / "deploy" / "haproxy.cfg"


@pytest.fixture(scope="module")
def replicas() -> Iterator[Fleet]:
    with Fleet(REPLICAS, store="memory:", proxy=None) as fleet:
        yield fleet


@pytest.fixture(scope="module", params=PROXIES)
def proxied(
    request: pytest.FixtureRequest, replicas: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxied]:
    require_program(request.param)
    (port,) = free_ports(1)
    process = proxy_process(request.param, port, replicas.addresses, tmp_path_factory.mktemp(request.param))
    process.start()
    try:
        with stubs_for(f"{HOST}:{port}") as stubs:
            yield Proxied(request.param, replicas, stubs, f"{HOST}:{port}")
    finally:
        process.stop()


def test_a_bucket_stays_with_one_replica_and_buckets_spread(proxied: Proxied) -> None:
    model = proxied.model()
    owners = proxied.owners(model)
    assert owners == proxied.owners(model)
    shares = collections.Counter(owners)
    assert len(shares) == REPLICAS
    assert min(shares.values()) >= BUCKETS // REPLICAS // 3, shares


def test_connections_agree_on_where_a_bucket_is(proxied: Proxied) -> None:
    model = proxied.model()
    with stubs_for(proxied.address) as stubs:
        again = Proxied(proxied.kind, proxied.fleet, stubs, proxied.address)
        assert [proxied.owner(bucket, model) for bucket in range(5)] == [
            again.owner(bucket, model) for bucket in range(5)
        ]


def test_a_stream_goes_through_for_many_messages(proxied: Proxied) -> None:
    model = proxied.model()
    inputs = np.zeros((2, WIDTH), np.float32)
    with StreamClient(with_bucket(proxied.stubs, 7)) as stream:
        assert len(stream.open([f"{proxied.kind}-1", f"{proxied.kind}-2"], model=model).uids) == 2
        for count in range(1, 4):  # One waits for the other: nothing is held back on the way.
            stream.steps([0, 1], inputs)
            assert set(stream.answers(2).counts.values()) == {count}
        for _ in range(STREAM_MESSAGES):
            stream.steps([0, 1], inputs)
        answers = stream.answers(2 * STREAM_MESSAGES)
        assert not answers.errors
        assert max(answers.counts.values()) == STREAM_MESSAGES + 3


def test_streams_of_different_buckets_are_at_different_replicas(proxied: Proxied) -> None:
    model = proxied.model()
    owners = proxied.owners(model)
    buckets = [owners.index(replica) for replica in range(REPLICAS)]
    with (
        StreamClient(with_bucket(proxied.stubs, buckets[0])) as one,
        StreamClient(with_bucket(proxied.stubs, buckets[1])) as other,
    ):
        # In memory, one name is two sessions at two replicas.
        for stream in (one, other):
            stream.open([f"{proxied.kind}-same"], model=model)
            stream.steps([0], np.zeros((1, WIDTH), np.float32))
            assert set(stream.answers(1).counts.values()) == {1}


def test_big_messages_pass_both_ways(proxied: Proxied) -> None:
    inputs = np.random.default_rng(0).normal(size=(1, BIG_STEPS, WIDTH)).astype(np.float32)
    request = messages.RunSequenceRequest(
        model=proxied.model(), inputs=sequence_pb2.Sequence(values=[tensor_from_array(inputs)])
    )
    answers = []
    for recurrent in (proxied.stubs.recurrent, with_bucket(proxied.stubs, 3).recurrent):
        answer = recurrent.RunSequence(request, timeout=RPC_TIMEOUT_S)
        (outputs,) = answer.outputs.values
        answers.append(array_from_tensor(outputs))
    assert answers[0].shape == inputs.shape
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_errors_arrive_with_their_details(proxied: Proxied) -> None:
    recurrent = with_bucket(proxied.stubs, 11).recurrent
    request = messages.GetSessionRequest(name="sessions/nowhere")
    error = error_of_call(lambda: recurrent.GetSession(request, timeout=RPC_TIMEOUT_S))
    assert isinstance(error, SessionNotFoundError)


def test_what_replicas_ask_of_each_other_is_refused(proxied: Proxied) -> None:
    release: Any = proxied.stubs.channel.unary_unary("/cellserve.v1.PeerService/ReleaseSessions")
    with pytest.raises(grpc.RpcError) as raised:
        release(b"", timeout=RPC_TIMEOUT_S)
    assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_dead_replicas_buckets_go_to_others_and_come_back(proxied: Proxied) -> None:
    model = proxied.model()
    before = proxied.owners(model)
    dead = before[0]
    elsewhere = before.index((dead + 1) % REPLICAS)
    with (
        StreamClient(with_bucket(proxied.stubs, 0)) as cut,
        StreamClient(with_bucket(proxied.stubs, elsewhere)) as kept,
    ):
        for stream in (cut, kept):
            stream.open(["streamed"], model=model)
        proxied.fleet.kill(dead)
        try:
            with pytest.raises(grpc.RpcError) as raised:
                next(cut.call)
            assert raised.value.code() in CUT
            # At once, and nobody is told of it: no call was sent to the dead one.
            after = proxied.owners(model)
            assert dead not in after
            assert all(now == then for now, then in zip(after, before, strict=True) if then != dead)
            kept.steps([0], np.zeros((1, WIDTH), np.float32))
            assert not kept.answers(1).errors
        finally:
            proxied.fleet.restart(dead)
    proxied.model()
    wait_until(lambda: proxied.owner(0, model) == dead, "its bucket's return")
    assert proxied.owners(model) == before


def test_haproxys_health_check_is_that_of_grpc(replicas: Fleet) -> None:
    """Its bytes are sent to a replica, without HAProxy: the answer has those that it waits for."""
    text = HAPROXY_FILE.read_text("utf-8")
    sent = [bytes.fromhex(digits) for digits in re.findall(r"send-binary (\S+)", text)]
    (expected,) = re.findall(r"expect binary (\S+)", text)
    message = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()
    assert bytes.fromhex(expected) == b"\0" + len(message).to_bytes(4, "big") + message
    assert b"/grpc.health.v1.Health/Check" in b"".join(sent)
    host, _, port = replicas.addresses[0].rpartition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=RPC_TIMEOUT_S) as connection:
        connection.sendall(b"".join(sent))
        while bytes.fromhex(expected) not in received:
            part = connection.recv(4096)
            assert part, received
            received += part


def test_haproxy_takes_out_a_replica_that_hangs(replicas: Fleet, tmp_path: Path) -> None:
    require_program("haproxy")
    (port,) = free_ports(1)
    process = proxy_process("haproxy", port, replicas.addresses[:2], tmp_path)
    process.start()
    replicas.pause(0)
    try:
        with stubs_for(f"{HOST}:{port}") as stubs:
            wait_until(lambda: all(answers(stubs, bucket) for bucket in range(8)), "an answer for every bucket")
    finally:
        replicas.resume(0)
        process.stop()


def answers(stubs: Stubs, bucket: int) -> bool:
    """Whether a call with this bucket is answered soon."""
    call = with_bucket(stubs, bucket).recurrent.ListSessions.future(messages.ListSessionsRequest(), timeout=0.3)
    return call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("kind", PROXIES)
def test_without_any_replica_it_is_unavailable(kind: str, tmp_path: Path) -> None:
    require_program(kind)
    port, nobody = free_ports(2)
    process = proxy_process(kind, port, [f"{HOST}:{nobody}"], tmp_path)
    process.start()
    try:
        with stubs_for(f"{HOST}:{port}") as stubs, pytest.raises(grpc.RpcError) as raised:
            stubs.recurrent.ListSessions(messages.ListSessionsRequest(), timeout=RPC_TIMEOUT_S)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        assert process.stop() is not None
