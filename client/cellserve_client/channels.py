"""The channels to one server: how they are opened, and what keeps one from connecting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc.aio

from cellserve_client.address import Address
from cellserve_client.handshake import trouble_with
from cellserve_client.tls import TlsSettings

# A server that hangs is left after 17 seconds, well before the usual timeout of a call ends: there may be another. A
# server takes no pings that come more often than each 10 seconds.
KEEPALIVE_TIME_MS = 12_000
KEEPALIVE_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_MS = 5_000
FIRST_RECONNECT_MS = 50
LONGEST_RECONNECT_MS = 1_000
# How long it holds what was found out about TLS with a server, in seconds.
TROUBLE_HOLDS_S = 1.0


class Channels:
    """Opens the channels to one server.

    Args:
        address: the server's.
        max_message_bytes: the largest answer that is taken.
        tls: None: it is spoken to in the clear.
        clock: seconds, never going back.
    """

    def __init__(
        self, address: Address, max_message_bytes: int, tls: TlsSettings | None, clock: Callable[[], float]
    ) -> None:
        self._address = address
        self._max_message_bytes = max_message_bytes
        self._tls = tls
        self._clock = clock
        self._signature: object = None
        self._looking: asyncio.Future[str | None] | None = None
        self._looked_at = 0.0

    @property
    def has_tls(self) -> bool:
        """Whether TLS is spoken."""
        return self._tls is not None

    @property
    def are_outdated(self) -> bool:
        """Whether the files for TLS have changed since a channel was opened."""
        return self._tls is not None and self._tls.signature() != self._signature

    def open(self) -> grpc.aio.Channel:
        """A new channel. To be used in a coroutine.

        Raises:
            FieldInvalidError: a file for TLS cannot be used.
        """
        options = channel_options(self._address, self._max_message_bytes)
        if self._tls is None:
            return grpc.aio.insecure_channel(self._address.target, options=options)
        signature, credentials = self._tls.signature(), self._tls.credentials()
        self._signature = signature
        if self._tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        return grpc.aio.secure_channel(self._address.target, credentials, options=options)

    async def trouble(self, within_s: float) -> str | None:
        """What TLS has to do with it that the server is not reached, found out once for all who ask within a moment.

        Args:
            within_s: how long it may take, in seconds.

        Returns:
            In words; None: something else is wrong, or it was not found out in time.

        Raises:
            FieldInvalidError: a file for TLS cannot be used any more.
        """
        now = self._clock()
        if self._looking is None or (self._looking.done() and now - self._looked_at >= TROUBLE_HOLDS_S):
            self._looked_at = now
            self._looking = asyncio.ensure_future(asyncio.to_thread(trouble_with, self._address, self._tls))
        looking = self._looking
        await asyncio.wait((looking,), timeout=max(within_s, 0.0))
        return looking.result() if looking.done() else None


def channel_options(address: Address, max_message_bytes: int) -> list[tuple[str, str | int]]:
    """The options of a channel. Public, so that what is compared with this client can have the same ones.

    Args:
        address: the server's.
        max_message_bytes: the largest answer that is taken.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.primary_user_agent", "cellserve-client"),
        ("grpc.max_send_message_length", -1),  # The server's limit counts; its answer says what it is.
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),  # How long one attempt to connect may take.
        ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
        ("grpc.enable_retries", 0),  # Retries are ours: they have a budget and keep their run ids.
    ]
    if address.is_loopback:
        options.append(("grpc.enable_http_proxy", 0))  # A proxy cannot reach this machine's own addresses.
    return options
