"""The messages of DefineModel -> a model's description and where its weights come from."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, AsyncIterator
from typing import NamedTuple

import numpy as np

from cellserve.errors import DeadlineExceededError, DtypeMismatchError, FieldInvalidError, ShapeMismatchError, shown
from cellserve.specs import ModelDescription, model_from_proto
from cellserve.tensors import MAX_DIMENSIONS, Array, dtype_of, shape_text
from cellserve.v1 import model_service_pb2 as messages
from cellserve_server.config import ServerConfig
from cellserve_server.edge.fields import seconds_of
from cellserve_server.models.weights import match_names, model_variables


class Header(NamedTuple):
    """What the first message says.

    Attributes:
        description: the model.
        seed: what the weights are drawn from; None: they follow.
        ttl_s: how long the model stays unused; None: the server's default.
        shapes: of each variable that follows, under the client's name.
    """

    description: ModelDescription
    seed: int | None
    ttl_s: float | None
    shapes: dict[str, tuple[int, ...]]


async def steadily(
    requests: AsyncIterator[messages.DefineModelRequest], idle_timeout_s: float
) -> AsyncIterator[messages.DefineModelRequest]:
    """Gives the messages as they come: who sends none for long must not hold its share of a quota.

    Raises:
        DeadlineExceededError: none came for ``idle_timeout_s`` seconds.
    """
    while True:
        try:
            async with asyncio.timeout(idle_timeout_s):
                request = await anext(requests, None)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"chunk: expected the next message within {idle_timeout_s:g} s (define_idle_timeout_s); none came"
            ) from error
        if request is None:
            return
        yield request


def read_header(message: messages.DefineModelRequest | None, config: ServerConfig) -> Header:
    """Checks the first message of DefineModel; None: the client sent none.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    kind = None if message is None else message.WhichOneof("kind")
    if message is None or kind != "header":
        raise FieldInvalidError(f"header: expected it in the first message; got {kind or 'nothing'}")
    header = message.header
    ttl_s = seconds_of(header.ttl, config.max_ttl_s, "header.ttl") if header.HasField("ttl") else None
    description = model_from_proto(header.spec)
    match header.WhichOneof("weights"):
        case "seed":
            return Header(description, header.seed, ttl_s, {})
        case "listed":
            return Header(description, None, ttl_s, _listed_shapes(description, header.listed))
        case _:
            raise FieldInvalidError("header.weights: expected a seed, or the list of the variables that follow")


def _listed_shapes(description: ModelDescription, listed: messages.WeightList) -> dict[str, tuple[int, ...]]:
    """Compares the list with the model now: what does not fit is refused before its bytes are sent."""
    field = "header.listed.variables"
    variables = model_variables(description)
    name_of = match_names(variables, [spec.name for spec in listed.variables], field)
    given = {spec.name: spec for spec in listed.variables}
    for variable in variables:
        spec = given[name_of[variable.name]]
        if len(spec.shape) != len(variable.shape) or tuple(spec.shape) != variable.shape:
            raise ShapeMismatchError(
                f"{field}[{spec.name}]: expected shape {shape_text(variable.shape)}; "
                f"got {shape_text(spec.shape[: MAX_DIMENSIONS + 1])}",
                metadata={"field": field, "variable": variable.name},
            )
        dtype = dtype_of(spec.data_type, f"{field}[{spec.name}].data_type")
        if dtype.name != description.dtype.name:
            raise DtypeMismatchError(
                f"{field}[{spec.name}]: expected {description.dtype.name}, the model's; got {dtype.name}",
                metadata={"field": field, "variable": variable.name},
            )
    return {name: tuple(spec.shape) for name, spec in given.items()}


async def receive_weights(
    header: Header, requests: AsyncIterable[messages.DefineModelRequest]
) -> dict[str, Array] | None:
    """Receives the variables that follow the header; None when the header gave a seed.

    Returns:
        An array for each listed variable under the client's name, of the listed shape.

    Raises:
        FieldInvalidError: a message that is no chunk, an unknown variable, or an empty chunk.
        ShapeMismatchError: more or fewer bytes of a variable than its shape says.
    """
    itemsize = header.description.dtype.itemsize
    wanted = {name: math.prod(shape) * itemsize for name, shape in header.shapes.items()}
    received = {name: bytearray() for name in wanted}
    async for request in requests:
        if request.WhichOneof("kind") != "chunk":
            raise FieldInvalidError(f"chunk: expected chunks after the header; got {request.WhichOneof('kind')}")
        chunk = request.chunk
        if header.seed is not None:
            raise FieldInvalidError("chunk: expected none, the weights are drawn from header.seed")
        if chunk.variable not in wanted:
            raise FieldInvalidError(
                f"chunk.variable: expected one of header.listed.variables; got {shown(chunk.variable)}"
            )
        if not chunk.data:
            raise FieldInvalidError(f"chunk.data: expected at least 1 byte of {chunk.variable}; got 0")
        data = received[chunk.variable]
        if len(data) + len(chunk.data) > wanted[chunk.variable]:
            raise _wrong_bytes(chunk.variable, wanted[chunk.variable], len(data) + len(chunk.data))
        data += chunk.data
    if header.seed is not None:
        return None
    for name, data in received.items():
        if len(data) != wanted[name]:
            raise _wrong_bytes(name, wanted[name], len(data))
    dtype = header.description.dtype.newbyteorder("<")
    return {name: np.frombuffer(received[name], dtype).reshape(shape) for name, shape in header.shapes.items()}


def _wrong_bytes(variable: str, expected: int, actual: int) -> ShapeMismatchError:
    return ShapeMismatchError(
        f"chunk.data: expected {expected} bytes of {variable} in all; got {actual}",
        metadata={"variable": variable, "expected_bytes": str(expected), "actual_bytes": str(actual)},
    )
