"""What a server that traces is told, and where its spans go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cellserve.errors import CellServeError
from cellserve.v1 import stream_pb2
from cellserve_server.engine.runs import Run, RunResult, cancelled_error
from cellserve_server.tracing.rpcs import RpcTrace
from cellserve_server.tracing.runs import RunTrace
from cellserve_server.tracing.spans import Spans
from cellserve_server.tracing.steps import StepsTrace
from cellserve_server.tracing.ticks import TickTracer

# Positions of one Steps whose traces are looked at: spans cost many times what a step does.
MAX_TRACED_POSITIONS = 32
# How long the end of the server waits for the last spans to be exported.
FLUSH_S = 5.0


class Tracing:
    """Makes the spans of a server.

    Args:
        processor: where spans go when they end.
        resource: whose they are.
        durability: what commits do: ``memory``, ``async`` or ``sync``.

    Attributes:
        ticks: to be told of the engine's ticks.
    """

    def __init__(self, processor: SpanProcessor, resource: Resource, durability: str) -> None:
        self._spans = Spans(processor, resource)
        self._durability = durability
        self._propagator = TraceContextTextMapPropagator()
        self.ticks = TickTracer(self._spans)

    def rpc(self, method: str, metadata: Iterable[tuple[str, str | bytes]], began: float) -> RpcTrace:
        """An RPC has begun; its span is the current one of this task from now on. See ``RpcTrace``."""
        return RpcTrace(self._spans, method, metadata, began)

    async def execute(self, run: Run, execute: Callable[[Run], Awaitable[RunResult]]) -> RunResult:
        """Executes a run of the RPC whose span is current.

        Raises:
            CellServeError: why the run did not happen.
        """
        trace = self._run_of_rpc(time.perf_counter())
        if trace is None:
            return await execute(run)
        run.trace = trace
        trace.describe_run(run)
        error: CellServeError | None = None
        try:
            return await execute(run)
        except CellServeError as raised:
            error = raised
            raise
        except asyncio.CancelledError:
            error = cancelled_error()
            raise
        finally:
            trace.end(error, self._spans.now_ns())

    def done_at_once(self) -> None:
        """A step of the RPC whose span is current was done just now, without a tick."""
        trace = self._run_of_rpc(self.ticks.lone_began)
        if trace is not None:
            self.ticks.tell_at_once(trace)
            trace.end(None, self._spans.now_ns())

    def _run_of_rpc(self, began: float) -> RunTrace | None:
        span = get_current_span()
        if not span.is_recording():
            return None
        context = set_span_in_context(span, Context())
        return RunTrace(self._spans, context, SpanKind.INTERNAL, self._durability, began)

    def steps(self, traces: Sequence[stream_pb2.PositionTrace], count: int) -> StepsTrace | None:
        """A message of so many steps has come.

        Returns:
            Its traced steps; None: there are none. What is no trace context, or of no position, is passed over.
        """
        began = time.perf_counter()
        runs: dict[int, RunTrace] = {}
        for told in traces[:MAX_TRACED_POSITIONS]:
            headers = {"traceparent": told.traceparent, "tracestate": told.tracestate}
            context = self._propagator.extract(headers, Context())
            if told.position >= count or told.position in runs or not _is_in_a_trace(context):
                continue
            trace = RunTrace(self._spans, context, SpanKind.SERVER, self._durability, began)
            if trace.is_sampled:
                runs[told.position] = trace
        return StepsTrace(self._spans, self.ticks, runs) if runs else None

    async def close(self) -> None:
        """Exports what there is; what cannot be within ``FLUSH_S`` seconds is given up."""
        # A thread that nothing waits for: a collector that hangs is not to keep the process from its end.
        flushing = threading.Thread(target=self._spans.shutdown, name="cellserve-tracing-flush", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, FLUSH_S)
        if flushing.is_alive():
            structlog.get_logger("cellserve.tracing").warning("tracing_flush_timeout", seconds=FLUSH_S)


def _is_in_a_trace(context: Context) -> bool:
    return get_current_span(context).get_span_context().is_valid
