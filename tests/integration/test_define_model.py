"""DefineModel: weights from a seed or in chunks, and what does not fit."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from cellserve.cells import BasicRNNCell
from cellserve.specs import describe, model_to_proto
from cellserve.tensors import Array, data_type_of, tensor_from_array
from cellserve.v1 import model_pb2, recurrent_service_pb2, session_pb2, tensor_pb2
from cellserve.v1 import model_service_pb2 as messages
from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, define_model, error_of_call

UNITS, DEPTH = 3, 2
CELL = BasicRNNCell(UNITS)
SPEC = model_to_proto(describe(CELL, DEPTH, np.dtype(np.float32)))
KERNEL, BIAS = "basic_rnn_cell/kernel", "basic_rnn_cell/bias"
WEIGHTS = {
    KERNEL: np.linspace(-1, 1, (DEPTH + UNITS) * UNITS, dtype=np.float32).reshape(DEPTH + UNITS, UNITS),
    BIAS: np.array([0.1, 0.2, 0.3], np.float32),
}
# With it, a model counts.
SIZE = sum(array.nbytes for array in WEIGHTS.values()) + SPEC.ByteSize()
LONG_LABEL = model_pb2.ModelSpec.FromString(SPEC.SerializeToString())
LONG_LABEL.outputs[0].labels.extend(["a", "b" * 128, "c" * 129])


def _header(
    weights: Mapping[str, Array] | None = None, spec: model_pb2.ModelSpec = SPEC, **fields: Any
) -> messages.DefineModelRequest:
    listed = None
    if weights is not None:
        variables = [
            tensor_pb2.TensorSpec(name=name, data_type=data_type_of(array.dtype, name), shape=array.shape)
            for name, array in weights.items()
        ]
        listed = messages.WeightList(variables=variables)
    return messages.DefineModelRequest(header=messages.DefineModelHeader(spec=spec, listed=listed, **fields))


def _chunk(variable: str, data: bytes) -> messages.DefineModelRequest:
    return messages.DefineModelRequest(chunk=messages.WeightChunk(variable=variable, data=data))


def _chunks(weights: Mapping[str, Array], size: int) -> Iterator[messages.DefineModelRequest]:
    """The variables' bytes in pieces, the variables interleaved."""
    pieces = {
        name: [array.tobytes()[start : start + size] for start in range(0, array.nbytes, size)]
        for name, array in weights.items()
    }
    while any(pieces.values()):
        for name, left in pieces.items():
            if left:
                yield _chunk(name, left.pop(0))


def _define(server: RunningApp, requests: Sequence[messages.DefineModelRequest]) -> model_pb2.Model:
    answer: messages.DefineModelResponse = server.stubs.models.DefineModel(iter(requests), timeout=RPC_TIMEOUT_S)
    return answer.model


@pytest.mark.parametrize("size", [7, 4, 1000])
@pytest.mark.parametrize("scope", ["", "rnn/"])
def test_weights_in_chunks(server: RunningApp, size: int, scope: str) -> None:
    weights = {scope + name: array for name, array in WEIGHTS.items()}
    model = _define(server, [_header(weights), *_chunks(weights, size)])
    assert (model.state, model.defined) == (model_pb2.MODEL_STATE_READY, True)
    assert model.parameter_count == sum(array.size for array in WEIGHTS.values())
    inputs = np.array([[0.5, -0.25]], np.float32)
    call = recurrent_service_pb2.CallRequest(model=model.name, inputs=[tensor_from_array(inputs)])
    answer = server.stubs.recurrent.Call(call, timeout=RPC_TIMEOUT_S)
    expected = np.tanh(inputs @ WEIGHTS[KERNEL][:DEPTH] + WEIGHTS[BIAS])
    np.testing.assert_allclose(np.frombuffer(answer.outputs[0].data, np.float32), expected[0], atol=1e-6)


def test_the_same_again_is_the_same_model(server: RunningApp, clock: ManualClock) -> None:
    first = define_model(server.stubs, CELL, DEPTH, seed=3)
    clock.advance(10)
    again = define_model(server.stubs, CELL, DEPTH, seed=3)
    other = define_model(server.stubs, CELL, DEPTH, seed=4)
    assert first.name == again.name != other.name
    assert again.expire_time.ToSeconds() == first.expire_time.ToSeconds() + 10
    clock.advance(TEST_CONFIG.defined_model_ttl_s + 1)
    get = messages.GetModelRequest(name=first.name)
    assert error_of_call(lambda: server.stubs.models.GetModel(get)).reason == "MODEL_NOT_FOUND"


