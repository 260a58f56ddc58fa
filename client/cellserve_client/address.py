"""Where a server is, and what to say when nobody answers there."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from cellserve.errors import FieldInvalidError, UnavailableError

MAX_ADDRESS_CHARS = 512
MAX_ADDRESSES = 256
# In front of a name whose addresses are all replicas: gRPC's own word for it.
NAME_PREFIX = "dns:///"
# What grpc's long messages say in the end where nothing listens at the address, or there is no such address.
NOBODY_THERE = (
    "connection refused",
    "no route to host",
    "network is unreachable",
    "name or service not known",
    "dns resolution failed",
    "domain name not found",
)
# What they may say at all; the first that occurs is told.
CONNECTION_TROUBLES = (
    *NOBODY_THERE,
    "connection reset",
    "socket closed",
    "broken pipe",
    "keepalive watchdog timeout",
    "timed out",
    "timeout",
)


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    @property
    def target(self) -> str:
        """The form that grpc takes: ``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it can only be on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False  # A name that only a resolver could tell.


class Addresses(NamedTuple):
    """Where the replicas of a fleet listen.

    Attributes:
        fixed: one or several; empty where a name is to be resolved.
        name: a name of which every address is a replica; None where they are listed.
    """

    fixed: tuple[Address, ...]
    name: Address | None


def parse_addresses(text: str) -> Addresses:
    """Reads ``host:port``, several of them with commas between, or ``dns:///name:port``.

    Raises:
        FieldInvalidError: another form, a port out of range, an address twice, or too many of them.
    """
    if isinstance(text, str) and text.strip().startswith(NAME_PREFIX):
        return Addresses((), parse_address(text.strip().removeprefix(NAME_PREFIX)))
    if not isinstance(text, str) or "," not in text:
        return Addresses((parse_address(text),), None)
    parts = text.split(",")
    if len(parts) > MAX_ADDRESSES:
        raise FieldInvalidError(f"address: expected at most {MAX_ADDRESSES} addresses; got {len(parts)}")
    found = tuple(parse_address(part) for part in parts)
    if len(set(found)) != len(found):
        raise FieldInvalidError(f"address: expected each address once; got {text!r}"[:500])
    return Addresses(found, None)


def each_address(text: str) -> list[str]:
    """The addresses of single replicas, for who asks each by itself.

    Raises:
        FieldInvalidError: as of ``parse_addresses``; or a name is to be resolved: it is not known who answers then.
    """
    found = parse_addresses(text)
    if found.name is not None:
        raise FieldInvalidError(
            f"address: expected host:port, or several with commas between, for each replica is asked by itself; "
            f"got {text!r}"
        )
    return [address.target for address in found.fixed]


def parse_address(text: str) -> Address:
    """Reads ``host:port``; an IPv6 address stands in brackets.

    Raises:
        FieldInvalidError: another form, or a port out of range.
    """
    if not isinstance(text, str) or not 0 < len(text) <= MAX_ADDRESS_CHARS:
        raise FieldInvalidError(f"address: expected host:port, such as localhost:50051; got {text!r}"[:200])
    host, _, port = text.strip().rpartition(":")
    whole = bool(host) and (":" not in host or (host.startswith("[") and host.endswith("]")))
    if not whole or not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
        raise FieldInvalidError(
            f"address: expected host:port with a port from 1 to 65535, such as localhost:50051; got {text!r}"
        )
    return Address(host, int(port))


def unreachable(address: Address, detail: str, was_reached: bool) -> UnavailableError:
    """The error for a server that cannot be reached: names the address and says what to do."""
    lowered = detail.lower()
    trouble = next((trouble for trouble in CONNECTION_TROUBLES if trouble in lowered), detail)
    if was_reached:
        message = f"lost the server at {address.target} ({trouble}). Is it still running?"
    elif address.is_loopback:
        message = (
            f"no server answers at {address.target} ({trouble}). Is it started? cellserve serve --port {address.port}"
        )
    else:
        message = (
            f"no server answers at {address.target} ({trouble}). Is it started there, on an address that this "
            "machine can reach?"
        )
    return UnavailableError(message, metadata={"address": address.target})


def is_somebody_there(error: UnavailableError) -> bool:
    """Whether an error is one of ``unreachable``, and something listens at the address all the same, perhaps."""
    return "address" in error.metadata and not any(f"({trouble})" in error.message for trouble in NOBODY_THERE)
