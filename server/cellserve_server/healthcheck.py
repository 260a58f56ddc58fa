"""Asks a server whether it is serving: ``python -m cellserve_server.healthcheck --address HOST:PORT``.

For container health checks. The exit code is 0 when the server answers SERVING, 1 when it answers anything else, and 1
when it does not answer in time. In a server's own environment no option is needed for TLS: where that has the server's
certificate, TLS is spoken, that certificate is shown, and its own name is what is expected.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellserve_server.security.certificates import machine_roots, names_of
from cellserve_server.security.tls import SERVER_NAME_OPTION

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 3.0


def status(address: str, service: str, timeout_s: float, channel: grpc.Channel | None = None) -> str:
    """The health of a service: SERVING, NOT_SERVING, SERVICE_UNKNOWN or UNKNOWN; empty ``service``: the whole server.

    Args:
        address: ``host:port``.
        channel: to that address, closed in the end; None: one without TLS.

    Raises:
        grpc.RpcError: no answer within ``timeout_s`` seconds.
    """
    with channel or grpc.insecure_channel(address) as opened:
        request = health_pb2.HealthCheckRequest(service=service)
        stub = health_pb2_grpc.HealthStub(opened)
        answer = stub.Check(request, timeout=timeout_s)  # type: ignore[attr-defined]  # the typings lack it
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


class NoAnswerError(Exception):
    """A server's health cannot be had; the message says why."""


def ask(arguments: Sequence[str] | None = None) -> str:
    """The health of the server that the arguments name; they are those of the command.

    Raises:
        NoAnswerError: it does not answer in time, or not as expected.
    """
    options = _parser().parse_args(arguments)
    try:
        return status(options.address, options.service, options.timeout_s, _channel(options))
    except grpc.RpcError as error:
        raise NoAnswerError(f"{options.address}: {error.code().name}: {error.details()}") from error
    except (OSError, ValueError) as error:
        raise NoAnswerError(f"{options.address}: the files for TLS cannot be used: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the status in one line and returns the exit code."""
    try:
        found = ask(arguments)
    except NoAnswerError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{_parser().parse_args(arguments).address}: {found}")
    return 0 if found == "SERVING" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cellserve_server.healthcheck", description=__doc__)
    parser.add_argument("--address", default=DEFAULT_ADDRESS, help="host:port of the server (default: %(default)s)")
    parser.add_argument("--service", default="", help="one service's full name; without it the server as a whole")
    parser.add_argument("--timeout-s", type=float, default=DEFAULT_TIMEOUT_S, help="in seconds (default: %(default)s)")
    for flag, variables, help_text in (
        ("--tls-ca", ("TLS_CA", "TLS_CLIENT_CA"), "who issued the server's certificate, in PEM: speaks TLS"),
        ("--tls-cert", ("TLS_CERT",), "the certificate to show, in PEM: speaks TLS"),
        ("--tls-key", ("TLS_KEY",), "its key"),
        ("--tls-server-name", ("TLS_SERVER_NAME",), "what the server's certificate is for (default: as --tls-cert)"),
    ):
        names = [f"CELLSERVE_{variable}" for variable in variables]
        default = next((os.environ[name] for name in names if os.environ.get(name)), "")
        parser.add_argument(flag, default=default, help=f"{help_text}; {' or '.join(names)}")
    return parser


def _channel(options: argparse.Namespace) -> grpc.Channel:
    """A channel as the options say.

    Raises:
        OSError, ValueError: a file cannot be read, or holds no certificate.
    """
    if not options.tls_ca and not options.tls_cert:
        return grpc.insecure_channel(options.address)
    issuers, chain, key = (
        Path(path).read_bytes() if path else None for path in (options.tls_ca, options.tls_cert, options.tls_key)
    )
    name = options.tls_server_name
    if not name and chain is not None:
        # A health check asks its own container, by an address that no certificate is for.
        name = next(iter(names_of(x509.load_pem_x509_certificate(chain))), "")
    named = [(SERVER_NAME_OPTION, name)] if name else []
    return grpc.secure_channel(
        options.address, grpc.ssl_channel_credentials(issuers or machine_roots(), key, chain), options=named
    )


if __name__ == "__main__":
    sys.exit(main())
