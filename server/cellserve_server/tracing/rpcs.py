"""RPCs as spans, by OpenTelemetry's conventions for gRPC."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.context import Context, attach
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cellserve_server.tracing.spans import Spans

TRACE_HEADERS = ("traceparent", "tracestate")
# The codes that say that the server is at fault, not the caller.
FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class RpcTrace:
    """The span of one RPC.

    Args:
        spans: makes spans.
        method: ``/cellserve.v1.RecurrentService/Step``.
        metadata: what came with the RPC; a trace context in it that is not of its form counts as none.
        began: when, on ``time.perf_counter``.
    """

    def __init__(self, spans: Spans, method: str, metadata: Iterable[tuple[str, str | bytes]], began: float) -> None:
        self._spans = spans
        headers: dict[str, list[str]] = {}
        for key, value in metadata:
            if key in TRACE_HEADERS and isinstance(value, str):
                headers.setdefault(key, []).append(value)
        name = method.removeprefix("/")
        self._span = spans.begin(
            name,
            TraceContextTextMapPropagator().extract(headers, Context()),
            SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": name},
            began,
        )
        # Never detached: an RPC has a task of its own, with which its context ends.
        attach(set_span_in_context(self._span))

    def end(self, code: str) -> None:
        """The RPC has ended with this gRPC status code: ``NOT_FOUND``."""
        self._span.set_attribute("rpc.response.status_code", code)
        if code in FAULTS:
            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)
        self._span.end(self._spans.now_ns())
