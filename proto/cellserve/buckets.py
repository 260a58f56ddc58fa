"""The bucket of a session: one of 64, by its id. Routing by proxies, and what a cluster of stores keeps together."""

from __future__ import annotations

import zlib

BUCKETS = 64
# The metadata key under which clients send it, as decimal digits.
BUCKET_KEY = "cellserve-bucket"


def bucket_of(session_id: str) -> int:
    """The bucket of a session: CRC-32 of its id's UTF-8 bytes, modulo 64. The same in every release."""
    return zlib.crc32(session_id.encode()) % BUCKETS
