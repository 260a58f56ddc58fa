"""The client's part: spans of its requests, and the trace of each caller told to the server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

import cellserve_client
from cellserve.errors import FieldInvalidError, SessionNotFoundError
from cellserve.v1 import stream_pb2
from cellserve_client import Server, aio, rnn
from cellserve_client.tracing import TRACES_BYTES, Tracing
from tests.integration.tracing.spans import (
    SERVICE,
    Program,
    TracedServer,
    attributes_of,
    children,
    context_of,
    named,
    names,
    one,
)

UNITS, DEPTH = 4, 3
FRAME = np.zeros(DEPTH, np.float32)


@pytest.fixture
def server(traced: TracedServer, program: Program) -> Iterator[Server]:
    with cellserve_client.connect(traced.running.address, tracing=program.provider) as connected:
        yield connected


def sampled_context(number: int, tracestate: str = "") -> SpanContext:
    state = TraceState.from_header([tracestate]) if tracestate else None
    return SpanContext(number, number, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED), trace_state=state)


def test_a_request_is_a_span_between_its_callers_and_the_servers(
    traced: TracedServer, program: Program, server: Server
) -> None:
    session = server.session(server.cell(rnn.GRUCell(UNITS), input_size=DEPTH))
    with program.span():
        session.run(np.zeros((5, DEPTH), np.float32))
    caller, request = one(program.spans, "caller"), one(program.spans, f"{SERVICE}/RunSequence")
    rpc = one(traced.after(f"{SERVICE}/RunSequence"), f"{SERVICE}/RunSequence")
    assert children(program.spans, caller) == [request]
    assert rpc.parent is not None
    assert (rpc.parent.trace_id, rpc.parent.span_id) == (context_of(request).trace_id, context_of(request).span_id)
    assert request.kind is SpanKind.CLIENT
    host, _, port = traced.running.address.rpartition(":")
    assert attributes_of(request) == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/RunSequence",
        "rpc.response.status_code": "OK",
        "server.address": host,
        "server.port": int(port),
    }
    assert {"cellserve.v1.ModelService/DefineModel", f"{SERVICE}/CreateSession"} <= set(names(program.spans))


def test_a_request_that_fails(traced: TracedServer, program: Program, server: Server) -> None:
    with pytest.raises(SessionNotFoundError):
        server.open_session("none")
    request = one(program.spans, f"{SERVICE}/GetSession")
    assert request.status.status_code is StatusCode.ERROR
    assert request.status.description is None
    assert not request.events
    assert attributes_of(request)["rpc.response.status_code"] == attributes_of(request)["error.type"] == "NOT_FOUND"


def test_each_thread_steps_in_its_own_trace(traced: TracedServer, program: Program, server: Server) -> None:
    cell = server.cell(rnn.GRUCell(UNITS), input_size=DEPTH)
    sessions = [server.session(cell) for _ in range(6)]

    def step(number: int) -> tuple[str, SpanContext]:
        for _ in range(4):
            sessions[number].step(FRAME)  # In no trace.
        with program.span() as span:
            sessions[number].step(FRAME)
        sessions[number].step(FRAME)
        return sessions[number].id, span.get_span_context()

    with ThreadPoolExecutor(len(sessions)) as threads:
        callers = dict(threads.map(step, range(len(sessions))))
    spans = traced.after(*["cellserve.run"] * len(sessions))
    found = {attributes_of(run)["cellserve.session.id"]: run.parent for run in named(spans, "cellserve.run")}
    assert len(named(spans, "cellserve.run")) == len(found) == len(sessions)
    for id_, context in callers.items():
        parent = found[id_]
        assert parent is not None
        assert (parent.trace_id, parent.span_id) == (context.trace_id, context.span_id)


def test_each_coroutine_steps_in_its_own_trace(traced: TracedServer, program: Program) -> None:
    async def step(session: aio.Session, is_traced: bool) -> Span | None:
        if not is_traced:
            await session.step(FRAME)
            return None
        with program.span() as span:
            await session.step(FRAME)
            await session.step(FRAME)
        return span

    async def main() -> list[Span | None]:
        async with aio.connect(traced.running.address, tracing=program.provider) as server:
            cell = await server.cell(rnn.GRUCell(UNITS), input_size=DEPTH)
            sessions = [await server.session(cell) for _ in range(40)]
            await asyncio.gather(*(step(session, False) for session in sessions))
            return await asyncio.gather(*(step(session, number % 8 == 0) for number, session in enumerate(sessions)))

    callers = [span.get_span_context() for span in asyncio.run(main()) if span is not None]
    runs = named(traced.after(*["cellserve.run"] * 10), "cellserve.run")
    assert len(runs) == 2 * len(callers) == 10
    parents = [(run.parent.trace_id, run.parent.span_id) for run in runs if run.parent is not None]
    assert sorted(parents) == sorted([(caller.trace_id, caller.span_id) for caller in callers] * 2)


@pytest.mark.parametrize("coalesce", [True, False])
def test_a_session_that_steps_for_the_first_time_is_traced_too(
    traced: TracedServer, program: Program, coalesce: bool
) -> None:
    with cellserve_client.connect(traced.running.address, tracing=program.provider, coalesce=coalesce) as server:
        session = server.session(server.cell(rnn.GRUCell(UNITS), input_size=DEPTH))
        with program.span() as caller:
            session.step(FRAME)
    run = one(traced.after("cellserve.run"), "cellserve.run")
    assert context_of(run).trace_id == caller.get_span_context().trace_id
    assert len(named(program.spans, f"{SERVICE}/Step")) == (0 if coalesce else 1)


def test_a_group_steps_in_its_callers_trace(traced: TracedServer, program: Program, server: Server) -> None:
    with server.session_group(server.cell(rnn.GRUCell(UNITS), input_size=DEPTH), 10) as group:
        frames = np.zeros((10, DEPTH), np.float32)
        group.step(frames)
        with program.span() as caller:
            group.step(frames)
        spans = traced.after("cellserve.run")
    run = one(spans, "cellserve.run")
    assert run.parent is not None
    assert run.parent.span_id == caller.get_span_context().span_id
    assert attributes_of(one(spans, "cellserve.tick"))["cellserve.runs"] == 10


def test_callers_whose_trace_is_not_sampled_are_not_told_of(traced: TracedServer) -> None:
    unsampled = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    with cellserve_client.connect(traced.running.address, tracing=unsampled) as server:
        session = server.session(server.cell(rnn.GRUCell(UNITS), input_size=DEPTH))
        with unsampled.get_tracer("tests").start_as_current_span("caller"):
            session.step(FRAME)
            session.run(np.zeros((2, DEPTH), np.float32))
    # The stream is its own: it is of many callers, and so of none of their traces.
    spans = traced.after(f"{SERVICE}/StreamSteps")
    assert names(spans) == [f"{SERVICE}/StreamSteps"]
    assert spans[0].parent is None


def test_traces_take_no_more_room_than_a_message_has() -> None:
    tracing = Tracing()
    steps = stream_pb2.Steps()
    tracing.mark(steps, [None, *(sampled_context(number) for number in range(1, 1000))])
    assert steps.traces[0].position == 1
    assert steps.traces[0].traceparent == f"00-{1:032x}-{1:016x}-01"
    assert 20 < len(steps.traces) < 30
    assert TRACES_BYTES - 100 < steps.ByteSize() <= TRACES_BYTES
    steps = stream_pb2.Steps()
    tracing.mark(steps, [sampled_context(number, "vendor=" + "v" * 200) for number in range(1, 1000)])
    assert steps.traces[0].tracestate == "vendor=" + "v" * 200
    assert TRACES_BYTES - 300 < steps.ByteSize() <= TRACES_BYTES


def test_tracing_without_opentelemetry_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cellserve_client.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(FieldInvalidError, match=r"tracing: .*pip install 'cellserve-client\[tracing\]'"):
        cellserve_client.connect("localhost:1", tracing=True)
