"""The replicas of one connection: a request goes to the one that is due, and to another when that is away."""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import Message

from cellserve.errors import (
    CellServeError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldInvalidError,
    RunCancelledError,
)
from cellserve_client.address import Address, parse_addresses
from cellserve_client.bearer import BearerToken
from cellserve_client.deadlines import Deadline
from cellserve_client.fleet.made_models import MadeModels
from cellserve_client.fleet.pursuit import Pursuit, is_being_cancelled
from cellserve_client.fleet.replica import Replica
from cellserve_client.fleet.resolving import Resolve, Resolver, resolve
from cellserve_client.fleet.routes import Anywhere, Route, Way
from cellserve_client.methods import Method
from cellserve_client.models import ModelInfo
from cellserve_client.outcomes import Attempts
from cellserve_client.retry import RetryPolicy
from cellserve_client.streaming.mux import Mux
from cellserve_client.tls import TlsSettings
from cellserve_client.transport import (
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_TIMEOUT_S,
    Settings,
    checked_timeout,
)

if TYPE_CHECKING:
    from cellserve_client.tracing import Tracing

# A replica whose address the name has lost is disconnected after this, in seconds: its last answers may still come.
RETIRE_S = 60.0
# What a model says of sessions that no other replica can go on with.
NOT_SHARED = ("MEMORY", "UNSPECIFIED")


class Watcher(Protocol):
    """What is told that replicas have come, gone, gone down or come up: it may be elsewhere that requests go."""

    def note_changed_fleet(self) -> None: ...


