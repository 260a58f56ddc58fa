"""The spans of a server: RPCs, runs, and ticks that serve many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from cellserve.cells import BasicLSTMCell
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import sequence_pb2, stream_pb2
from cellserve_server.tracing.runs import MAX_TICKS_TOLD
from cellserve_server.tracing.tracing import MAX_TRACED_POSITIONS
from tests.gates import GatedNetwork
from tests.integration.edges import DEPTH, UNITS, bidirectional_spec, create_session, floats
from tests.integration.stream_client import StreamClient, step_inputs
from tests.integration.tracing.spans import (
    GARBAGE,
    SAMPLED,
    SERVICE,
    SPAN_ID,
    TRACE_ID,
    UNSAMPLED,
    TracedServer,
    attributes_of,
    children,
    context_of,
    links_of,
    named,
    names,
    one,
    times_of,
    traced_server,
)
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, LoopThread, define_model, define_spec, error_of_call

IN_TRACE = (("traceparent", SAMPLED), ("tracestate", "vendor=value"))


def lstm(traced: TracedServer, session_id: str = "s", batch_size: int = 0) -> str:
    """A model, and a session of it."""
    model = define_model(traced.running.stubs, BasicLSTMCell(UNITS), DEPTH).name
    create_session(traced.running, session_id=session_id, model=model, batch_size=batch_size)
    traced.after(f"{SERVICE}/CreateSession")
    traced.exported.clear()
    return model


def step(traced: TracedServer, metadata: Sequence[tuple[str, str]] = (), name: str = "sessions/s") -> None:
    request = messages.StepRequest(name=name, inputs=[floats(DEPTH)])
    traced.running.stubs.recurrent.Step(request, timeout=RPC_TIMEOUT_S, metadata=metadata)


def require_linked(steps: Sequence[ReadableSpan], tick: ReadableSpan) -> None:
    """A tick is in a trace of its own, and knows its steps, as they know it."""
    assert tick.parent is None
    assert sorted(links_of(tick)) == sorted(context_of(step).span_id for step in steps)
    for part in steps:
        assert links_of(part) == [context_of(tick).span_id]
        assert context_of(part).trace_id != context_of(tick).trace_id


@pytest.mark.parametrize("at_once_us", [10**9, 0])
def test_a_step_is_a_part_of_its_callers_trace(loop_thread: LoopThread, at_once_us: int) -> None:
    with traced_server(loop_thread, replace(TEST_CONFIG, at_once_us=at_once_us)) as traced:
        model = lstm(traced)
        step(traced)  # The first of a model is never done at once: how long it takes is not known.
        traced.after(f"{SERVICE}/Step")
        traced.exported.clear()
        step(traced, IN_TRACE)
        spans = traced.after(f"{SERVICE}/Step")
    rpc, run, tick = one(spans, f"{SERVICE}/Step"), one(spans, "cellserve.run"), one(spans, "cellserve.tick")
    assert rpc.parent is not None
    assert (rpc.parent.trace_id, rpc.parent.span_id) == (int(TRACE_ID, 16), int(SPAN_ID, 16))
    assert context_of(rpc).trace_state.get("vendor") == "value"
    assert rpc.kind is SpanKind.SERVER
    assert attributes_of(rpc) == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/Step",
        "rpc.response.status_code": "OK",
    }
    assert children(spans, rpc) == [run]
    assert attributes_of(run) == {
        "cellserve.model": model,
        "cellserve.session.id": "s",
        "cellserve.rows": 1,
        "cellserve.steps": 1,
        "cellserve.ticks": 1,
    }
    waited = [] if at_once_us else ["cellserve.queue"]
    assert names(children(spans, run)) == [*waited, "cellserve.step", "cellserve.commit"]
    assert attributes_of(one(spans, "cellserve.commit")) == {"cellserve.durability": "memory"}
    require_linked(named(spans, "cellserve.step"), tick)
    of_tick = {"cellserve.model": model, "cellserve.rows": 1, "cellserve.steps": 1, "cellserve.runs": 1}
    assert attributes_of(tick) == (of_tick | {"cellserve.at_once": True} if at_once_us else of_tick)
    assert "cellserve.cell" in names(children(spans, tick))
    assert len(spans) == 3 + len(children(spans, run)) + len(children(spans, tick))


def test_a_sequence_has_a_part_for_each_of_its_ticks(loop_thread: LoopThread) -> None:
    with traced_server(loop_thread, replace(TEST_CONFIG, max_chunk_steps=4)) as traced:
        lstm(traced)
        inputs = sequence_pb2.Sequence(values=[floats(1, 10, DEPTH)])
        request = messages.RunSequenceRequest(session="sessions/s", inputs=inputs)
        traced.running.stubs.recurrent.RunSequence(request, timeout=RPC_TIMEOUT_S, metadata=IN_TRACE)
        spans = traced.after(f"{SERVICE}/RunSequence")
    run = one(spans, "cellserve.run")
    assert attributes_of(run)["cellserve.steps"] == 10
    steps, ticks = named(spans, "cellserve.step"), named(spans, "cellserve.tick")
    assert len(steps) == len(ticks) >= 3
    assert names(children(spans, run)) == ["cellserve.queue", *["cellserve.step"] * len(steps), "cellserve.commit"]
    for part, tick in zip(steps, ticks, strict=True):
        require_linked([part], tick)
    assert sum(int(str(attributes_of(tick)["cellserve.steps"])) for tick in ticks) == 10
    assert len({context_of(tick).trace_id for tick in ticks}) == len(ticks)
    assert attributes_of(run)["cellserve.ticks"] == len(ticks)


def test_a_long_sequence_tells_of_its_first_ticks(loop_thread: LoopThread) -> None:
    with traced_server(loop_thread, replace(TEST_CONFIG, max_chunk_steps=1)) as traced:
        model = lstm(traced)
        inputs = sequence_pb2.Sequence(values=[floats(1, MAX_TICKS_TOLD + 10, DEPTH)])
        request = messages.RunSequenceRequest(model=model, inputs=inputs)
        traced.running.stubs.recurrent.RunSequence(request, timeout=RPC_TIMEOUT_S, metadata=IN_TRACE)
        spans = traced.after(f"{SERVICE}/RunSequence")
    assert attributes_of(one(spans, "cellserve.run"))["cellserve.ticks"] == MAX_TICKS_TOLD + 10
    assert len(named(spans, "cellserve.step")) == len(named(spans, "cellserve.tick")) == MAX_TICKS_TOLD


def test_a_call_commits_nothing_and_a_whole_sequence_has_no_ticks(traced: TracedServer) -> None:
    model = lstm(traced)
    call = messages.CallRequest(model=model, inputs=[floats(2, DEPTH)])
    traced.running.stubs.recurrent.Call(call, timeout=RPC_TIMEOUT_S)
    spans = traced.after(f"{SERVICE}/Call")
    assert names(children(spans, one(spans, "cellserve.run"))) == ["cellserve.queue", "cellserve.step"]
    assert attributes_of(one(spans, "cellserve.tick"))["cellserve.rows"] == 2
    traced.exported.clear()
    both_ways = define_spec(traced.running.stubs, bidirectional_spec()).name
    sequence = sequence_pb2.Sequence(values=[floats(1, 3, DEPTH)])
    request = messages.RunSequenceRequest(model=both_ways, inputs=sequence)
    traced.running.stubs.recurrent.RunSequence(request, timeout=RPC_TIMEOUT_S)
    spans = traced.after(f"{SERVICE}/RunSequence")
    assert one(spans, "cellserve.run").status.is_ok
    assert not children(spans, one(spans, "cellserve.run"))


def test_one_tick_of_many_callers_of_whom_some_are_traced(traced: TracedServer) -> None:
    model = lstm(traced)
    sampled = {1: "1" * 32, 5: "5" * 32}
    traces = [
        stream_pb2.PositionTrace(position=1, traceparent=f"00-{sampled[1]}-{SPAN_ID}-01", tracestate="vendor=value"),
        stream_pb2.PositionTrace(position=2, traceparent=UNSAMPLED),
        *(stream_pb2.PositionTrace(position=3, traceparent=text) for text in GARBAGE),
        stream_pb2.PositionTrace(position=5, traceparent=f"00-{sampled[5]}-{SPAN_ID}-01"),
        stream_pb2.PositionTrace(position=5, traceparent=SAMPLED),  # once is enough
        stream_pb2.PositionTrace(position=8, traceparent=SAMPLED),  # there is none
    ]
    with StreamClient(traced.running.stubs) as stream:
        stream.open([f"s{number}" for number in range(8)], model=model)
        stream.steps(range(8), step_inputs(8), traces=traces)
        assert len(stream.answers(8).counts) == 8
        spans = traced.after("cellserve.run", "cellserve.run")
    runs = {f"{context_of(run).trace_id:032x}": run for run in named(spans, "cellserve.run")}
    assert set(runs) == set(sampled.values())
    for position, trace_id in sampled.items():
        run = runs[trace_id]
        assert run.kind is SpanKind.SERVER
        assert run.parent is not None
        assert run.parent.span_id == int(SPAN_ID, 16)
        assert attributes_of(run)["cellserve.session.id"] == f"s{position}"
        assert names(children(spans, run)) == ["cellserve.queue", "cellserve.step", "cellserve.commit"]
    tick = one(spans, "cellserve.tick")
    require_linked(named(spans, "cellserve.step"), tick)
    assert (attributes_of(tick)["cellserve.runs"], attributes_of(tick)["cellserve.rows"]) == (8, 8)
    assert names(children(spans, tick))[-1] == "cellserve.encode"


def test_the_steps_of_one_message_in_several_ticks(loop_thread: LoopThread) -> None:
    with traced_server(loop_thread, replace(TEST_CONFIG, max_tick_rows=2)) as traced:
        model = lstm(traced)
        traces = [stream_pb2.PositionTrace(position=position, traceparent=SAMPLED) for position in range(6)]
        with StreamClient(traced.running.stubs) as stream:
            stream.open([f"s{number}" for number in range(6)], model=model)
            stream.steps(range(6), step_inputs(6), traces=traces)
            stream.answers(6)
            spans = traced.after(*["cellserve.run"] * 6)
    steps = {context_of(part).span_id: part for part in named(spans, "cellserve.step")}
    ticks = named(spans, "cellserve.tick")
    assert len(ticks) == 3
    for tick in ticks:
        require_linked([steps[id_] for id_ in links_of(tick)], tick)
        assert len(tick.links) == 2


def test_a_step_alone_in_its_message(loop_thread: LoopThread) -> None:
    traces = [stream_pb2.PositionTrace(position=0, traceparent=SAMPLED)]
    with traced_server(loop_thread, replace(TEST_CONFIG, at_once_us=10**9)) as traced:
        model = lstm(traced)
        with StreamClient(traced.running.stubs) as stream:
            stream.open(["alone"], model=model)
            for done in range(1, 4):  # The first by a tick, as a run of its own; the others at once.
                stream.steps([0], step_inputs(1), traces=traces)
                stream.answers(1)
                spans = traced.after(*["cellserve.run"] * done)
    runs, ticks = named(spans, "cellserve.run"), named(spans, "cellserve.tick")
    assert [attributes_of(tick).get("cellserve.at_once") for tick in ticks] == [None, True, True]
    assert names(children(spans, runs[0])) == ["cellserve.queue", "cellserve.step", "cellserve.commit"]
    for run, tick in zip(runs, ticks, strict=True):
        *_, computed, committed = children(spans, run)
        require_linked([computed], tick)
        assert committed.name == "cellserve.commit"


def test_the_wait_of_a_step_is_its_queue(loop_thread: LoopThread) -> None:
    with traced_server(loop_thread, replace(TEST_CONFIG, inline_tick_us=0, at_once_us=0)) as traced:
        model = lstm(traced, "first")
        create_session(traced.running, session_id="second", model=model)
        with GatedNetwork.over(traced.running, model) as gate:
            request = messages.StepRequest(name="sessions/first", inputs=[floats(DEPTH)])
            first = traced.running.stubs.recurrent.Step.future(request, timeout=RPC_TIMEOUT_S)
            gate.wait_entered()
            request = messages.StepRequest(name="sessions/second", inputs=[floats(DEPTH)])
            second = traced.running.stubs.recurrent.Step.future(request, timeout=RPC_TIMEOUT_S)
            traced.running.wait_until(lambda: traced.running.app.engine.queue.runs == 2)
            gate.let()
            gate.wait_entered()
            gate.let()
            first.result()
            second.result()
        spans = traced.after(f"{SERVICE}/Step", f"{SERVICE}/Step")
    ticks = named(spans, "cellserve.tick")
    _, waited = named(spans, "cellserve.queue")
    assert times_of(waited)[0] < times_of(ticks[0])[1] <= times_of(waited)[1] == times_of(ticks[1])[0]


@pytest.mark.parametrize("by_stream", [False, True])
def test_a_commit_to_a_store(loop_thread: LoopThread, tmp_path: Path, by_stream: bool) -> None:
    config = replace(TEST_CONFIG, store=f"sqlite:{tmp_path / 'sessions.db'}", durability="sync")
    with traced_server(loop_thread, config) as traced:
        model = lstm(traced)
        if by_stream:
            with StreamClient(traced.running.stubs) as stream:
                stream.open(["a", "b"], model=model)
                traces = [stream_pb2.PositionTrace(position=1, traceparent=SAMPLED)]
                stream.steps([0, 1], step_inputs(2), traces=traces)
                stream.answers(2)
                spans = traced.after("cellserve.run")
            assert "cellserve.commit" in names(children(spans, one(spans, "cellserve.tick")))
        else:
            step(traced, IN_TRACE)
            spans = traced.after(f"{SERVICE}/Step")
    parts = children(spans, one(spans, "cellserve.run"))
    assert names(parts) == ["cellserve.queue", "cellserve.step", "cellserve.commit"]
    assert attributes_of(parts[-1]) == {"cellserve.durability": "sync"}
    assert times_of(parts[-1])[0] >= times_of(parts[-2])[1]  # What is written was computed before.


def test_an_unsampled_caller_leaves_nothing(traced: TracedServer) -> None:
    lstm(traced)
    step(traced, [("traceparent", UNSAMPLED)])
    step(traced, IN_TRACE)
    spans = traced.after(f"{SERVICE}/Step")
    assert len(named(spans, f"{SERVICE}/Step")) == len(named(spans, "cellserve.tick")) == 1


@pytest.mark.parametrize("text", GARBAGE)
def test_what_is_no_trace_context_is_as_if_it_were_not_there(traced: TracedServer, text: str) -> None:
    lstm(traced)
    step(traced, [("traceparent", text), ("tracestate", "=,=")])
    rpc = one(traced.after(f"{SERVICE}/Step"), f"{SERVICE}/Step")
    assert rpc.parent is None
    assert f"{context_of(rpc).trace_id:032x}" != TRACE_ID


def test_errors_of_callers_and_of_the_server(traced: TracedServer) -> None:
    model = lstm(traced)
    error_of_call(lambda: step(traced, name="sessions/none"))
    rpc = one(traced.after(f"{SERVICE}/Step"), f"{SERVICE}/Step")
    assert attributes_of(rpc)["rpc.response.status_code"] == "NOT_FOUND"
    assert rpc.status.status_code is StatusCode.UNSET  # The caller's fault.
    traced.exported.clear()
    with StreamClient(traced.running.stubs) as stream:
        stream.open(["good", "ahead"], model=model)
        traces = [stream_pb2.PositionTrace(position=position, traceparent=SAMPLED) for position in range(2)]
        stream.steps([0, 1], step_inputs(2), expected_steps=[0, 7], traces=traces)
        stream.answers(2)
        stream.steps([0, 1], np.zeros((1, 1, DEPTH), np.float32), traces=traces)  # Too few bytes: nothing is stepped.
        assert stream.stepped().HasField("status")
        spans = traced.after(*["cellserve.run"] * 4)
    runs = named(spans, "cellserve.run")
    reasons = [attributes_of(run).get("error.type") for run in runs]
    assert sorted(map(str, reasons)) == ["None", "SHAPE_MISMATCH", "SHAPE_MISMATCH", "STEP_OUT_OF_ORDER"]
    assert all(run.status.is_ok is (reason is None) for run, reason in zip(runs, reasons, strict=True))
    assert all(run.status.description is None for run in runs)  # Errors quote what was sent.


def test_a_run_whose_caller_gives_up(loop_thread: LoopThread) -> None:
    with traced_server(loop_thread, replace(TEST_CONFIG, inline_tick_us=0, at_once_us=0)) as traced:
        model = lstm(traced)
        with GatedNetwork.over(traced.running, model) as gate:
            request = messages.StepRequest(name="sessions/s", inputs=[floats(DEPTH)])
            call = traced.running.stubs.recurrent.Step.future(request, timeout=RPC_TIMEOUT_S)
            gate.wait_entered()
            call.cancel()
            spans = traced.after(f"{SERVICE}/Step")
            gate.let()
    assert attributes_of(one(spans, f"{SERVICE}/Step"))["rpc.response.status_code"] == "CANCELLED"
    assert attributes_of(one(spans, "cellserve.run"))["error.type"] == "CANCELLED"


def test_steps_whose_stream_ends_while_they_wait_for_room(loop_thread: LoopThread) -> None:
    config = replace(TEST_CONFIG, inline_tick_us=0, at_once_us=0, max_queued_runs=4)
    with traced_server(loop_thread, config) as traced:
        model = lstm(traced)
        queue = traced.running.app.engine.queue
        with GatedNetwork.over(traced.running, model) as gate, StreamClient(traced.running.stubs) as stream:
            stream.open(["a", "b", "c"], model=model)
            stream.steps(range(3), step_inputs(3))
            gate.wait_entered()
            traces = [stream_pb2.PositionTrace(position=position, traceparent=SAMPLED) for position in range(2)]
            stream.steps(range(2), step_inputs(2), traces=traces)
            traced.running.wait_until(lambda: bool(queue._lines))
            stream.call.cancel()
            spans = traced.after("cellserve.run", "cellserve.run")
            gate.let()
    assert [attributes_of(run)["error.type"] for run in named(spans, "cellserve.run")] == ["CANCELLED", "CANCELLED"]


def test_a_server_has_no_more_than_a_bounded_number_of_spans_for_a_message(traced: TracedServer) -> None:
    model = lstm(traced)
    count = 100
    traces = [stream_pb2.PositionTrace(position=position, traceparent=SAMPLED) for position in range(count)]
    with StreamClient(traced.running.stubs) as stream:
        stream.open([f"s{number}" for number in range(count)], model=model)
        stream.steps(range(count), step_inputs(count), traces=traces)
        assert len(stream.answers(count).counts) == count
        spans = traced.after(*["cellserve.run"] * MAX_TRACED_POSITIONS)
    assert len(named(spans, "cellserve.run")) == MAX_TRACED_POSITIONS
