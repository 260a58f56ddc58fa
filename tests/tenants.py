"""Tenants of a server in this process, each with a token and a connection of its own."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from cellserve.v1 import model_service_pb2_grpc, recurrent_service_pb2_grpc
from tests.identities import metadata_of
from tests.servers import Stubs

# A namedtuple, because the typings of grpc want to inherit from one.
_Details = namedtuple("_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression"))


class _WithToken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Has a token go with every RPC."""

    def __init__(self, token: str) -> None:
        self._metadata = metadata_of(token)

    def _call(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        ours = _Details(details.method, details.timeout, self._metadata, details.credentials, None, None)
        return continuation(ours, request)

    intercept_unary_unary = _call  # type: ignore[assignment]
    intercept_stream_unary = _call  # type: ignore[assignment]
    intercept_stream_stream = _call  # type: ignore[assignment]


@contextmanager
def stubs_of(address: str, token: str) -> Iterator[Stubs]:
    """Connects as whoever has this token."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as plain:
        channel = grpc.intercept_channel(plain, _WithToken(token))
        yield Stubs(
            channel,
            recurrent_service_pb2_grpc.RecurrentServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )
