"""Traces as the settings say: where spans go, by the environment variables that OpenTelemetry has for it."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from cellserve_server.binding import StartError
from cellserve_server.config import ServerConfig

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from cellserve_server.tracing.tracing import Tracing

SERVICE = "cellserve"
UNNAMED = "unknown_service"
PROTOCOL = "http/protobuf"
# The first that is set counts.
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def open_tracing(config: ServerConfig) -> Tracing | None:
    """What makes the spans of a server; None: tracing is off, and nothing of OpenTelemetry is imported.

    The endpoint, its headers and certificates, the sampler, the resource and the limits of the queue are what the
    ``OTEL_*`` variables say.

    Raises:
        StartError: OpenTelemetry is not installed, or is told to export by a protocol that is not there.
    """
    if config.tracing == "off":
        return None
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from cellserve_server.tracing.tracing import Tracing

        processor = BatchSpanProcessor(_new_exporter(config.tracing))
    except ImportError as error:
        raise StartError(
            f"--tracing {config.tracing}: needs OpenTelemetry, which is not installed: "
            "pip install 'cellserve-server[tracing]'"
        ) from error
    except ValueError as error:
        raise StartError(f"--tracing {config.tracing}: {error}") from error
    resource = Resource.create({SERVICE_VERSION: version("cellserve-server")})
    if str(resource.attributes[SERVICE_NAME]).startswith(UNNAMED):
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    durability = "memory" if config.store == "memory:" else config.durability
    return Tracing(processor, resource, durability)


def _new_exporter(kind: str) -> SpanExporter:
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    variable = next((name for name in PROTOCOL_VARIABLES if name in os.environ), "")
    if variable and os.environ[variable] != PROTOCOL:
        got = os.environ[variable]
        raise StartError(f"{variable}: expected {PROTOCOL} (port 4318), the one that this server has; got {got}")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
