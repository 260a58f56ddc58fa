"""One replica as the client sees it: its connection, whether it is up, and the question whether it is up again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from cellserve.errors import CellServeError, UnavailableError
from cellserve_client.address import Address
from cellserve_client.fleet.rendezvous import key_of
from cellserve_client.transport import Settings, Transport

# A replica that is down is asked again after this, then after twice as long each time, in seconds.
FIRST_PROBE_S = 0.1
LONGEST_PROBE_S = 3.0
PROBE_TIMEOUT_S = 2.0
# One that was up for so long begins with the first wait when it goes down again.
STEADY_S = 10.0


class Replica:
    """A replica. It is taken to be up until a request finds that it is not.

    Args:
        number: its own among the fleet's, never another's.
        address: where it is.
        settings: of the client.
        on_change: called when it has gone down, or has come up again. None: it is the only one there is, always taken
            to be up; its connection tries again by itself.
        leaves_streams: whether the steps on a stream of it that ends go on at another replica.

    Attributes:
        transport: its connection.
        key: the hash of its address.
        is_up: whether requests are to go there.
    """

    def __init__(
        self,
        number: int,
        address: Address,
        settings: Settings,
        on_change: Callable[[], None] | None = None,
        leaves_streams: bool = False,
    ) -> None:
        self.number = number
        self.key = key_of(address.target)
        self.is_up = True
        self.transport = Transport(address, settings, None if on_change is None else self._note_stream_trouble)
        self._on_change = on_change
        self._leaves_streams = leaves_streams
        self._hurried_at = -LONGEST_PROBE_S
        self._random = settings.randomness or random.Random()
        self._probing: asyncio.Task[None] | None = None
        self._delay_s = FIRST_PROBE_S
        self._up_since = settings.clock()
        self._making: dict[str, asyncio.Future[None]] = {}

    @property
    def address(self) -> str:
        """``host:port``."""
        return self.transport.address.target

    def note_failure(self) -> None:
        """It does not answer, is stopping, or is cut off from its store: from now on others are asked."""
        if self._on_change is None or not self.is_up or self.transport.is_closed:
            return
        if self.transport.clock() - self._up_since >= STEADY_S:
            self._delay_s = FIRST_PROBE_S
        self.is_up = False
        self._probe_after(self._delay_s)
        self._on_change()

    def note_success(self) -> None:
        """It has answered a request."""
        if not self.is_up:
            self._come_up()

    def probe_soon(self) -> None:
        """Nobody else is up: it is asked again after the first wait, however long it has been down; now and then."""
        now = self.transport.clock()
        if not self.is_up and now - self._hurried_at >= LONGEST_PROBE_S:
            self._hurried_at = now
            self._probe_after(FIRST_PROBE_S)

    def _note_stream_trouble(self, error: CellServeError) -> bool:
        if not isinstance(error, UnavailableError):
            return False
        self.note_failure()
        return self._leaves_streams

    def _probe_after(self, delay_s: float) -> None:
        self._stop_probing()
        self._delay_s = delay_s
        self._probing = asyncio.get_running_loop().create_task(self._probe(), name=f"cellserve probe {self.address}")

    async def _probe(self) -> None:
        while True:
            # Not all clients of a replica are to come at the same moment.
            delay_s = self._delay_s * self._random.uniform(0.8, 1.2)
            self._delay_s = min(self._delay_s * 2, LONGEST_PROBE_S)
            await self.transport.sleep(delay_s)
            if await self.transport.is_serving(PROBE_TIMEOUT_S):
                self._probing = None
                self._come_up()
                return

    def _come_up(self) -> None:
        self._stop_probing()
        self.is_up = True
        self._up_since = self.transport.clock()
        assert self._on_change is not None, "the only replica is never down"
        self._on_change()

    def _stop_probing(self) -> None:
        probing, self._probing = self._probing, None
        if probing is not None:
            probing.cancel()

    async def make(self, name: str, define: Callable[[], Awaitable[None]]) -> None:
        """Has a model made here; who asks for the same meanwhile waits for that.

        Args:
            name: the model's.
            define: makes it.

        Raises:
            CellServeError: it could not be made.
        """
        under_way = self._making.get(name)
        if under_way is None:
            under_way = self._making[name] = asyncio.ensure_future(define())
            under_way.add_done_callback(lambda _: self._making.pop(name, None))
        await asyncio.shield(under_way)

    async def close(self) -> None:
        """Closes its connection."""
        self._stop_probing()
        await self.transport.close()