class Fleet:
    """One connection: to one server, or to several replicas. It belongs to one event loop and to one process.

    Args:
        address: ``host:port``, several with commas between, or ``dns:///name:port``.
        timeout_s: how long a call may take when it does not say, in seconds.
        policy: how failed requests are repeated.
        max_message_bytes: the largest answer that is taken.
        coalesce: whether the steps of many sessions go out as few messages on one stream.
        pinned: each session stays with the first replica of its order, be it down.
        proxied: the one address is that of a proxy with replicas behind it.
        tls: None: the servers are spoken to in the clear.
        token: shown to them; None: none is.
        tracing: makes spans of requests; None: nobody traces.
        clock, sleep, randomness, resolve: handed in for tests.

    Attributes:
        address: as given.
        timeout_s, max_message_bytes, coalesce, tracing, clock, sleep: as given.
        is_pinned, is_proxied: as given.
        is_many: whether there are several replicas, or may be.
        replicas: by their numbers.
        generation: changes whenever a replica comes, goes, goes down or comes up.
        made_models: the models that this client has described.

    Raises:
        FieldInvalidError: the address or a number is not of its form, or the token would be sent for all to read.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        policy: RetryPolicy | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        coalesce: bool = True,
        pinned: bool = False,
        proxied: bool = False,
        tls: TlsSettings | None = None,
        token: BearerToken | None = None,
        tracing: Tracing | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        randomness: random.Random | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        found = parse_addresses(address)
        self.is_many = len(found.fixed) != 1
        if proxied and (self.is_many or pinned):
            raise FieldInvalidError("proxied: expected one address, that of the proxy, and not pinned")
        if found.name is not None and tls is not None and tls.server_name is None:
            tls = replace(tls, server_name=found.name.host)  # Certificates are for the name, not for its addresses.
        if token is not None:
            for place in found.fixed if found.name is None else (found.name,):
                token.require_private(place, tls is not None)
        self._settings = Settings(
            checked_timeout(timeout_s),
            policy or RetryPolicy(),
            max_message_bytes,
            coalesce,
            clock,
            sleep,
            randomness or random.Random(),
            tls,
            token,
            tracing,
        )
        self.address = address.strip()
        self.timeout_s = self._settings.timeout_s
        self.max_message_bytes = max_message_bytes
        self.coalesce = coalesce
        self.tracing = tracing
        self.clock = clock
        self.sleep = sleep
        self.is_pinned = pinned
        self.is_proxied = proxied
        self.replicas: dict[int, Replica] = {}
        self.generation = 0
        self.made_models = MadeModels()
        self._resolver = None if found.name is None else Resolver(found.name, resolve, sleep, self._take_addresses)
        self._retired: list[tuple[float, Replica]] = []
        self._watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
        self._changes: set[asyncio.Future[None]] = set()
        self._last_number = 0
        self._turn = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._take_addresses(found.fixed)

    # --- for those who ask ----------------------------------------------------------------------------------------

    def deadline(self, timeout_s: float | None) -> Deadline:
        """The deadline of a call that begins now; None: the connection's timeout.

        Raises:
            FieldInvalidError: the timeout is not a number of seconds above 0.
        """
        timeout_s = self.timeout_s if timeout_s is None else checked_timeout(timeout_s)
        return Deadline(self.clock() + timeout_s, timeout_s, self.clock)

    def too_late(self, timeout_s: float) -> DeadlineExceededError:
        """What callers get whose time is over, without an answer."""
        return DeadlineExceededError(
            f"no answer from {self.address} within {timeout_s:g} s", metadata={"timeout_s": f"{timeout_s:g}"}
        )

    def route(self, session_id: str) -> Route:
        """The way of a session."""
        return Route(self, session_id)

    def anywhere(self) -> Anywhere:
        """The way of what any replica can answer."""
        return Anywhere(self)

    def mux(self, route: Route) -> Mux:
        """What sends the steps of a session now. To be used in a coroutine."""
        return route.current().transport.mux(route.stream_metadata)

    def watch(self, watcher: Watcher) -> None:
        """Has something told of changes, as long as others hold it."""
        if self.is_many:
            self._watchers.add(watcher)

    def require_kept(self, info: ModelInfo) -> None:
        """Raises ``FailedPreconditionError`` when sessions of a model would be lost by moving to another replica."""
        if self.is_many and not self.is_pinned and info.limits.durability in NOT_SHARED:
            raise FailedPreconditionError(
                f"the servers at {self.address} keep sessions in memory, each its own, so that none can go on with "
                "another's; give them a shared store, or connect(..., pinned=True) leaves each session where its id "
                "puts it, for as long as that server lives",
                metadata={"durability": info.limits.durability},
            )

    async def invoke(
        self,
        method: Method,
        request: Message | Callable[[], Iterable[Message]],
        deadline: Deadline,
        attempts: Attempts | None = None,
        *,
        way: Way | None = None,
        model: str = "",
    ) -> Any:
        """Sends a request until it is answered, is not worth repeating, or its time is over.

        Args:
            method: which one; see ``methods``.
            request: the message, or for a client-streaming method what makes its messages anew for every attempt.
            deadline: of all attempts together.
            attempts: where to note whether an attempt may have been applied without an answer.
            way: where it goes: the session's route; None: any replica can answer.
            model: that the request names: one that this client has described is made where it is not known.

        Returns:
            The method's response message.

        Raises:
            CellServeError: what the server said, or why it could not be reached.
        """
        attempts = attempts or Attempts()
        way = way or Anywhere(self)
        pursuit: Pursuit | None = None
        await self.ready()
        while True:
            replica = way.current()
            try:
                answer = await replica.transport.send(method, request, deadline, way.metadata)
            except CellServeError as error:
                attempts.failed(error)
                pursuit = pursuit or Pursuit(self, deadline, model)
                await pursuit.failed(replica, error, way)
            except BaseException as error:
                attempts.failed(error)
                if isinstance(error, asyncio.CancelledError) and self._closed and not is_being_cancelled():
                    raise RunCancelledError("the connection was closed while the request was under way") from None
                raise
            else:
                replica.note_success()
                return answer

    async def ready(self) -> None:
        """Returns when there is an address to ask.

        Raises:
            UnavailableError: the name cannot be resolved.
        """
        if self._resolver is not None and not self._resolver.is_known:
            if self._closed:
                raise FailedPreconditionError("this connection is closed; make another one with connect(...)")
            await self._resolver.ready()

    # --- for ways and pursuits ------------------------------------------------------------------------------------

    @property
    def was_reached(self) -> bool:
        """Whether any replica has ever answered."""
        return any(replica.transport.retrier.was_reached for replica in self.replicas.values())

    @property
    def up_count(self) -> int:
        """How many replicas are up."""
        return sum(replica.is_up for replica in self.replicas.values())

    def replica_at(self, address: str) -> Replica | None:
        """The replica of this address; None: it is none of this client's."""
        return next((replica for replica in self.replicas.values() if replica.address == address), None)

    def next_up(self) -> Replica:
        """A replica for what any can answer: each in turn, those that are down only where none is up."""
        replicas = list(self.replicas.values())
        self._turn += 1
        candidates = [replica for replica in replicas if replica.is_up] or replicas
        return candidates[self._turn % len(candidates)]

    async def make_model(self, replica: Replica, name: str, deadline: Deadline) -> bool:
        """Has a replica make a model that this client has described. False: it has not described it."""
        return await self.made_models.make(replica, name, deadline)

    async def wait_for_change(self, timeout_s: float) -> None:
        """Returns when a replica has come, gone, gone down or come up, or the time is over."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changes.add(changed)
        try:
            await asyncio.wait((changed,), timeout=timeout_s)
        finally:
            self._changes.discard(changed)

    # --- changes --------------------------------------------------------------------------------------------------

    def _take_addresses(self, addresses: Iterable[Address]) -> None:
        """These are all the addresses that there are now."""
        wanted = dict.fromkeys(addresses)
        known = {replica.transport.address for replica in self.replicas.values()}
        gone = [replica for replica in self.replicas.values() if replica.transport.address not in wanted]
        new = [address for address in wanted if address not in known]
        self._disconnect_retired()
        if not gone and not new:
            return
        for address in new:
            self._last_number += 1
            on_change = self._note_change if self.is_many else None
            self.replicas[self._last_number] = Replica(
                self._last_number, address, self._settings, on_change, leaves_streams=not self.is_pinned
            )
        for replica in gone:
            del self.replicas[replica.number]
            self._retired.append((self.clock(), replica))
        if self.generation:
            self._note_change()
        self.generation += 1

    def _disconnect_retired(self) -> None:
        until = self.clock() - RETIRE_S
        old = [replica for since, replica in self._retired if since <= until]
        self._retired = [(since, replica) for since, replica in self._retired if since > until]
        for replica in old:
            task = asyncio.get_running_loop().create_task(replica.close(), name=f"cellserve retire {replica.address}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _note_change(self) -> None:
        self.generation += 1
        if not self._closed and not self.up_count:
            for replica in self.replicas.values():
                replica.probe_soon()
        if self._resolver is not None and any(not replica.is_up for replica in self.replicas.values()):
            self._resolver.note_failure()
        for watcher in list(self._watchers):
            watcher.note_changed_fleet()
        changes, self._changes = self._changes, set()
        for changed in changes:
            if not changed.done():
                changed.set_result(None)

    async def close(self) -> None:
        """Closes all connections; requests under way are cancelled. Again: nothing happens."""
        self._closed = True
        if self._resolver is not None:
            await self._resolver.close()
        retired, self._retired = self._retired, []
        for replica in (*self.replicas.values(), *(replica for _, replica in retired)):
            await replica.close()
        await asyncio.gather(*self._closing, return_exceptions=True)
