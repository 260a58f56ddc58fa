"""What callers send, made messages of: only once it is known who they are, so that nobody else has it looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError, Message

from cellserve.errors import FieldInvalidError
from cellserve_server.edge.message_parts import COUNTED_FROM_BYTES, PartCounter
from cellserve_server.metrics.tallies import Tally


class RequestDecoder:
    """Decodes the requests of one method.

    Args:
        message_class: of what.
        method: its path, for messages.
        received: counts them.
        max_bytes: of one, whoever sends it; None: callers' own limits alone.
        max_parts: of one that is large; see ``message_parts``.
    """

    def __init__(
        self, message_class: type[Message], method: str, received: Tally, *, max_bytes: int | None, max_parts: int
    ) -> None:
        self._decode = message_class.FromString
        self._counter = PartCounter(message_class.DESCRIPTOR)
        self._method = method
        self._received = received
        self._max_bytes = max_bytes
        self._max_parts = max_parts

    def decoded(self, request: Any, max_bytes: int) -> Any:
        """The request; of those that come as a stream, an iterator.

        Args:
            request: its bytes, or an async iterator of bytes.
            max_bytes: of one, of this caller; grpc itself has to let more through, or it would answer in its own words.

        Raises:
            FieldInvalidError: it is too large, or no message. So does the iterator.
        """
        return self._one(request, max_bytes) if isinstance(request, bytes) else self._each(request, max_bytes)

    async def _each(self, requests: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[Message]:
        async for request in requests:
            yield self._one(request, max_bytes)

    def _one(self, data: bytes, max_bytes: int) -> Message:
        self._received.count += 1
        if len(data) > max_bytes:
            raise FieldInvalidError(
                f"request: expected at most {max_bytes} bytes (max_message_bytes); got {len(data)}",
                metadata={"quota": "max_message_bytes", "limit": str(max_bytes), "max_message_bytes": str(max_bytes)},
            )
        if self._max_bytes is not None and len(data) > self._max_bytes:
            raise FieldInvalidError(
                f"request: expected at most {self._max_bytes} bytes for {self._method}; got {len(data)}",
                metadata={"limit": str(self._max_bytes)},
            )
        if len(data) > COUNTED_FROM_BYTES and self._counter.has_more_than(data, self._max_parts):
            raise FieldInvalidError(
                f"request: expected at most {self._max_parts} fields and messages within one message "
                "(max_message_parts)",
                metadata={"max_message_parts": str(self._max_parts)},
            )
        try:
            return self._decode(data)
        except DecodeError:
            words = f"request: the bytes are not the message that {self._method} takes"
            raise FieldInvalidError(words) from None
