"""Where spans go: to a collector over OTLP, and nowhere when tracing is off."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from cellserve.cells import BasicLSTMCell
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_server.binding import StartError
from cellserve_server.config import ServerConfig
from cellserve_server.tracing.opening import open_tracing
from tests.integration.edges import DEPTH, UNITS, floats
from tests.integration.tracing.spans import SAMPLED, SERVICE, TRACE_ID
from tests.servers import RPC_TIMEOUT_S, define_model, server_process, stubs_for
from tests.tools import ROOT

OFF = """
import asyncio, sys
import numpy as np
import cellserve_server.cli
from cellserve_client import aio, rnn
from cellserve_server.app import App
from cellserve_server.config import ServerConfig

async def main():
    async with App(ServerConfig(port=0, http_port=-1, models="none", log_level="error")) as app:
        assert not app.engine.observers
        async with aio.connect(app.address) as server:
            session = await server.session(await server.cell(rnn.GRUCell(2), input_size=2))
            await session.step(np.zeros(2, np.float32))
            await session.step(np.zeros(2, np.float32))

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


class Collector:
    """A collector that keeps what it is sent.

    Attributes:
        requests: in the order in which they came.
        headers: of the last one.
        endpoint: for ``OTEL_EXPORTER_OTLP_ENDPOINT``.
    """

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: Mapping[str, str] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                collector.headers = dict(self.headers.items())
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="collector", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@contextmanager
def stepped(environment: Mapping[str, str], tracing: str = "otlp") -> Iterator[str]:
    """Runs a server that traces, has it step a session, and stops it. Gives what it wrote to its standard error."""
    with server_process(["--tracing", tracing], environment) as server:
        with stubs_for(server.address) as stubs:
            model = define_model(stubs, BasicLSTMCell(UNITS), DEPTH).name
            created = messages.CreateSessionRequest(session_id="s")
            created.session.model = model
            stubs.recurrent.CreateSession(created, timeout=RPC_TIMEOUT_S)
            for _ in range(20):
                step = messages.StepRequest(name="sessions/s", inputs=[floats(DEPTH)])
                metadata = (("traceparent", SAMPLED),)
                answer = stubs.recurrent.Step(step, timeout=RPC_TIMEOUT_S, metadata=metadata)
            assert answer.step_count == 20
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        yield server.errors()


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True])
def test_spans_reach_a_collector_before_the_server_has_ended(collector: Collector, named: bool) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=secret",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",  # Only the end of the server flushes.
    }
    if named:
        variables["OTEL_SERVICE_NAME"] = "speech"
    with stepped(variables) as errors:
        assert "secret" not in errors
    assert collector.headers["x-token"] == "secret"
    exported = [group for request in collector.requests for group in request.resource_spans]
    for group in exported:
        resource = {item.key: item.value.string_value for item in group.resource.attributes}
        assert resource["service.name"] == ("speech" if named else "cellserve")
        assert resource["service.version"]
    spans = [span for group in exported for scope in group.scope_spans for span in scope.spans]
    # The sampler leaves out what has no parent: the model and the session were made in no trace.
    assert {span.name for span in spans if span.name.startswith("cellserve.v1.")} == {f"{SERVICE}/Step"}
    ticks = {span.span_id: span for span in spans if span.name == "cellserve.tick"}
    steps = [span for span in spans if span.name == "cellserve.step"]
    assert len(steps) == len(ticks) == 20
    assert {link.span_id for step in steps for link in step.links} == set(ticks)
    assert all(step.trace_id.hex() == TRACE_ID for step in steps)


@pytest.mark.slow
def test_a_collector_that_is_not_there_loses_no_step_and_keeps_no_server_from_its_end() -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with stepped(
        variables
        | {"OTEL_BSP_SCHEDULE_DELAY": "1", "OTEL_BSP_MAX_QUEUE_SIZE": "10"}
        | {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
    ) as errors:
        assert "Traceback" not in errors


@pytest.mark.slow
def test_spans_on_standard_error() -> None:
    with stepped({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, "console") as errors:
        assert errors.count('"name": "cellserve.run"') == 20


def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OFF], check=True, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_tracing_without_opentelemetry_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(StartError, match=r"--tracing otlp: .*pip install 'cellserve-server\[tracing\]'"):
        open_tracing(ServerConfig(tracing="otlp"))


def test_a_protocol_that_the_server_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(StartError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf .*; got grpc"):
        open_tracing(ServerConfig(tracing="otlp"))
    # That of traces comes before that of everything.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    tracing = open_tracing(ServerConfig(tracing="otlp"))
    assert tracing is not None
    asyncio.run(tracing.close())


def test_limits_that_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(StartError, match="--tracing otlp: max_queue_size must be a positive integer"):
        open_tracing(ServerConfig(tracing="otlp"))


def test_the_setting_is_checked() -> None:
    with pytest.raises(ValueError, match="tracing: expected one of off, otlp, console; got 'on'"):
        ServerConfig(tracing="on")
