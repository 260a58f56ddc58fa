"""A name whose addresses are replicas: resolved in a thread, again now and then, and after failures."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from cellserve.errors import UnavailableError
from cellserve_client.address import Address

# How often a name is resolved while all is well, and how soon again after a failure, in seconds.
USUAL_S = 30.0
SOON_S = 1.0

# Gives the addresses of a host name; raises OSError where there are none.
Resolve: TypeAlias = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """Every address of a host name, each once, IPv6 in brackets; by the system's resolver, in a thread.

    Raises:
        OSError: it has none.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"no host name: {error}") from error
    hosts = (f"[{item[4][0]}]" if item[0] is socket.AF_INET6 else str(item[4][0]) for item in found)
    return list(dict.fromkeys(hosts))


class Resolver:
    """Keeps the addresses of a name up to date.

    Args:
        name: the name, with the port that all addresses have.
        resolve: asks for the addresses.
        sleep: waits.
        on_addresses: told of the addresses, each time.
    """

    def __init__(
        self,
        name: Address,
        resolve: Resolve,
        sleep: Callable[[float], Awaitable[None]],
        on_addresses: Callable[[Iterable[Address]], None],
    ) -> None:
        self._name = name
        self._resolve = resolve
        self._sleep = sleep
        self._on_addresses = on_addresses
        self._first: asyncio.Lock | None = None
        self._is_known = False
        self._watching: asyncio.Task[None] | None = None
        self._failed = asyncio.Event()

    @property
    def is_known(self) -> bool:
        """Whether the addresses are known."""
        return self._is_known

    async def ready(self) -> None:
        """Returns when the addresses are known.

        Raises:
            UnavailableError: the name has none.
        """
        self._first = self._first or asyncio.Lock()
        async with self._first:
            if self._is_known:
                return
            try:
                await self._ask()
            except OSError as error:
                raise UnavailableError(
                    f"the name {self._name.host!r} cannot be resolved ({error.strerror or error})",
                    metadata={"address": self._name.target},
                ) from error
            self._is_known = True
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="cellserve resolver")

    def note_failure(self) -> None:
        """A replica does not answer: its address may have changed."""
        self._failed.set()

    async def _ask(self) -> None:
        hosts = await self._resolve(self._name.host, self._name.port)
        if not hosts:
            raise OSError("no addresses")
        self._on_addresses([Address(host, self._name.port) for host in hosts])

    async def _watch(self) -> None:
        while True:
            waiting = [asyncio.ensure_future(self._sleep(USUAL_S)), asyncio.ensure_future(self._failed.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
            self._failed.clear()
            try:
                await self._ask()
            except OSError:
                # The known addresses are better than none; the next time may do.
                self._failed.set()
            await self._sleep(SOON_S)

    async def close(self) -> None:
        """Stops asking."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
