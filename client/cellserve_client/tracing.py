"""OpenTelemetry in the client: its requests are spans, and each step on the stream says which trace its caller is in.

Needs the extra ``tracing``. Imported by connections that ask for it alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cellserve.errors import CellServeError
from cellserve.v1 import stream_pb2
from cellserve_client.address import Address

# What the traces of one Steps take at most: they come out of the room that its message has beside the steps. About
# two dozen callers are told of; a batch of more sampled ones is traced well enough by those.
TRACES_BYTES = 1536
# What protobuf puts in front of each.
TRACE_PREFIX_BYTES = 3


class Tracing:
    """Makes spans and tells the server of them.

    Args:
        provider: where spans go; None: the program's own, which ``opentelemetry.trace`` knows.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("cellserve_client", version("cellserve-client"), provider)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, address: Address) -> Iterator[tuple[tuple[str, str], ...]]:
        """A span around one attempt of a request, as a child of the caller's.

        Args:
            method: ``cellserve.v1.RecurrentService/Step``.
            address: where it goes.

        Yields:
            The metadata that tells the server of it.
        """
        span_of_request = self._tracer.start_as_current_span(
            method,
            kind=SpanKind.CLIENT,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": method,
                "server.address": address.host,
                "server.port": address.port,
            },
            record_exception=False,  # What errors say may quote what was sent.
            set_status_on_exception=False,
        )
        with span_of_request as span:
            code = "UNKNOWN"
            try:
                headers: dict[str, str] = {}
                self._propagator.inject(headers)
                yield tuple(headers.items())
                code = "OK"
            except CellServeError as error:
                code = error.code.name
                raise
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            finally:
                span.set_attribute("rpc.response.status_code", code)
                if code != "OK":
                    span.set_attribute("error.type", code)
                    span.set_status(StatusCode.ERROR)

    def of_caller(self) -> SpanContext | None:
        """The trace that the caller is in; None: it is in none, or in one that is not sampled."""
        context = trace.get_current_span().get_span_context()
        return context if context.is_valid and context.trace_flags.sampled else None

    def mark(self, steps: stream_pb2.Steps, callers: Iterable[SpanContext | None]) -> None:
        """Tells a ``Steps`` which traces its callers are in, as far as there is room.

        Args:
            callers: one for each position, as ``of_caller`` gave it.
        """
        left_bytes = TRACES_BYTES
        for position, context in enumerate(callers):
            if context is None:
                continue
            headers: dict[str, str] = {}
            self._propagator.inject(headers, trace.set_span_in_context(NonRecordingSpan(context)))
            told = stream_pb2.PositionTrace(position=position, **headers)
            left_bytes -= told.ByteSize() + TRACE_PREFIX_BYTES
            if left_bytes < 0:
                return
            steps.traces.append(told)
