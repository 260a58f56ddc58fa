"""The event loop of a server: uvloop's, with a mend for how grpc wakes it.

grpc.aio has a thread that takes what grpc's core has completed, puts it into a queue, and writes a byte to a socket for
each. The loop reads that socket, but one byte at a time, though it empties the queue each time. When more than one
thing is completed in a turn of the loop the bytes pile up until the socket is full, after some 280; then the thread
waits with each until a byte is read, and whatever comes after, of whomever, is taken at the pace of one a turn.
So the bytes that have piled up are read here before grpc looks into its queue. Which it does for the last one.
"""

from __future__ import annotations

import array
import fcntl
import socket
import termios
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVarTuple, Unpack

import uvloop

Args = TypeVarTuple("Args")

GRPCS_READER = "_handle_events"


class EventLoop(uvloop.Loop):
    """uvloop's, that reads all that grpc has written to wake it."""

    def add_reader(self, fd: Any, callback: Callable[[Unpack[Args]], Any], *args: *Args) -> None:
        """As the base class does."""
        inner = callback.func if isinstance(callback, partial) else callback
        if isinstance(fd, socket.socket) and getattr(inner, "__name__", "") == GRPCS_READER:
            super().add_reader(fd, _read_all_but_one, fd, partial(callback, *args))
        else:
            super().add_reader(fd, callback, *args)


def _read_all_but_one(wakes: socket.socket, callback: Callable[[], object]) -> None:
    waiting = array.array("i", [0])
    fcntl.ioctl(wakes, termios.FIONREAD, waiting)
    if waiting[0] > 1:
        wakes.recv(waiting[0] - 1)
    callback()
