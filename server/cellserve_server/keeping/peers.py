"""The other replicas of a fleet: asked to let sessions go that are wanted here."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellserve.errors import STATUS_DETAILS_KEY, QueueFullError, StoreUnavailableError, from_rpc_error
from cellserve.v1 import peer_service_pb2, peer_service_pb2_grpc
from cellserve_server.keys import SessionKey
from cellserve_server.security.tls import PeerChannels

# One that did not answer is not asked again for so long: its sessions are taken from it at once.
SILENCE_S = 1.0
MAX_PEERS = 1024
# What one request asks for: little enough to be read before it is known who asks.
MAX_SESSIONS = 1000
# Of such a request: two names of at most 128 characters and a number of each session, and who asks whom.
MAX_REQUEST_BYTES = MAX_SESSIONS * 300 + 2048


def address_of(owner: str) -> str:
    """The address of who a record says holds it; empty: nobody."""
    return owner.partition("#")[0]


class Peers:
    """The other replicas, by the addresses that records name.

    A replica shows another one that it is a replica by naming it as the store's records do, its process's id included:
    only who can read the store knows that, and may well have the sessions.

    Args:
        timeout_s: how long an answer is waited for.
        clock: seconds, never going back.
        process_id: tells this process from those before it at the same address. A secret: it is in the store alone.
        opener: opens the connections.

    Attributes:
        own: this replica's address, once it is known.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float], process_id: str, opener: PeerChannels) -> None:
        self.own = ""
        self._process_id = process_id
        self._timeout_s = timeout_s
        self._clock = clock
        self._opener = opener
        self._version = opener.version()
        self._channels: dict[str, grpc.aio.Channel] = {}
        # Those from before the certificates changed: what is under way there may finish.
        self._former: dict[str, grpc.aio.Channel] = {}
        self._silent_until: dict[str, float] = {}
        self._log = structlog.get_logger("cellserve.peers")

    @property
    def owner(self) -> str:
        """As whom this process holds records: its address, and which of the processes there it is. A secret."""
        return f"{self.own}#{self._process_id}"

    def is_owner(self, holder: str) -> bool:
        """Whether somebody names this process as the store's records do."""
        return hmac.compare_digest(holder.encode(), self.owner.encode())

    async def ask_to_release(self, owner: str, sessions: Sequence[tuple[SessionKey, int]]) -> bool:
        """Asks a replica to let sessions go; whether it has. If not, they are to be taken from it.

        Args:
            owner: as the records of the sessions name it.
            sessions: keys with the epochs by which it holds them.

        Raises:
            StoreUnavailableError, QueueFullError: it is there, and could not let all of them go.
        """
        address = address_of(owner)
        if self._is_silent(address):
            return False
        stub = peer_service_pb2_grpc.PeerServiceStub(self._channel(address))
        try:
            for start in range(0, len(sessions), MAX_SESSIONS):
                part = sessions[start : start + MAX_SESSIONS]
                request = peer_service_pb2.ReleaseSessionsRequest(taker=self.own, holder=owner)
                for key, epoch in part:
                    request.sessions.add(tenant=key.tenant, id=key.id, epoch=epoch)
                await stub.ReleaseSessions(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            if isinstance(refusal := from_rpc_error(error), (StoreUnavailableError, QueueFullError)):
                raise refusal from error
            # One that has answered is there; and one that was slow to let some sessions go may have others at hand.
            is_there = _has_answered(error) or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            self._note(address, error, is_there=is_there, sessions=len(sessions))
            return False
        return True

    async def is_there(self, address: str) -> bool:
        """Whether a replica answers, be it that it does not serve just now."""
        if self._is_silent(address):
            return False
        stub = health_pb2_grpc.HealthStub(self._channel(address))
        try:
            await stub.Check(  # type: ignore[attr-defined]  # the typings lack it
                health_pb2.HealthCheckRequest(), timeout=self._timeout_s
            )
        except grpc.aio.AioRpcError as error:
            self._note(address, error, is_there=False, sessions=0)
            return False
        return True

    def heard_from(self, address: str) -> None:
        """A replica has asked for something: it is there again, and is asked before sessions are taken from it."""
        self._silent_until.pop(address, None)

    def _is_silent(self, address: str) -> bool:
        return self._silent_until.get(address, 0.0) > self._clock()

    def _note(self, address: str, error: grpc.aio.AioRpcError, *, is_there: bool, sessions: int) -> None:
        """A replica has not done what it was asked for."""
        self._log.warning(
            "peer_refused" if is_there else "peer_silent",
            peer=address,
            code=error.code().name,
            details=error.details(),
            sessions=sessions,
        )
        if not is_there:
            now = self._clock()
            self._silent_until = {peer: until for peer, until in self._silent_until.items() if until > now}
            self._silent_until[address] = now + SILENCE_S

    async def close(self) -> None:
        """Closes the connections."""
        channels = [*self._former.values(), *self._channels.values()]
        self._former, self._channels = {}, {}
        for channel in channels:
            await channel.close()

    def _channel(self, address: str) -> grpc.aio.Channel:
        if (version := self._opener.version()) is not self._version:
            self._version = version
            self._former, self._channels = self._channels, {}
        channel = self._channels.get(address)
        if channel is None:
            if len(self._channels) >= MAX_PEERS:
                # Addresses come and go with their pods: the one known longest is the likeliest to be gone.
                self._channels.pop(next(iter(self._channels)))
            # A replica that comes back is to be found again soon.
            options: list[tuple[str, str | int]] = [
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ]
            channel = self._channels[address] = self._opener.open(address, options)
        return channel


def _has_answered(error: grpc.aio.AioRpcError) -> bool:
    """Whether an error is the replica's own, and not one of the way to it."""
    return any(key == STATUS_DETAILS_KEY for key, _ in error.trailing_metadata() or ())
