"""Free TCP ports of this machine, and what answers on one."""

from __future__ import annotations

import random
import socket

from deploy.fleet.errors import FleetError

HOST = "127.0.0.1"
# Below those that the system gives to outgoing connections: the port of a replica that is away must not become one.
FIRST_PORT, LAST_PORT = 20_000, 32_000
TRIES = 1000


def free_ports(count: int) -> list[int]:
    """So many ports on which nobody listens; they are picked at random, so that several fleets do not meet.

    Raises:
        FleetError: there are not as many.
    """
    found: list[int] = []
    for _ in range(TRIES):
        if len(found) == count:
            return found
        port = random.randint(FIRST_PORT, LAST_PORT)
        if port not in found and is_free(port):
            found.append(port)
    raise FleetError(f"there are no {count} free ports between {FIRST_PORT} and {LAST_PORT} on {HOST}")


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # As servers do: connections that have ended a moment ago do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0):
            return True
    except OSError:
        return False