FIELD, SHAPE, DTYPE = "FIELD_INVALID", "SHAPE_MISMATCH", "DTYPE_MISMATCH"
GOOD = list(_chunks(WEIGHTS, 16))
BAD = {
    "nothing": ([], FIELD, "header"),
    "no header": (GOOD, FIELD, "header"),
    "an empty message": ([messages.DefineModelRequest()], FIELD, "header"),
    "two headers": ([_header(WEIGHTS), _header(WEIGHTS)], FIELD, "chunk"),
    "no weights chosen": ([_header()], FIELD, "seed"),
    "chunks after a seed": ([_header(seed=1), *GOOD], FIELD, "seed"),
    "truncated": ([_header(WEIGHTS), *GOOD[:-1]], SHAPE, "bytes of basic_rnn_cell/kernel in all"),
    "surplus": (
        [_header(WEIGHTS), *GOOD, _chunk(BIAS, bytes(4))],
        SHAPE,
        "12 bytes of basic_rnn_cell/bias in all; got 16",
    ),
    "an empty chunk": ([_header(WEIGHTS), _chunk(BIAS, b"")], FIELD, "chunk.data"),
    "an unknown variable": (
        [_header(WEIGHTS), _chunk("basic_rnn_cell/gamma", bytes(4))],
        FIELD,
        "basic_rnn_cell/gamma",
    ),
    "a missing variable": ([_header({KERNEL: WEIGHTS[KERNEL]})], FIELD, BIAS),
    "another variable": ([_header({**WEIGHTS, "other": WEIGHTS[BIAS]})], FIELD, "other"),
    "a wrong shape": ([_header({**WEIGHTS, BIAS: np.zeros(4, np.float32)})], SHAPE, "expected shape [3]; got [4]"),
    "a wrong dtype": ([_header({**WEIGHTS, BIAS: np.zeros(3)})], DTYPE, "float64"),
    "not finite": (
        [_header(WEIGHTS), *_chunks({**WEIGHTS, BIAS: np.full(3, np.nan, np.float32)}, 64)],
        FIELD,
        "finite",
    ),
    "a ttl of nothing": ([_header(seed=1, ttl=Duration())], FIELD, "header.ttl"),
    "a long label": (
        [_header(seed=1, spec=LONG_LABEL)],
        FIELD,
        "outputs[0].labels[2]: expected at most 128 characters; got 129",
    ),
    "no layers": ([_header(seed=1, spec=model_pb2.ModelSpec(inputs=SPEC.inputs))], FIELD, "layers"),
    "no spec": ([messages.DefineModelRequest(header=messages.DefineModelHeader(seed=1))], FIELD, "inputs"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit(server: RunningApp, case: str) -> None:
    requests, reason, word = BAD[case]
    error = error_of_call(lambda: _define(server, requests))
    assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", reason), error.message
    assert word in error.message, error.message
    assert not server.stubs.models.ListModels(messages.ListModelsRequest(), timeout=RPC_TIMEOUT_S).models


def test_a_variable_twice(server: RunningApp) -> None:
    header = _header(WEIGHTS)
    header.header.listed.variables.append(header.header.listed.variables[0])
    error = error_of_call(lambda: _define(server, [header]))
    assert (error.reason, "expected each variable once" in error.message) == (FIELD, True)


def test_quotas(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    small = start_server(replace(TEST_CONFIG, max_defined_model_bytes=SIZE - 1))
    error = error_of_call(lambda: _define(small, [_header(WEIGHTS), *GOOD]))
    assert (error.reason, error.metadata["quota"]) == ("QUOTA_EXCEEDED", "max_defined_model_bytes")
    few = start_server(replace(TEST_CONFIG, max_defined_models=1))
    define_model(few.stubs, CELL, DEPTH, seed=1)
    error = error_of_call(lambda: define_model(few.stubs, CELL, DEPTH, seed=2))
    assert (error.reason, error.metadata["quota"]) == ("QUOTA_EXCEEDED", "max_defined_models")


def test_what_is_put_into_the_store_is_bounded_though_it_has_left_memory(
    start_server: Callable[[ServerConfig], RunningApp], clock: ManualClock, tmp_path: Path
) -> None:
    size = sum(array.nbytes for array in WEIGHTS.values())
    config = replace(
        TEST_CONFIG, store=f"sqlite:{tmp_path / 'store.db'}", max_defined_models=1, max_stored_model_bytes=3 * size
    )
    server = start_server(config)

    def define_another(number: int) -> model_pb2.Model:
        weights = {**WEIGHTS, BIAS: WEIGHTS[BIAS] + np.float32(number)}
        model = _define(server, [_header(weights, ttl=Duration(seconds=1)), *_chunks(weights, size)])
        clock.advance(2)
        return model

    define_another(0)
    error = error_of_call(lambda: [define_another(number) for number in range(1, 4)])
    assert (error.reason, error.metadata["quota"]) == ("QUOTA_EXCEEDED", "max_stored_model_bytes")
    assert error.retry_after_s is not None
    assert define_another(0).defined, "the store has it already"
    clock.advance(2 * config.max_ttl_s)
    stored = server.app.keeping.models
    assert stored is not None
    server.loop.run(stored.renew())
    assert define_another(4).defined


def test_a_variable_with_a_long_name(server: RunningApp) -> None:
    long = "x" * 20_000
    error = error_of_call(lambda: _define(server, [_header({long: WEIGHTS[BIAS], KERNEL: WEIGHTS[KERNEL]})]))
    assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", FIELD)
    wrong = {KERNEL: WEIGHTS[KERNEL], f"{long}/{BIAS}": WEIGHTS[BIAS]}
    error = error_of_call(lambda: _define(server, [_header(wrong)]))
    assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", FIELD)
    assert error.message.startswith("header.listed.variables: expected names of at most ")


def test_an_upload_that_stalls_gives_its_quota_back(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    # Long enough for the good upload at the end, which comes without a pause.
    server = start_server(replace(TEST_CONFIG, max_defined_model_bytes=SIZE, define_idle_timeout_s=0.5))
    over = threading.Event()

    def stalled() -> Iterator[messages.DefineModelRequest]:
        yield _header(WEIGHTS)
        yield GOOD[0]
        over.wait(RPC_TIMEOUT_S)

    try:
        error = error_of_call(lambda: server.stubs.models.DefineModel(stalled(), timeout=RPC_TIMEOUT_S))
    finally:
        over.set()
    assert error.code.name == "DEADLINE_EXCEEDED"
    assert error.message == "chunk: expected the next message within 0.5 s (define_idle_timeout_s); none came"
    assert _define(server, [_header(WEIGHTS), *GOOD]).defined


def test_a_definition_that_is_not_finished_leaves_no_trace(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    server = start_server(replace(TEST_CONFIG, max_defined_model_bytes=SIZE))
    for _ in range(3):  # Were its bytes still counted, the second would not be let in.
        error_of_call(lambda: _define(server, [_header(WEIGHTS), *GOOD[:1]]))
    assert _define(server, [_header(WEIGHTS), *GOOD]).defined


@pytest.mark.parametrize("is_forced", [False, True])
def test_what_is_unloaded_leaves_memory_though_sessions_of_it_would_have_lived_for_long(
    server: RunningApp, is_forced: bool
) -> None:
    name = define_model(server.stubs, CELL, DEPTH).name
    session = session_pb2.Session(model=name)
    server.stubs.recurrent.CreateSession(recurrent_service_pb2.CreateSessionRequest(session_id="long", session=session))
    network = server.loop.call(lambda: weakref.ref(server.app.models.resolve("default", name).network))
    assert network() is not None
    if not is_forced:
        server.stubs.recurrent.DeleteSession(recurrent_service_pb2.DeleteSessionRequest(name="sessions/long"))
    server.stubs.models.UnloadModel(messages.UnloadModelRequest(name=name, force=is_forced))

    def is_gone() -> bool:
        gc.collect()
        return network() is None

    server.wait_until(is_gone)
