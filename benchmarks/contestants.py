"""Who is measured: CellServe through its client, and the bare server of ``reference.py`` over a bare channel."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks import processes
from benchmarks.bursts import Call
from benchmarks.processes import ServerProcess
from benchmarks.reference import STREAM, UNARY
from cellserve.cells import CellDescription
from cellserve.specs import ModelDescription, describe
from cellserve.tensors import Array
from cellserve_client import aio, rnn
from cellserve_client.address import parse_address
from cellserve_client.channels import channel_options
from cellserve_client.transport import DEFAULT_MAX_MESSAGE_BYTES
from cellserve_server.cells import Network, build_network, draw_weights

UNITS = 128
SEED = 0
CELL = rnn.BasicLSTMCell(UNITS)
# As many bytes as one step of that cell takes, and as many as it gives.
ECHOED = bytes(UNITS * np.dtype(np.float32).itemsize)


@dataclass(frozen=True)
class Product:
    """CellServe, with an LSTM of 128 units on inputs of 128.

    Attributes:
        process: its server.
        server: the connection to it.
        cell: the LSTM.
    """

    process: ServerProcess
    server: aio.Server
    cell: aio.Cell


@dataclass(frozen=True)
class Reference:
    """The bare server, and its two methods."""

    process: ServerProcess
    unary: Call
    stream: Callable[[], grpc.aio.StreamStreamCall[bytes, bytes]]


@contextlib.asynccontextmanager
async def product(*flags: str, package: Path | None = None) -> AsyncIterator[Product]:
    """Starts CellServe with these flags, or another copy of it, and connects to it."""
    with processes.cellserve(*flags, package=package) as process:
        async with aio.connect(process.address) as server:
            yield Product(process, server, await lstm(server))


@contextlib.asynccontextmanager
async def reference() -> AsyncIterator[Reference]:
    """Starts the bare server, and connects to it with the options of CellServe's client."""
    with processes.reference() as process:
        async with bare_channel(process.address) as channel:
            yield Reference(process, channel.unary_unary(UNARY), channel.stream_stream(STREAM))


def bare_channel(address: str) -> grpc.aio.Channel:
    """A channel with the options of CellServe's client."""
    return grpc.aio.insecure_channel(
        address, options=channel_options(parse_address(address), DEFAULT_MAX_MESSAGE_BYTES)
    )


async def lstm(server: aio.Server) -> aio.Cell:
    """The LSTM of 128 units on inputs of 128 on this server."""
    return await server.cell(CELL, seed=SEED, input_size=UNITS)


def description_of(cell: CellDescription, input_size: int) -> ModelDescription:
    """The model that the server makes of a cell, in float32."""
    return describe(cell, input_size, np.dtype(np.float32))


def network_of(cell: CellDescription, input_size: int) -> Network:
    """The arithmetic of the cell that the server draws from the seed, in this process."""
    description = description_of(cell, input_size)
    return build_network(description, draw_weights(description, SEED))


def normal(*shape: int) -> Array:
    """Standard normal float32 numbers, the same each time."""
    drawn: Array = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    return drawn


def plain(function: Callable[[Any], object]) -> Callable[[Any], Awaitable[None]]:
    """A function of this process as the bursts call it."""

    async def call(argument: Any) -> None:
        function(argument)

    return call
