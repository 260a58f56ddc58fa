"""All open streams of a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from cellserve.v1 import stream_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.edge.refusals import Refusals
from cellserve_server.edge.stream import StepStream
from cellserve_server.edge.stream_groups import Groups
from cellserve_server.keeping.model_finder import ModelFinder
from cellserve_server.keeping.operations import SessionOperations

if TYPE_CHECKING:
    from cellserve_server.tracing.tracing import Tracing


class Streams:
    """All open streams of a server.

    Args:
        config: the limits.
        models: where models are found.
        operations: the sessions and the engine.
        refusals: told of every error that is answered within a stream.
        tracing: makes spans of steps whose callers are traced; None: nobody traces.
    """

    def __init__(
        self,
        config: ServerConfig,
        models: ModelFinder,
        operations: SessionOperations,
        refusals: Refusals,
        tracing: Tracing | None = None,
    ) -> None:
        self._config = config
        self._models = models
        self._operations = operations
        self._refusals = refusals
        self._tracing = tracing
        self._open: set[StepStream] = set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[StepStream]:
        return iter(list(self._open))

    async def serve(
        self,
        tenant: str,
        client: str,
        requests: AsyncIterator[stream_pb2.StreamStepsRequest],
        write: Callable[[stream_pb2.StreamStepsResponse], Awaitable[None]],
    ) -> None:
        """Serves one stream to its end.

        Args:
            tenant: on whose behalf.
            client: from where, for fairness between clients.
            requests: the client's messages.
            write: sends a message; returns when the transport has taken it.

        Raises:
            FieldInvalidError: a message of no kind that we know: it has no number under which it could be answered.
            DrainingError: the server stops.
        """
        groups = Groups(tenant, self._config, self._models, self._operations, self._refusals)
        stream = StepStream(self._config, self._operations, self._refusals, groups, client, write, self._tracing)
        self._open.add(stream)
        try:
            await stream.serve(requests)
        finally:
            self._open.discard(stream)

    def tell_draining(self, grace_s: float) -> None:
        """Tells every client that the server is about to stop, and how long it waits for running steps."""
        for stream in self:
            stream.tell_draining(grace_s)

    def finish(self) -> None:
        """Ends every stream as soon as what is due on it was sent."""
        for stream in self:
            stream.finish()
