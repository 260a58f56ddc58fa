"""Spans as tests look at them: collected in memory, found by name, walked along parents and links."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, SpanContext

from cellserve_server.config import ServerConfig
from cellserve_server.tracing.tracing import Tracing
from tests.servers import TEST_CONFIG, LoopThread, RunningApp, running_app

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"
UNSAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-00"
GARBAGE = ("", "garbage", SAMPLED + "0", SAMPLED.upper(), f"00-{'0' * 32}-{SPAN_ID}-01", f"ff-{TRACE_ID}-{SPAN_ID}-01")
SERVICE = "cellserve.v1.RecurrentService"


@dataclass(frozen=True)
class TracedServer:
    """A server in this process, and the spans that it has made.

    Attributes:
        running: the server.
        exported: where its spans go.
    """

    running: RunningApp
    exported: InMemorySpanExporter

    def settled(self, condition: Callable[[list[ReadableSpan]], bool]) -> list[ReadableSpan]:
        """The spans, once they fulfil a condition: those of a stream's steps end a moment after their answers."""
        self.running.wait_until(lambda: condition(list(self.exported.get_finished_spans())))
        return list(self.exported.get_finished_spans())

    def after(self, *names: str) -> list[ReadableSpan]:
        """The spans, once there are spans of these names, each as often as it stands here at least."""
        return self.settled(lambda spans: all(len(named(spans, name)) >= names.count(name) for name in names))


@contextmanager
def traced_server(loop: LoopThread, config: ServerConfig = TEST_CONFIG) -> Iterator[TracedServer]:
    """Runs a server whose spans stay in memory."""
    exporter = InMemorySpanExporter()
    durability = "memory" if config.store == "memory:" else config.durability
    tracing = Tracing(SimpleSpanProcessor(exporter), Resource.create(), durability)
    with running_app(loop, config, tracing=tracing) as running:
        yield TracedServer(running, exporter)


class Program:
    """A program that traces: the spans of who calls, and of the client."""

    def __init__(self) -> None:
        self.exported = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exported))
        self._tracer = self.provider.get_tracer("tests")

    @contextmanager
    def span(self, name: str = "caller") -> Iterator[Span]:
        """Is in a span of a trace of its own."""
        with self._tracer.start_as_current_span(name, Context()) as span:
            yield span

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended."""
        return list(self.exported.get_finished_spans())


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    """Those of a name, the first begun first."""
    return sorted((span for span in spans if span.name == name), key=lambda span: span.start_time or 0)


def one(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    """The only one of a name."""
    (found,) = named(spans, name)
    return found


def children(spans: Sequence[ReadableSpan], parent: ReadableSpan) -> list[ReadableSpan]:
    """The parts of a span, the first begun first; each lies within it, in time and in its trace."""
    found = [span for span in spans if span.parent is not None and span.parent.span_id == context_of(parent).span_id]
    for span in found:
        assert context_of(span).trace_id == context_of(parent).trace_id
        assert times_of(parent)[0] <= times_of(span)[0] <= times_of(span)[1] <= times_of(parent)[1]
    return sorted(found, key=times_of)


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    """Their names, in order."""
    return [span.name for span in spans]


def links_of(span: ReadableSpan) -> list[int]:
    """The ids of the spans that it links to."""
    return [link.context.span_id for link in span.links]


def context_of(span: ReadableSpan) -> SpanContext:
    """Its ids."""
    context: SpanContext | None = span.context
    assert context is not None
    return context


def times_of(span: ReadableSpan) -> tuple[int, int]:
    """Its begin and its end, in nanoseconds."""
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def attributes_of(span: ReadableSpan) -> dict[str, object]:
    """What it says."""
    return dict(span.attributes or {})
