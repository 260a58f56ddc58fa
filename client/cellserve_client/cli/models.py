"""``cellserve models``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from cellserve.specs import ArraySpec
from cellserve.states import LSTMStateTuple, Structure
from cellserve_client.cli.common import (
    connection,
    json_option,
    print_fields,
    print_json,
    print_table,
    run,
    server_options,
    time_text,
)
from cellserve_client.models import ModelInfo


def main(arguments: Sequence[str]) -> int:
    """List and show a server's models."""
    return run(models, "cellserve models", arguments)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def models() -> None:
    """List and show a server's models.

    \b
    Examples:
      cellserve models list
      cellserve models show speaker-id --address localhost:50051
      cellserve models show speaker-id/versions/1 --json
    """


@models.command("list")
@server_options
@json_option
def list_models(address: str, timeout_s: float, as_json: bool) -> None:
    """List every version of every model, with those that could not be loaded."""
    with connection(address, timeout_s).connect() as server:
        found = server.models()
    if as_json:
        print_json([model_document(info) for info in found])
        return
    print_table(
        ["model", "version", "state", "parameters", "state bytes/row", "can", "description"],
        [
            (
                info.name,
                info.version,
                info.state,
                info.parameter_count,
                info.state_bytes_per_row,
                " ".join(info.capabilities).lower(),
                info.error or info.description,
            )
            for info in found
        ],
    )


@models.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(min=0), help="Which version; the newest unless given.")
@server_options
@json_option
def show(name: str, version: int | None, address: str, timeout_s: float, as_json: bool) -> None:
    """Show one model: its inputs, outputs, layers, state and limits.

    NAME is the model's name, such as speaker-id, or speaker-id/versions/1.
    """
    with connection(address, timeout_s).connect() as server:
        info = server.model_info(name, version=version)
    if as_json:
        print_json(model_document(info))
        return
    fields: list[tuple[str, object]] = [
        ("model", info.name),
        ("version", info.version),
        ("description", info.description),
        ("state", f"{info.state}: {info.error}" if info.error else info.state),
        *((f"input {spec.name}", _spec_text(spec)) for spec in info.inputs),
        *((f"layer {index}", layer) for index, layer in enumerate(info.layers)),
        *((f"output {spec.name}", _spec_text(spec)) for spec in info.outputs),
        ("state size", info.state_size),
        ("state bytes/row", info.state_bytes_per_row),
        ("parameters", info.parameter_count),
        ("can", " ".join(info.capabilities).lower()),
        ("digest", info.digest),
        ("loaded", time_text(info.load_time) or "-"),
        ("defined by a client", "yes" if info.defined else "no"),
        ("expires unused", time_text(info.expire_time) or "never"),
        ("steps per request", info.limits.max_sequence_steps),
        ("rows", info.limits.max_rows),
        ("bytes per message", info.limits.max_message_bytes),
        ("durability", info.limits.durability.lower()),
    ]
    print_fields(fields)


def model_document(info: ModelInfo) -> dict[str, Any]:
    """A model for programs."""
    return {
        "name": info.name,
        "version": info.version,
        "resource_name": info.resource_name,
        "description": info.description,
        "state": info.state,
        "error": info.error,
        "data_type": info.dtype.name if info.dtype else None,
        "inputs": [_spec_document(spec) for spec in info.inputs],
        "outputs": [_spec_document(spec) for spec in info.outputs],
        "layers": list(info.layers),
        "state_size": _size_document(info.state_size),
        "capabilities": list(info.capabilities),
        "parameter_count": info.parameter_count,
        "state_bytes_per_row": info.state_bytes_per_row,
        "digest": info.digest,
        "load_time": time_text(info.load_time),
        "defined": info.defined,
        "expire_time": time_text(info.expire_time),
        "limits": {
            "max_sequence_steps": info.limits.max_sequence_steps,
            "max_rows": info.limits.max_rows,
            "max_message_bytes": info.limits.max_message_bytes,
            "durability": info.limits.durability,
        },
    }


def _spec_document(spec: ArraySpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": spec.dtype.name,
        "shape": list(spec.shape),
        "labels": list(spec.labels),
    }


def _spec_text(spec: ArraySpec) -> str:
    text = f"{spec.dtype.name}{list(spec.shape)}"
    return f"{text}: {', '.join(spec.labels)}" if spec.labels else text


def _size_document(structure: Structure | None) -> Any:
    """A state's sizes: a number, ``{"c": ..., "h": ...}``, or a list of these."""
    if structure is None or isinstance(structure, int):
        return structure
    if isinstance(structure, LSTMStateTuple):
        return {"c": structure.c, "h": structure.h}
    return [_size_document(part) for part in structure]
