"""Every method that the server has, found by collecting what it adds to a server: a new one is tried without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cellserve_server.app import App

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Method(NamedTuple):
    """One method of the server.

    Attributes:
        path: ``/cellserve.v1.RecurrentService/Step``.
        request: the class of its requests.
        streams_requests: whether several of them make one call.
        streams_answers: whether several answers come.
    """

    path: str
    request: type[Message]
    streams_requests: bool
    streams_answers: bool

    @property
    def is_ours(self) -> bool:
        """Whether its errors are those of ``cellserve.errors``; health and reflection have words of their own."""
        return self.path.startswith("/cellserve.")


class Collector(grpc.aio.Server):
    """A server that only collects the handlers that are added to it, by path."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Collects one service's handlers; the generated stubs call this."""
        self.handlers |= {f"/{service_name}/{name}": handler for name, handler in method_handlers.items()}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        """The same handlers again, in a form that can only be asked for names."""

    def add_insecure_port(self, address: str) -> int:
        """Not to be used."""
        raise NotImplementedError

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Not to be used."""
        raise NotImplementedError

    async def start(self) -> None:
        """Not to be used."""
        raise NotImplementedError

    async def stop(self, grace: float | None) -> None:
        """Not to be used."""
        raise NotImplementedError

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Not to be used."""
        raise NotImplementedError


def handlers_of(app: App) -> dict[str, Handler]:
    """The handlers of all methods of an app, by path."""
    collector = Collector()
    app.add_services(collector)
    return collector.handlers


def method_of(path: str, handler: Handler) -> Method:
    """What there is to know of a method to call it."""
    request = GetMessageClass(_described(path).input_type)
    return Method(path, request, handler.request_streaming, handler.response_streaming)


def answer_class_of(path: str) -> type[Message]:
    """The class of a method's answers."""
    return GetMessageClass(_described(path).output_type)


def _described(path: str) -> MethodDescriptor:
    service, _, name = path.removeprefix("/").partition("/")
    found: MethodDescriptor = Default().FindServiceByName(service).FindMethodByName(name)
    return found
