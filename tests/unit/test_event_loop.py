"""The server's event loop reads all that grpc has written to wake it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from functools import partial

import pytest

from cellserve_server.event_loop import EventLoop
from tests.unit.engine_bench import until

WAKES = 200


class Grpc:
    """Reads one byte each time, as grpc does."""

    def __init__(self, wakes: socket.socket) -> None:
        self.wakes = wakes
        self.woken = 0

    def _handle_events(self, *_: object) -> None:
        assert self.wakes.recv(1), "it would wait for a byte that is not there"
        self.woken += 1


@pytest.mark.parametrize("is_partial", [False, True], ids=["bare", "with its loop, as newer ones"])
def test_wakes_that_have_piled_up_are_one(is_partial: bool) -> None:
    async def main(reader: socket.socket, writer: socket.socket) -> None:
        grpc = Grpc(reader)

        def has_woken(times: int) -> bool:
            return grpc.woken >= times

        callback = grpc._handle_events
        loop = asyncio.get_running_loop()
        loop.add_reader(reader, partial(callback, loop) if is_partial else callback)
        for round_ in (1, 2):
            for _ in range(WAKES):
                writer.send(b"1")
            await until(partial(has_woken, round_))
            for _ in range(10):
                await asyncio.sleep(0)
            assert grpc.woken == round_
        loop.remove_reader(reader)

    reader, writer = socket.socketpair()
    with reader, writer, asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main(reader, writer))


def test_other_readers_are_left_alone() -> None:
    async def main(reader: socket.socket, writer: socket.socket) -> None:
        came: list[bytes] = []
        asyncio.get_running_loop().add_reader(reader, lambda: came.append(reader.recv(1)))
        writer.send(b"abc")
        await until(lambda: len(came) == 3)
        assert came == [b"a", b"b", b"c"]
        asyncio.get_running_loop().remove_reader(reader)

    reader, writer = socket.socketpair()
    with reader, writer, asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main(reader, writer))


PROGRAM = """
import asyncio
import grpc.aio
from cellserve_server import event_loop

read, seen = event_loop._read_all_but_one, []
event_loop._read_all_but_one = lambda *args: (seen.append(args), read(*args))

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
    await server.stop(0)
    print(bool(seen))

with asyncio.Runner(loop_factory=event_loop.EventLoop) as runner:
    runner.run(main())
"""


def test_grpcs_reader_is_known() -> None:
    """In a process of its own: grpc has one loop that it reads with for all of a process."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "True", "grpc reads its wakes by another name: look at event_loop.py"
