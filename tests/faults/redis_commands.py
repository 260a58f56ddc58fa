"""Commands to a Redis of the test's own, beside those of the servers."""

from __future__ import annotations

from typing import Any

import redis


def command(port: int, *arguments: str | int) -> Any:
    """Gives a Redis of this machine a command, on a connection of its own, and returns the answer."""
    with redis.Redis(port=port) as client:
        return client.execute_command(*arguments)
