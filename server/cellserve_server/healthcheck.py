"""Asks a server whether it is serving: ``python -m cellserve_server.healthcheck --address HOST:PORT``.

For container health checks. The exit code is 0 when the server answers SERVING, 1 when it answers anything else, and 1
when it does not answer in time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 3.0


def status(address: str, service: str, timeout_s: float) -> str:
    """The health of a service: SERVING, NOT_SERVING, SERVICE_UNKNOWN or UNKNOWN; empty ``service``: the whole server.

    Raises:
        grpc.RpcError: no answer within ``timeout_s`` seconds.
    """
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(request, timeout=timeout_s)  # type: ignore[attr-defined]  # the typings lack it
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the status in one line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cellserve_server.healthcheck", description=__doc__)
    parser.add_argument("--address", default=DEFAULT_ADDRESS, help="host:port of the server (default: %(default)s)")
    parser.add_argument("--service", default="", help="one service's full name; without it the server as a whole")
    parser.add_argument("--timeout-s", type=float, default=DEFAULT_TIMEOUT_S, help="in seconds (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        found = status(options.address, options.service, options.timeout_s)
    except grpc.RpcError as error:
        print(f"{options.address}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    print(f"{options.address}: {found}")
    return 0 if found == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
