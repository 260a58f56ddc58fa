"""Traces: RPCs, runs and ticks as spans of OpenTelemetry. Only a server that traces imports more than ``opening``."""
