"""Defining models over the wire with given weights, by the generated stubs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cellserve.specs import ModelDescription, model_to_proto
from cellserve.tensors import Array, tensor_spec_of
from cellserve.v1 import model_pb2
from cellserve.v1.model_service_pb2 import (
    DefineModelHeader,
    DefineModelRequest,
    DefineModelResponse,
    WeightChunk,
    WeightList,
)

CHUNK_BYTES = 100_000
TIMEOUT_S = 30


def define_with_weights(stub: Any, description: ModelDescription, weights: Mapping[str, Array]) -> model_pb2.Model:
    """Defines a model of these weights; ``stub`` is a ``ModelServiceStub``."""
    answer: DefineModelResponse = stub.DefineModel(_definition(description, weights), timeout=TIMEOUT_S)
    return answer.model


def _definition(description: ModelDescription, weights: Mapping[str, Array]) -> Iterator[DefineModelRequest]:
    variables = [tensor_spec_of(name, array) for name, array in weights.items()]
    listed = WeightList(variables=variables)
    yield DefineModelRequest(header=DefineModelHeader(spec=model_to_proto(description), listed=listed))
    for name, array in weights.items():
        data = array.tobytes()
        for start in range(0, len(data), CHUNK_BYTES):
            yield DefineModelRequest(chunk=WeightChunk(variable=name, data=data[start : start + CHUNK_BYTES]))
