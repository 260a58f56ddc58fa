"""All open streams of a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from cellserve.v1 import stream_pb2
from cellserve_server.edge.refusals import Refusals
from cellserve_server.edge.stream import StepStream
from cellserve_server.edge.stream_admission import StreamAdmission
from cellserve_server.edge.stream_groups import Groups
from cellserve_server.keeping.model_finder import ModelFinder
from cellserve_server.keeping.operations import SessionOperations
from cellserve_server.keys import Client
from cellserve_server.step_rates import StepRates
from cellserve_server.tenant_limits import TenantLimits

if TYPE_CHECKING:
    from cellserve_server.tracing.tracing import Tracing


class Streams:
    """All open streams of a server.

    Args:
        admission: counts them.
        limits: those of tenants.
        rates: counts steps a second.
        models: where models are found.
        operations: the sessions and the engine.
        refusals: told of every error that is answered within a stream.
        tracing: makes spans of steps whose callers are traced; None: nobody traces.
    """

    def __init__(
        self,
        admission: StreamAdmission,
        limits: TenantLimits,
        rates: StepRates,
        models: ModelFinder,
        operations: SessionOperations,
        refusals: Refusals,
        tracing: Tracing | None = None,
    ) -> None:
        self._admission = admission
        self._limits = limits
        self._rates = rates
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
        client: Client,
        requests: AsyncIterator[stream_pb2.StreamStepsRequest],
        write: Callable[[stream_pb2.StreamStepsResponse], Awaitable[None]],
    ) -> None:
        """Serves one stream to its end.

        Args:
            client: who opens it.
            requests: the client's messages.
            write: sends a message; returns when the transport has taken it.

        Raises:
            FieldInvalidError: a message of no kind that we know: it has no number under which it could be answered.
            DrainingError: the server stops.
            QuotaExceededError: there are as many streams as may be, of all or of the tenant.
        """
        config = self._limits.of(client.tenant)
        with self._admission.stream(client.tenant, config.max_streams):
            groups = Groups(client.tenant, config, self._models, self._operations, self._refusals)
            stream = StepStream(
                config, self._operations, self._refusals, groups, self._rates, client, write, self._tracing
            )
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
