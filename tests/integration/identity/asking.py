"""Every RPC that there is, found by the descriptors, and asked with any token or none."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import cellserve.v1
from cellserve.errors import CellServeError, from_rpc_error
from tests.identities import metadata_of
from tests.servers import RPC_TIMEOUT_S

Outcome: TypeAlias = "Message | CellServeError"


def all_methods() -> list[MethodDescriptor]:
    """The methods of all services of the contract."""
    modules = (
        importlib.import_module(f"cellserve.v1.{found.name}")
        for found in pkgutil.iter_modules(cellserve.v1.__path__)
        if found.name.endswith("_pb2")
    )
    services = (service for module in modules for service in module.DESCRIPTOR.services_by_name.values())
    return [method for service in services for method in service.methods]


def ask(channel: grpc.Channel, method: MethodDescriptor, request: Message, token: str | None) -> Outcome:
    """Sends one request and gives the first answer, or why there is none."""
    service = method.containing_service
    way: Any = {
        (False, False): channel.unary_unary,
        (True, False): channel.stream_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    serialize: Callable[[Message], bytes] = type(request).SerializeToString
    call = way(f"/{service.full_name}/{method.name}", serialize, GetMessageClass(method.output_type).FromString)
    metadata = () if token is None else metadata_of(token)
    try:
        answer = call(iter([request]) if method.client_streaming else request, metadata=metadata, timeout=RPC_TIMEOUT_S)
        first: Message = next(answer) if method.server_streaming else answer
    except grpc.RpcError as error:
        return from_rpc_error(error)
    return first
