"""The steps of one message of a stream whose callers are traced."""

from __future__ import annotations

import asyncio

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.runs import Run
from cellserve_server.tracing.runs import RunTrace
from cellserve_server.tracing.spans import Spans
from cellserve_server.tracing.ticks import TickTracer


class StepsTrace:
    """The traced positions of one ``Steps``.

    Args:
        spans: makes spans.
        ticks: tells of ticks.
        runs: the traced positions, at least one.
    """

    def __init__(self, spans: Spans, ticks: TickTracer, runs: dict[int, RunTrace]) -> None:
        self._spans = spans
        self._ticks = ticks
        self._runs = runs
        self._loop = asyncio.get_running_loop()

    def follow_block(self, block: StepBlock) -> None:
        """The positions of a block are about to be submitted."""
        block.traces = self._runs
        for step, position in enumerate(block.positions.tolist()):
            if position in self._runs:
                session = block.seats.occupants[int(block.index[step])]
                assert session is not None, "a block's sessions are at their seats when it is submitted"
                self._runs[position].describe(session.model, session, session.rows, 1)

    def follow_run(self, position: int, run: Run) -> None:
        """A position is about to be submitted as a run."""
        trace = self._runs.get(position)
        if trace is not None:
            trace.describe_run(run)
            run.trace = trace

    def done_at_once(self) -> None:
        """The message's only step was done without a tick."""
        for trace in self._runs.values():
            self._ticks.tell_at_once(trace)
            trace.end(None, self._spans.now_ns())

    def answered(self, positions: Array) -> None:
        """These positions were stepped."""
        answered = set(positions.tolist())
        for position in [position for position in self._runs if position in answered]:
            self._end_soon(position, None)

    def failed(self, position: int, error: CellServeError) -> None:
        """A position was not stepped."""
        if position in self._runs:
            self._end_soon(position, error)

    def refused(self, error: CellServeError) -> None:
        """The message as a whole was refused."""
        for position in self._runs:
            self._end_soon(position, error)

    def _end_soon(self, position: int, error: CellServeError | None) -> None:
        # The tick that has answered it is told of next.
        self._loop.call_soon(self._end, position, error, self._spans.now_ns())

    def _end(self, position: int, error: CellServeError | None, at_ns: int) -> None:
        self._runs.pop(position).end(error, at_ns)
