"""Connections to one Redis server, used on the event loop.

Measured with 128 states of 1,100 bytes in one script, this process's CPU for each: 2.3 us so, 5 us with the driver's
own asyncio commands, which are packed in Python. The driver's blocking client, in a thread, takes as little by itself;
but beside a busy event loop the thread waits for the interpreter's lock at every turn, and a server that wrote its
ticks so did a third of the steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

# Exchanges that are under way at once; each has a connection. More wait.
CONNECTIONS = 4


class RedisPool:
    """Sends commands, many at once, and gives their answers.

    Args:
        redis: the driver, ``redis.asyncio`` among it.
        pack: makes a command's bytes.
        url: of the server, with the driver's options.
        timeout_s: how long an exchange may take, connecting and waiting for a connection among it.

    Raises:
        ValueError, TypeError: the URL, or an option in it, is not understood.
    """

    def __init__(self, redis: Any, pack: Callable[[tuple[Any, ...]], bytes], url: str, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._pack = pack
        self._free = asyncio.Semaphore(CONNECTIONS)
        # Who repeats is the caller: here it would take longer than it may.
        retry = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
        self._pool = redis.asyncio.ConnectionPool.from_url(
            url, retry=retry, socket_timeout=None, socket_connect_timeout=timeout_s, protocol=2
        )

    async def exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Sends commands together; their answers, in order, errors of Redis's among them.

        Raises:
            redis.RedisError, OSError, TimeoutError: the connection failed; what was done is unknown.
        """
        packed = [self._pack(_encoded(command)) for command in commands]
        async with asyncio.timeout(self._timeout_s), self._free:
            connection = await self._pool.get_connection()
            try:
                await connection.send_packed_command(packed, check_health=False)
                return [await self._answer(connection) for _ in commands]
            except BaseException:
                # Answers may still come that nobody waits for.
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)

    async def _answer(self, connection: Any) -> Any:
        try:
            return await connection.read_response()
        except self._redis.ResponseError as error:
            return error

    async def close(self) -> None:
        """Closes the connections."""
        await self._pool.disconnect()


def _encoded(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """As hiredis packs it: it writes whole numbers and texts itself, fractions are texts here."""
    return tuple(repr(part) if isinstance(part, float) else part for part in command)
