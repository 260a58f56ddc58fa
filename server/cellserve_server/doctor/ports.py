"""Whether the addresses that a server listens on are free, and who has them if they are not."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import TypeAlias

from cellserve_server.binding import host_port
from cellserve_server.config import ServerConfig
from cellserve_server.doctor.findings import Finding, State
from cellserve_server.healthcheck import NoAnswerError, ask

AREA = "ports"
ANSWER_WITHIN_S = 2.0
HEAD_BYTES = 1 << 16
# Says who has an address, in words.
Who: TypeAlias = Callable[[], str]
# By which a server that listens on all addresses is reached.
_ALL = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def check_ports(config: ServerConfig) -> list[Finding]:
    """Looks at the port of the RPCs and at that of the metrics page."""
    found = [_check("--port", config.host, config.port, partial(_who_serves, config))]
    if config.http_port == -1:
        found.append(Finding(AREA, State.OK, "--http-port: there is no metrics page"))
    else:
        found.append(_check("--http-port", config.http_host, config.http_port, partial(_whose_page, config)))
    return found


def _check(flag: str, host: str, port: int, who: Who) -> Finding:
    address = host_port(host, port)
    if port == 0:
        return Finding(AREA, State.OK, f"{flag}: a free one will be picked")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: the connections of one that has just ended are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return Finding(
                AREA, State.WRONG, f"{flag}: {address} is taken by {who()}", f"stop it, or give another {flag}"
            )
        advice = "give an address of this machine, with --host or --http-host"
        if error.errno == errno.EACCES:
            advice = "ports below 1024 are for the superuser: give another one"
        return Finding(AREA, State.WRONG, f"{flag}: cannot listen on {address}: {error.strerror}", advice)
    return Finding(AREA, State.OK, f"{flag}: {address} is free")


def _who_serves(config: ServerConfig) -> str:
    address = host_port(_ALL.get(config.host, config.host), config.port)
    arguments = ["--address", address, "--timeout-s", str(ANSWER_WITHIN_S)]
    if config.tls_cert:
        arguments += ["--tls-cert", config.tls_cert, "--tls-key", config.tls_key]
        arguments += ["--tls-ca", config.tls_ca or config.tls_client_ca]
    try:
        return f"a gRPC server whose health is {ask(arguments)}: does this one run already?"
    except NoAnswerError:
        return "another program, which does not answer as a server of ours would"


def _whose_page(config: ServerConfig) -> str:
    host = _ALL.get(config.http_host, config.http_host)
    with closing(HTTPConnection(host, config.http_port, timeout=ANSWER_WITHIN_S)) as connection:
        try:
            connection.request("GET", "/metrics")
            is_ours = b"cellserve_" in connection.getresponse().read(HEAD_BYTES)
        except (OSError, HTTPException):  # It speaks no HTTP, or does not answer in time.
            is_ours = False
    return "the metrics page of a CellServe: does this one run already?" if is_ours else "another program"
