"""Redis, replicas at it, and one that reaches it through a proxy that can be cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

from cellserve.errors import (
    CellServeError,
    SessionMovedError,
    StateRolledBackError,
    StoreUnavailableError,
)
from cellserve_client import aio
from deploy.fleet import Fleet, RedisServer
from deploy.fleet.ports import free_ports
from tests.faults.feed import CELL, CELL_SEED, DEPTH
from tests.faults.tcp_proxy import HOST, TcpProxy
from tests.faults.witness import Witness, WrongStepError

STORE_TIMEOUT_MS = 400
FLUSH_INTERVAL_MS = 200
DEADLINE_S = 20.0  # for whatever has to come about by itself
POLL_S = 0.02
FENCED_METRIC = "cellserve_fenced_writes_total"


class Stage:
    """Redis, two replicas at it, and a third that reaches it through a proxy of ours.

    Attributes:
        redis: the server.
        proxy: between it and the third replica.
        near: the addresses of the first two.
        far: the third one's.
        model: the name of the model of the witnesses.

    Args:
        durability: ``sync`` or ``async``.
        folder: for logs and files.
    """

    def __init__(self, durability: str, folder: Path) -> None:
        redis_port, proxy_port = free_ports(2)
        self.durability = durability
        self.redis = RedisServer(redis_port, folder)
        self.proxy = TcpProxy(proxy_port, redis_port)
        arguments = ["--store-timeout-ms", str(STORE_TIMEOUT_MS), "--takeover-timeout-ms", str(STORE_TIMEOUT_MS)]
        arguments += ["--flush-interval-ms", str(FLUSH_INTERVAL_MS)]

        def fleet(name: str, replicas: int, store: str) -> Fleet:
            return Fleet(
                replicas,
                folder=folder / name,
                store=store,
                durability=durability,
                proxy=None,
                arguments=arguments,
            )

        self._fleets = [fleet("near", 2, self.redis.url), fleet("far", 1, f"redis://{HOST}:{proxy_port}/0")]
        self.near = self._fleets[0].addresses
        (self.far,) = self._fleets[1].addresses
        (self._far_page,) = self._fleets[1].metrics_urls
        self.model = ""
        self._witnesses = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        """Starts everything, and stops it."""
        async with AsyncExitStack() as stack:
            with ExitStack() as processes:
                self.redis.start()
                processes.callback(self.redis.stop)
                await stack.enter_async_context(self.proxy)
                for fleet in self._fleets:
                    await asyncio.to_thread(fleet.start)
                    processes.callback(fleet.stop)
                async with aio.connect(self.far) as server:
                    cell = await server.cell(CELL, input_size=DEPTH, seed=CELL_SEED)
                    assert cell.info is not None, "a cell of a known width is made at once"
                    self.model = cell.info.resource_name
                try:
                    yield self
                finally:
                    # In a thread: what drains writes to Redis through the proxy, which is in this loop.
                    await asyncio.to_thread(processes.close)

    @asynccontextmanager
    async def witness(self, steps: int = 3) -> AsyncIterator[Witness]:
        """A session that was made and stepped at the far replica."""
        self._witnesses += 1
        witness = Witness(f"witness-{self._witnesses}", self.model, self._witnesses)
        try:
            await witness.create(self.far)
            for _ in range(steps):
                await witness.step(self.far)
            yield witness
        finally:
            await witness.close()

    def pause_far(self) -> None:
        """Holds the far replica: it does nothing, and its connections stay."""
        self._fleets[1].pause(0)

    def resume_far(self) -> None:
        """Lets it go on."""
        self._fleets[1].resume(0)

    async def fenced(self) -> int:
        """How many writes of the far replica Redis has refused."""

        def read() -> str:
            with urlopen(self._far_page, timeout=DEADLINE_S) as page:
                text: str = page.read().decode()
                return text

        lines = (await asyncio.to_thread(read)).splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(FENCED_METRIC + " "))


async def until(what: str, attempt: Callable[[], Awaitable[bool]]) -> None:
    """Has something come about by itself.

    Raises:
        WrongStepError: it did not.
    """
    give_up = time.monotonic() + DEADLINE_S
    while not await attempt():
        if time.monotonic() > give_up:
            raise WrongStepError(f"{what}: not within {DEADLINE_S:g} s")
        await asyncio.sleep(POLL_S)


async def goes_on(witness: Witness, address: str, *, may_lose: bool = False, again: bool = False) -> None:
    """A step at this replica succeeds by itself before long; refusals of a passing kind are waited out.

    Args:
        may_lose: whether it may be told that steps are lost; they are fed again.
        again: the last step is sent again: it was refused, and may have been applied all the same.
    """

    async def attempt() -> bool:
        try:
            await witness.step(address, again=again)
        except (StoreUnavailableError, SessionMovedError):
            return False
        except StateRolledBackError as error:
            if not may_lose:
                raise
            witness.roll_back(error.step_count)
            return False
        return True

    await until(f"{witness.name} goes on at {address}", attempt)


async def comes_to_refuse(witness: Witness, address: str, within_s: float) -> StoreUnavailableError:
    """A replica without its store refuses steps, after so many seconds at the latest; those before are as they have to
    be. Returns the refusal."""
    give_up = time.monotonic() + within_s
    while True:
        try:
            await witness.step(address)
        except StoreUnavailableError as error:
            return error
        require(time.monotonic() < give_up, f"{address} takes steps for more than {within_s:g} s without its store")
        await asyncio.sleep(POLL_S)


def require(condition: bool, what: str) -> None:
    """Raises ``WrongStepError``, unless it holds."""
    if not condition:
        raise WrongStepError(what)


def require_refused(error: CellServeError, *kinds: type[CellServeError]) -> None:
    """Raises ``WrongStepError``, unless the error is of one of these kinds, and says when to come again."""
    require(isinstance(error, kinds), f"expected {' or '.join(kind.__name__ for kind in kinds)}; got {error!r}")
    if isinstance(error, StoreUnavailableError):
        require(bool(error.retry_after_s), f"it does not say when to come again: {error!r}")
