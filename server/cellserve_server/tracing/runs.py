"""Runs that are traced: a span each, with its wait, its ticks and its commit as parts."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode

from cellserve.errors import CellServeError
from cellserve_server.engine.runs import Run
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.session import Session
from cellserve_server.tick_times import TickTimes
from cellserve_server.tracing.spans import Spans

# A long sequence takes hundreds of ticks, which are much alike: so many are told of.
MAX_TICKS_TOLD = 64


class RunTrace:
    """The span of one run, or of one position of a block, from its submission to its answer.

    Args:
        spans: makes spans.
        context: has the parent.
        kind: SERVER for a step of a stream, whose parent is its caller's; INTERNAL within an RPC that has a span.
        durability: what commits do: ``memory``, ``async`` or ``sync``.
        began: when it came, on ``time.perf_counter``.

    Attributes:
        is_sampled: whether anything is recorded; without it there is nothing to be told.
    """

    def __init__(self, spans: Spans, context: Context, kind: SpanKind, durability: str, began: float) -> None:
        self._spans = spans
        self._durability = durability
        self._span: Span = spans.begin("cellserve.run", context, kind, {}, began)
        self._ticks = 0
        self.is_sampled = self._span.is_recording()

    def describe(self, model: LoadedModel, session: Session | None, rows: int, steps: int) -> None:
        """Says of what it is a run."""
        self._span.set_attribute("cellserve.model", model.resource_name)
        if session is not None:
            self._span.set_attribute("cellserve.session.id", session.key.id)
        self._span.set_attribute("cellserve.rows", rows)
        self._span.set_attribute("cellserve.steps", steps)

    def describe_run(self, run: Run) -> None:
        """As ``describe``."""
        self.describe(run.model, run.session, run.rows, run.steps)

    def takes_part(self) -> bool:
        """It is part of one more tick; whether that is to be told."""
        self._ticks += 1
        return self._ticks <= MAX_TICKS_TOLD

    def ticked(self, tick: Span, times: TickTimes, arrived: float) -> None:
        """A tick has moved it on.

        Args:
            tick: the tick's span.
            times: the tick's.
            arrived: when the run was submitted, on ``time.perf_counter``.
        """
        if self._ticks == 1 and arrived < times.began:
            self._spans.add(self._span, "cellserve.queue", arrived, times.began)
        step = self._spans.add(self._span, "cellserve.step", times.began, times.computed, link=tick.get_span_context())
        tick.add_link(step.get_span_context())

    def committed(self, began: float, ended: float) -> None:
        """Its state is its session's, and where it is kept; times on ``time.perf_counter``."""
        self._spans.add(self._span, "cellserve.commit", began, ended, {"cellserve.durability": self._durability})

    def end(self, error: CellServeError | None, at_ns: int) -> None:
        """It is answered, or has failed."""
        self._span.set_attribute("cellserve.ticks", self._ticks)
        if error is not None:
            self._span.set_attribute("error.type", error.reason or error.code.name)
            self._span.set_status(StatusCode.ERROR)
        self._span.end(at_ns)
