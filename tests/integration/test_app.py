"""The server as a whole: health, reflection, metrics, models that come and go, drain, and addresses."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cellserve.cells import BasicLSTMCell
from cellserve.errors import DrainingError, UnavailableError
from cellserve.specs import describe
from cellserve.v1 import model_service_pb2
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_server.app import SERVICES
from cellserve_server.binding import StartError, host_port
from cellserve_server.config import ServerConfig
from cellserve_server.models.model_files import write_model
from cellserve_server.models.weights import model_variables
from tests.gates import GatedNetwork
from tests.integration.edges import create_session, floats, get_session, step_request
from tests.servers import (
    RPC_TIMEOUT_S,
    TEST_CONFIG,
    LoopThread,
    RunningApp,
    define_model,
    error_of_call,
    running_app,
)

UNITS, DEPTH = 3, 2
Start = Callable[[ServerConfig], RunningApp]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _put_model(folder: Path) -> None:
    description = describe(BasicLSTMCell(UNITS), DEPTH, np.dtype(np.float32))
    weights = {variable.name: np.zeros(variable.shape, np.float32) for variable in model_variables(description)}
    write_model(folder, "Zeros.", description, weights)


def _health(channel: grpc.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=RPC_TIMEOUT_S)
    return int(answer.status)


def test_health_of_every_service(server: RunningApp) -> None:
    for service in ("", *SERVICES):
        assert _health(server.stubs.channel, service) == SERVING
    error = error_of_call(lambda: _health(server.stubs.channel, "nobody"))
    assert error.code is grpc.StatusCode.NOT_FOUND


def test_a_broken_model_does_not_keep_the_server_from_serving(start_server: Start, tmp_path: Path) -> None:
    _put_model(tmp_path / "good" / "1")
    (tmp_path / "bad" / "1").mkdir(parents=True)
    server = start_server(replace(TEST_CONFIG, models=str(tmp_path)))
    assert _health(server.stubs.channel) == SERVING
    listed = server.stubs.models.ListModels(model_service_pb2.ListModelsRequest(), timeout=RPC_TIMEOUT_S)
    assert [(model.name, bool(model.error)) for model in listed.models] == [
        ("models/bad/versions/1", True),
        ("models/good/versions/1", False),
    ]
    call = messages.CallRequest(model="models/bad", inputs=[floats(1, DEPTH)])
    error = error_of_call(lambda: server.stubs.recurrent.Call(call))
    assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", "MODEL_BROKEN")


def test_models_are_loaded_and_unloaded_while_it_serves(start_server: Start, tmp_path: Path) -> None:
    server = start_server(replace(TEST_CONFIG, models=str(tmp_path)))
    _put_model(tmp_path / "late" / "1")
    models = server.stubs.models
    loaded = models.LoadModel(model_service_pb2.LoadModelRequest(name="models/late"), timeout=RPC_TIMEOUT_S).model
    assert loaded.name == "models/late/versions/1"
    assert (loaded.limits.max_rows, loaded.limits.max_message_bytes) == (
        TEST_CONFIG.max_rows,
        TEST_CONFIG.max_message_bytes,
    )
    create_session(server, "a", "models/late")
    models.UnloadModel(model_service_pb2.UnloadModelRequest(name=loaded.name, force=True), timeout=RPC_TIMEOUT_S)
    error = error_of_call(lambda: get_session(server, "a"))
    assert "unloaded" in error.message
    gone = error_of_call(lambda: models.GetModel(model_service_pb2.GetModelRequest(name="models/late")))
    assert gone.reason == "MODEL_NOT_FOUND"


def test_reflection_knows_the_services_and_their_messages(server: RunningApp) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.stubs.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="cellserve.v1.StepRequest"),
    ]
    listed, file = stub.ServerReflectionInfo(iter(requests), timeout=RPC_TIMEOUT_S)
    assert {*SERVICES, "grpc.health.v1.Health"} <= {entry.name for entry in listed.list_services_response.service}
    assert b"StepRequest" in file.file_descriptor_response.file_descriptor_proto[0]


def test_the_metrics_page(start_server: Start) -> None:
    server = start_server(replace(TEST_CONFIG, http_port=0))
    name = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    create_session(server, "a", name)
    for _ in range(3):
        server.stubs.recurrent.Step(step_request("sessions/a", inputs=[floats(DEPTH)]), timeout=RPC_TIMEOUT_S)
    repeat = step_request("sessions/a", inputs=[floats(DEPTH)], expected_step=3, run_id=7)
    for _ in range(2):
        server.stubs.recurrent.Step(repeat, timeout=RPC_TIMEOUT_S)
    error_of_call(lambda: server.stubs.recurrent.Step(step_request("sessions/nobody")))
    server.stubs.recurrent.DeleteSession(messages.DeleteSessionRequest(name="sessions/a"), timeout=RPC_TIMEOUT_S)
    page = _metrics(server)
    step = 'grpc_method="Step",grpc_service="cellserve.v1.RecurrentService",grpc_type="unary"'
    expected = {
        'cellserve_steps_total{model="defined"}': 4,
        'cellserve_replays_total{model="defined"}': 1,
        'cellserve_ticks_total{model="defined"}': 5,
        'cellserve_runs_total{model="defined",outcome="ok"}': 5,
        'cellserve_tick_rows_sum{model="defined"}': 5,
        'cellserve_tick_seconds_count{model="defined"}': 5,
        'cellserve_tick_phase_seconds_count{model="defined",phase="cell"}': 5,
        'cellserve_run_seconds_count{kind="step",model="defined"}': 5,
        "cellserve_sessions": 0,
        "cellserve_state_bytes": 0,
        "cellserve_queue_runs": 0,
        "cellserve_queue_bytes": 0,
        "cellserve_streams": 0,
        "cellserve_rpcs": 0,
        "cellserve_serving": 1,
        "cellserve_draining": 0,
        'cellserve_limit{limit="max_sessions"}': TEST_CONFIG.max_sessions,
        'cellserve_store_info{durability="memory",store="memory"}': 1,
        'cellserve_refusals_total{reason="SESSION_NOT_FOUND"}': 1,
        'cellserve_refusals_total{reason="other"}': 0,
        "cellserve_sessions_created_total": 1,
        'cellserve_sessions_ended_total{reason="deleted"}': 1,
        'cellserve_models{state="ready"}': 1,
        'cellserve_models{state="broken"}': 0,
        f"grpc_server_started_total{{{step}}}": 6,
        f'grpc_server_handled_total{{grpc_code="OK",{step}}}': 5,
        f'grpc_server_handled_total{{grpc_code="NotFound",{step}}}': 1,
        f"grpc_server_msg_received_total{{{step}}}": 6,
        f"grpc_server_msg_sent_total{{{step}}}": 5,
        f"grpc_server_handling_seconds_count{{{step}}}": 6,
    }
    assert {sample: page.get(sample) for sample in expected} == expected
    assert any(sample.startswith("cellserve_build_info{") and 'version="0.1.0"' in sample for sample in page)


def _metrics(server: RunningApp) -> dict[str, float]:
    url = f"http://127.0.0.1:{server.app.http_port}/metrics"
    with urllib.request.urlopen(url, timeout=RPC_TIMEOUT_S) as answer:
        text = answer.read().decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {sample: float(value) for sample, _, value in lines}


def test_a_bug_is_internal_and_shows_nothing_of_the_inside(
    server: RunningApp, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret inside")

    server.loop.call(lambda: setattr(server.app.operations.sessions, "list_after", fail))
    error = error_of_call(lambda: server.stubs.recurrent.ListSessions(messages.ListSessionsRequest()))
    assert (error.code.name, error.reason) == ("INTERNAL", "INTERNAL")
    assert "secret" not in error.message
    assert error.metadata["incident"] in error.message
    logged = capsys.readouterr().out
    assert "internal_error" in logged
    assert "the secret inside" in logged
    assert error.metadata["incident"] in logged


def test_a_drain_finishes_what_is_under_way_and_takes_nothing_new(start_server: Start) -> None:
    server = start_server(replace(TEST_CONFIG, inline_tick_us=0))
    name = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    create_session(server, "a", name)
    step = server.stubs.recurrent.Step
    with GatedNetwork.over(server, name) as gate:
        busy = step.future(step_request("sessions/a", inputs=[floats(DEPTH)]), timeout=RPC_TIMEOUT_S)
        gate.wait_entered()
        drained = server.loop.begin(server.app.drain())
        server.wait_until(lambda: server.app.engine.draining)
        assert _health(server.stubs.channel) == NOT_SERVING
        shown = server.app.metrics.registry.get_sample_value
        assert (shown("cellserve_serving"), shown("cellserve_draining")) == (0, 1)
        refused = error_of_call(lambda: step(step_request("sessions/a", inputs=[floats(DEPTH)])))
        assert isinstance(refused, DrainingError)
        assert refused.retry_after_s is not None
        assert isinstance(error_of_call(lambda: get_session(server, "a")), DrainingError)
        assert not drained.done()
        gate.open()
        assert busy.result().step_count == 1
        drained.result(RPC_TIMEOUT_S)


def test_nothing_is_served_while_models_are_loading(loop_thread: LoopThread, tmp_path: Path) -> None:
    with running_app(loop_thread, replace(TEST_CONFIG, models=str(tmp_path))) as server:
        server.loop.call(lambda: setattr(server.app, "_loading", True))
        error = error_of_call(lambda: server.stubs.models.ListModels(model_service_pb2.ListModelsRequest()))
        assert isinstance(error, UnavailableError)
        assert "loading" in error.message
        assert error.retry_after_s is not None


@pytest.mark.parametrize("setting", ["host", "http_host"])
def test_another_address_than_loopback_needs_insecure(loop_thread: LoopThread, setting: str) -> None:
    config = replace(TEST_CONFIG, http_port=0, **{setting: "0.0.0.0"})  # type: ignore[arg-type]
    flag = "--" + setting.replace("_", "-")
    with pytest.raises(StartError, match=f"^{flag}: '0.0.0.0' .* --insecure"), running_app(loop_thread, config):
        pass
    with running_app(loop_thread, replace(config, insecure=True)) as server:
        assert server.app.port


def test_every_address_that_only_this_machine_reaches_will_do(loop_thread: LoopThread) -> None:
    for host in ("localhost", "127.0.0.2"):
        with running_app(loop_thread, replace(TEST_CONFIG, host=host)) as server:
            assert server.address == host_port(host, server.app.port)
    assert host_port("::1", 5) == "[::1]:5"


def taken_port() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_a_port_in_use(loop_thread: LoopThread) -> None:
    with taken_port() as taken:
        port = taken.getsockname()[1]
        words = f"^--port: cannot listen on 127.0.0.1:{port}: Address already in use"
        with pytest.raises(StartError, match=words), running_app(loop_thread, replace(TEST_CONFIG, port=port)):
            pass


def test_a_second_server_on_the_same_ports_names_that_of_the_rpcs(loop_thread: LoopThread) -> None:
    with running_app(loop_thread, replace(TEST_CONFIG, http_port=0)) as first:
        config = replace(TEST_CONFIG, port=first.app.port, http_port=first.app.http_port or 0)
        with pytest.raises(StartError, match=f"^--port: .*:{first.app.port}: "), running_app(loop_thread, config):
            pass


def test_a_port_of_the_metrics_page_in_use(loop_thread: LoopThread) -> None:
    with taken_port() as taken, taken_port() as free:
        port, free_port = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        words = f"^--http-port: cannot listen on 127.0.0.1:{port}: Address already in use"
        config = replace(TEST_CONFIG, port=free_port, http_port=port)
        with pytest.raises(StartError, match=words), running_app(loop_thread, config):
            pass
        # With any port for the server, any will do for the page.
        with running_app(loop_thread, replace(config, port=0)) as server:
            assert server.app.http_port not in (None, port)
