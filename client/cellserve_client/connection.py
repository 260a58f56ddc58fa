"""A connection as a value: what ``connect`` takes, for programs that hand it on, to other processes too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cellserve_client import aio
from cellserve_client.client import Server
from cellserve_client.retry import RetryPolicy
from cellserve_client.tls import TlsSettings
from cellserve_client.transport import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_TIMEOUT_S


@dataclass(frozen=True)
class ConnectionSettings:
    """What ``connect`` takes but for ``tracing``, under the same names and with the same meaning. It can be pickled.

    Attributes:
        token: not part of the ``repr``, but of what is pickled; a file's path is only that.
    """

    address: str
    timeout_s: float = DEFAULT_TIMEOUT_S
    retry: RetryPolicy | None = None
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    coalesce: bool = True
    pinned: bool = False
    proxied: bool = False
    tls: TlsSettings | bool | None = None
    token: str | Path | None = field(default=None, repr=False)

    def connect(self) -> Server:
        """Connects the blocking client.

        Raises:
            FieldInvalidError: as of ``connect``.
        """
        return Server(self.connect_aio())

    def connect_aio(self) -> aio.Server:
        """Connects the client for asyncio.

        Raises:
            FieldInvalidError: as of ``connect``.
        """
        return aio.connect(
            self.address,
            timeout_s=self.timeout_s,
            retry=self.retry,
            max_message_bytes=self.max_message_bytes,
            coalesce=self.coalesce,
            pinned=self.pinned,
            proxied=self.proxied,
            tls=self.tls,
            token=self.token,
        )
