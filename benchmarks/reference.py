"""A bare grpc.aio server: what a step would cost if it were nothing but its messages.

It answers every message with the message itself, by one unary and one bidirectional method, as fast as plain grpc.aio
can: generic handlers, nothing encoded or decoded, no interceptor. Event loop and server options are CellServe's.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import grpc
import uvloop

from cellserve_server.app import server_options
from cellserve_server.config import ServerConfig

SERVICE = "cellserve.benchmarks.Echo"
UNARY = f"/{SERVICE}/Unary"
STREAM = f"/{SERVICE}/Stream"


async def echo(message: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """One message in, the same one out."""
    return message


async def echo_all(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    """Every message of a stream goes back as it comes."""
    async for message in messages:
        await context.write(message)


async def serve() -> None:
    """Listens on a free port of this machine alone, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=server_options(ServerConfig()))
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Unary": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.stream_stream_rpc_method_handler(echo_all),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"reference listening on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve())
