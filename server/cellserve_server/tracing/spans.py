"""How spans are made, whatever they are of: their times, and that of ticks in a trace of their own."""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, set_span_in_context

SCOPE = "cellserve_server"


class Spans:
    """Makes spans.

    Args:
        processor: where they go when they end.
        resource: whose they are.
    """

    def __init__(self, processor: SpanProcessor, resource: Resource) -> None:
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(SCOPE)
        # A tick is spoken of only when a run in it is sampled; to ask the sampler again could leave its link dangling.
        provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        self._tick_tracer = provider.get_tracer(SCOPE)
        # One clock for all spans, which never jumps: the engine's times are its own.
        self._offset_ns = time.time_ns() - time.perf_counter_ns()

    def at_ns(self, seconds: float) -> int:
        """A time of ``time.perf_counter`` as spans have it: nanoseconds of unix time."""
        return int(seconds * 1e9) + self._offset_ns

    def now_ns(self) -> int:
        """The present as spans have it."""
        return time.perf_counter_ns() + self._offset_ns

    def begin(
        self, name: str, context: Context, kind: SpanKind, attributes: Mapping[str, str | int], began: float
    ) -> Span:
        """Begins a span, where the sampler wants it.

        Args:
            context: has its parent, or none.
            began: on ``time.perf_counter``.
        """
        return self._tracer.start_span(name, context, kind, attributes, start_time=self.at_ns(began))

    def begin_tick(self, attributes: Mapping[str, str | int | bool], began: float) -> Span:
        """A tick's span: it is of many callers' runs, and so in a trace of its own."""
        return self._tick_tracer.start_span(
            "cellserve.tick", Context(), attributes=attributes, start_time=self.at_ns(began)
        )

    def add(
        self,
        parent: Span,
        name: str,
        began: float,
        ended: float,
        attributes: Mapping[str, str | int] | None = None,
        link: SpanContext | None = None,
    ) -> Span:
        """A part of a span that is over already.

        Args:
            began, ended: on ``time.perf_counter``.
            link: what it is to be looked up in besides.
        """
        span = self._tracer.start_span(
            name,
            set_span_in_context(parent, Context()),
            attributes=attributes,
            links=() if link is None else (Link(link),),
            start_time=self.at_ns(began),
        )
        span.end(self.at_ns(ended))
        return span

    def shutdown(self) -> None:
        """Exports what there is and ends; blocks."""
        self._provider.shutdown()
