"""Calls of every method with garbage, in this process. For longer: ``make fuzz``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.in_process import Served
from tests.fuzz.messages import ByteChoices, Maker
from tests.fuzz.servicers import call_of
from tests.servers import RPC_TIMEOUT_S, RunningApp

CORPUS = Path(__file__).parent / "corpus" / "calls.jsonl"
SEEDED_CALLS = 1000


@pytest.fixture(scope="module", params=[False, True], ids=["in memory", "stored"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    server = Served(loop, tmp_path_factory.mktemp("models"), is_stored=request.param)
    yield server
    server.close()
    loop.close()


def test_every_method_of_a_server_is_a_target(served: Served, server: RunningApp) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.stubs.channel)
    ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    services = {
        service.name
        for answer in stub.ServerReflectionInfo(ask, timeout=RPC_TIMEOUT_S)
        for service in answer.list_services_response.service
    }
    # Replicas alone are to ask for it, and reflection does not speak of it.
    services.add("cellserve.v1.PeerService")
    assert {path.split("/")[1] for path in served.methods} == services
    for service in services:
        described = {f"/{service}/{method.name}" for method in Default().FindServiceByName(service).methods}
        assert described <= served.methods.keys()


@pytest.mark.parametrize("line", CORPUS.read_text().splitlines())
def test_what_was_found_once_is_not_found_again(served: Served, line: str) -> None:
    path, requests = call_of(line)
    served.call(served.methods[path], requests)


def test_calls_that_are_nearly_right(served: Served) -> None:
    maker, methods = Maker(random.Random(7)), list(served.methods.values())
    for _ in range(SEEDED_CALLS):
        call = maker.call(methods)
        served.call(served.methods[call.path], call.requests)
    assert served.calls.keys() == served.methods.keys()
    assert served.endings[grpc.StatusCode.OK.name] > SEEDED_CALLS / 10, "hardly anything got through the door"


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=400))
def test_calls_of_a_fuzzers_choices(served: Served, data: bytes) -> None:
    call = Maker(ByteChoices(data)).call(list(served.methods.values()))
    served.call(served.methods[call.path], call.requests)
