"""What an import recognised, assumed and ignored: as text for people, as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from google.protobuf import json_format
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from cellserve.cells import CellDescription, PlacedCell, place
from cellserve.specs import ArraySpec, Bidirectional, PlacedLayer, model_to_proto, place_layers
from cellserve_server.importers.base import Assumption
from cellserve_server.importers.front import ImportResult
from cellserve_server.models.weights import parameter_count, weight_bytes

MAX_IGNORED_SHOWN = 20


def print_report(result: ImportResult, console: Console) -> None:
    """Prints the tree of layers, what was ignored, every assumption, the comparison, the path, and what to do next."""
    console.print(_tree(result))
    _print_ignored(result.imported.ignored, console)
    _print_assumptions(result.imported.assumptions, console)
    _print_verification(result, console)
    console.print(f"\nWritten: [bold]{escape(str(result.folder))}[/bold]")
    for line in next_steps(result):
        console.print(f"  {escape(line)}", highlight=False)


def report_document(result: ImportResult) -> dict[str, Any]:
    """The same as JSON."""
    imported, verification = result.imported, result.verification
    document: dict[str, Any] = {
        "model": f"models/{result.name}/versions/{result.version}",
        "path": str(result.folder),
        "source": str(result.source),
        "framework": imported.framework,
        "parameter_count": parameter_count(imported.description),
        "spec": json_format.MessageToDict(model_to_proto(imported.description), preserving_proto_field_name=True),
        "variables": {
            variable.name: list(variable.shape)
            for placed in place_layers(imported.description)
            for variable in placed.variables
        },
        "assumptions": [
            {"option": note.option, "value": note.value, "because": note.because, "given": note.given}
            for note in imported.assumptions
        ],
        "ignored": list(imported.ignored),
    }
    if verification is not None:
        document["verification"] = {
            "largest_difference": verification.largest_difference,
            "tolerance": verification.tolerance,
            "why_not": verification.why_not,
        }
    return document


def next_steps(result: ImportResult) -> Iterator[str]:
    """Commands that serve the model, and Python that steps it."""
    steppable = result.imported.description.steppable
    yield f"cellserve serve --models {result.folder.parent.parent}"
    yield "and then, in Python:"
    yield "from cellserve_client import connect, rnn"
    yield 'server = connect("localhost:50051")'
    if steppable:
        yield f'with server.session("{result.name}") as session: y = session.step(x)'
    else:
        dtype = result.imported.description.dtype.name
        yield f'outputs, state = rnn.dynamic_rnn(server.model("{result.name}"), sequence, dtype="{dtype}")'


def _tree(result: ImportResult) -> Tree:
    description = result.imported.description
    size = (
        f"{parameter_count(description):,} parameters, {weight_bytes(description):,} bytes of {description.dtype.name}"
    )
    root = Tree(
        f"[bold]{escape(result.name)}[/bold] version {result.version}, from {result.imported.framework} "
        f"{escape(result.source.name)}: {size}"
    )
    root.add(f"takes {_array_text(description.inputs[0])}")
    for placed in place_layers(description):
        _add_layer(root, placed)
    root.add(f"gives {_array_text(description.outputs[0])}")
    return root


def _array_text(spec: ArraySpec) -> str:
    what = "an id" if spec.dtype.kind == "i" and not spec.shape else f"{spec.dtype.name}{list(spec.shape)}"
    return escape(f"{what} a step ({spec.name})")


def _add_layer(root: Tree, placed: PlacedLayer) -> None:
    layer, width = placed.layer, placed.input_shape[0] if placed.input_shape else 0
    if isinstance(layer, CellDescription):
        _add_cell(root, place(layer, width, placed.prefix))
    elif isinstance(layer, Bidirectional):
        branch = root.add(f"[bold]Bidirectional[/bold], outputs: {layer.merge_mode}")
        _add_cell(branch.add("forward"), place(layer.forward, width, f"{placed.prefix}fw/"))
        _add_cell(branch.add("backward"), place(layer.backward, width, f"{placed.prefix}bw/"))
    else:
        branch = root.add(_title(layer, sum(math.prod(variable.shape) for variable in placed.variables)))
        for variable in placed.variables:
            branch.add(escape(f"{variable.name} {list(variable.shape)}"))


def _add_cell(branch: Tree, placed: PlacedCell) -> None:
    count = sum(math.prod(variable.shape) for variable in placed.variables())
    node = branch.add(f"{_title(placed.cell, count)}, {placed.input_size or 'ids'} -> {placed.cell.output_size}")
    for inner in placed.inner:
        _add_cell(node, inner)
    for variable in placed.cell.own_variables(placed.input_size):
        node.add(escape(f"{placed.scope}{variable.name} {list(variable.shape)}"))


def _title(layer: Any, count: int) -> str:
    """The class with the options that say something: cells inside, and what was left at None, stand elsewhere."""
    options = {field.name: getattr(layer, field.name) for field in fields(layer)}
    shown = [
        f"{name}={value!r}"
        for name, value in options.items()
        if value is not None and not isinstance(value, (tuple, CellDescription))
    ]
    return f"[bold]{type(layer).__name__}[/bold]({escape(', '.join(shown))}): {count:,} parameters"


def _print_ignored(ignored: tuple[str, ...], console: Console) -> None:
    if not ignored:
        return
    console.print("\nIgnored:")
    for line in ignored[:MAX_IGNORED_SHOWN]:
        console.print(f"  {escape(line)}", highlight=False)
    if len(ignored) > MAX_IGNORED_SHOWN:
        console.print(f"  and {len(ignored) - MAX_IGNORED_SHOWN} more (--json lists all)")


def _print_assumptions(assumptions: tuple[Assumption, ...], console: Console) -> None:
    if not assumptions:
        return
    table = Table("option", "value", "why", box=None, pad_edge=False)
    for note in assumptions:
        value = f"{note.value} (given)" if note.given else note.value
        table.add_row(escape(f"--set {note.option}="), escape(value), escape(note.because))
    console.print("\nThe source does not say, so this was taken:")
    console.print(table)


def _print_verification(result: ImportResult, console: Console) -> None:
    verification = result.verification
    if verification is None:
        return
    if verification.largest_difference is None:
        console.print(f"\nNot verified: {escape(verification.why_not)}")
    else:
        console.print(
            f"\nVerified beside {result.imported.framework}: the largest difference is "
            f"{verification.largest_difference:.2g} (up to {verification.tolerance:.2g} is rounding)"
        )
