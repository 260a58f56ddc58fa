"""Bytes that are no message, or one that nobody meant: INTERNAL never."""

from __future__ import annotations

import struct
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cellserve.v1 import (
    model_service_pb2,
    recurrent_service_pb2,
)
from tests.integration.edges import (
    Edge,
)
from tests.servers import (
    RPC_TIMEOUT_S,
    TEST_CONFIG,
    RunningApp,
    error_of_call,
)

METHODS = sorted(
    f"/{service.full_name}/{method.name}"
    for service in (
        *recurrent_service_pb2.DESCRIPTOR.services_by_name.values(),
        *model_service_pb2.DESCRIPTOR.services_by_name.values(),
    )
    for method in service.methods
)
STREAMING = {"StreamSteps": "stream_stream", "DefineModel": "stream_unary"}
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def _send_raw(channel: grpc.Channel, method: str, data: bytes) -> grpc.StatusCode:
    kind = STREAMING.get(method.rpartition("/")[2], "unary_unary")
    call = getattr(channel, kind)(method, request_serializer=None, response_deserializer=None)
    request = iter([data]) if kind.startswith("stream") else data
    try:
        answer = call(request, timeout=RPC_TIMEOUT_S)
        list(answer if kind == "stream_stream" else [])
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message(edge: Edge, method: str) -> None:
    # A length that says more bytes than follow.
    assert _send_raw(edge.server.stubs.channel, method, b"\x0a\xff") is grpc.StatusCode.INVALID_ARGUMENT


fields = st.tuples(st.integers(1, 9), st.sampled_from([0, 1, 2, 5]), st.binary(max_size=24), st.integers(0, 2**64 - 1))


def _encode(parts: list[tuple[int, int, bytes, int]]) -> bytes:
    """Fields of any number, type and content: most are messages that nobody meant."""
    out = bytearray()
    for number, wire_type, data, value in parts:
        out.append(number << 3 | wire_type)
        if wire_type == 0:
            while value > 127:
                out.append(value & 127 | 128)
                value >>= 7
            out.append(value)
        elif wire_type == 1:
            out += struct.pack("<Q", value)
        elif wire_type == 2:
            out += bytes([len(data)]) + data
        else:
            out += struct.pack("<I", value & 0xFFFFFFFF)
    return bytes(out)


@hypothesis_settings(max_examples=150)
@given(method=st.sampled_from(METHODS), parts=st.lists(fields, max_size=6), raw=st.none() | st.binary(max_size=60))
def test_no_bytes_are_an_internal_error(
    edge: Edge, method: str, parts: list[tuple[int, int, bytes, int]], raw: bytes | None
) -> None:
    code = _send_raw(edge.server.stubs.channel, method, _encode(parts) if raw is None else raw)
    assert code not in NEVER


def test_an_unknown_method(edge: Edge) -> None:
    code = _send_raw(edge.server.stubs.channel, "/cellserve.v1.RecurrentService/Fly", b"")
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_millions_of_messages_within_one(server: RunningApp) -> None:
    """Four megabytes that would take some two hundred of memory, and a good part of a second of the event loop."""
    send: Any = server.stubs.channel.unary_unary("/cellserve.v1.RecurrentService/Step")
    error = error_of_call(lambda: send(b"\x1a\x00" * (2 << 20), timeout=RPC_TIMEOUT_S))
    assert error.reason == "FIELD_INVALID"
    assert error.metadata == {"max_message_parts": str(TEST_CONFIG.max_message_parts)}
