"""The addresses that a server listens on: which are allowed, how they are written, and why one cannot be had."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator

from cellserve_server.config import ServerConfig

_ALL_ADDRESSES = ("0.0.0.0", "::", "")
_HOST_PORT = re.compile(r"(\[[^\s\[\]]+\]|[^\s\[\]:/]+):\d{1,5}", re.ASCII)


class StartError(Exception):
    """The server cannot start as it was told to; the message is for people and says what to change."""


def host_port(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def advertised_address(config: ServerConfig, port: int) -> str:
    """``host:port`` by which clients and other replicas reach the server.

    Args:
        config: the settings.
        port: that is listened on.

    Raises:
        StartError: what it is told is no address; or it listens on all and is not told which of them others know.
    """
    if config.advertise:
        if not _HOST_PORT.fullmatch(config.advertise):
            raise StartError(f"--advertise: expected HOST:PORT; got {config.advertise!r}")
        return config.advertise
    if config.host not in _ALL_ADDRESSES:
        return host_port(config.host, port)
    if config.store.startswith("redis"):
        raise StartError(
            f"--advertise: expected HOST:PORT by which other replicas reach this one; --host {config.host} listens on "
            "all addresses and names none"
        )
    return host_port("127.0.0.1", port)  # Only this machine's processes can share its store.


def require_private_or_insecure(config: ServerConfig) -> None:
    """Refuses to listen without TLS where other machines may reach it, unless that was asked for.

    Raises:
        StartError: naming the flag.
    """
    rpcs = [] if config.tls_cert else [("--host", config.host, "--tls-cert and --tls-key")]
    pages = [("--http-host", config.http_host, "127.0.0.1")] if config.http_port != -1 else []
    for flag, host, remedy in (*rpcs, *pages):
        if not config.insecure and not is_loopback(host):
            raise StartError(
                f"{flag}: {host!r} is reached by other machines and there is no TLS; "
                f"use {remedy}, or say --insecure (CELLSERVE_INSECURE=1) if the network is trusted"
            )


def identity_warnings(config: ServerConfig) -> Iterator[tuple[str, str, str]]:
    """What is worth a word in the log about who may come in: an event, the address, and what to do."""
    if not is_loopback(config.host):
        if not config.has_identity:
            yield (
                "anybody_may_come_in",
                config.host,
                "everybody who reaches --host sees all sessions and may do everything; --tokens-file, --jwks-file or "
                "--tls-tenant-from has callers say who they are",
            )
        elif not config.tls_cert:
            advice = "tokens can be read on their way to --host; --tls-cert and --tls-key prevent it"
            yield "tokens_in_the_clear", config.host, advice
    if config.http_port != -1 and not is_loopback(config.http_host):
        if not config.has_identity:
            seen = (
                "the metrics, and in the inspector all sessions and their states" if config.inspector else "the metrics"
            )
            yield (
                "anybody_may_look",
                config.http_host,
                f"everybody who reaches --http-host sees {seen}; --tokens-file or --jwks-file has them say who",
            )
        elif config.tokens_file or config.jwks_file:
            advice = "tokens can be read on their way to --http-host, whose pages have no TLS; a proxy can add it"
            yield "tokens_in_the_clear", config.http_host, advice


def is_loopback(host: str) -> bool:
    """Whether an address is reached by this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # A name: it may mean any address, now or later.


def bind_error(flag: str, host: str, port: int) -> StartError:
    """Finds out why an address cannot be listened on: grpc does not say."""
    reason = "the address cannot be used"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:  # The last of a name that can be nobody's.
        reason = getattr(error, "strerror", None) or str(error)
    return StartError(f"{flag}: cannot listen on {host_port(host, port)}: {reason}")
