"""The cells of a TensorFlow 1 checkpoint, recognised by the names and shapes of their variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from cellserve.cells import (
    CellDescription,
    EmbeddingWrapper,
    InputProjectionWrapper,
    MultiRNNCell,
    OutputProjectionWrapper,
    ResidualWrapper,
)
from cellserve.errors import CellServeError
from cellserve_server.importers.base import Assumption, ImportRefusedError, Settings
from cellserve_server.importers.tensorflow1_builders import BUILDERS
from cellserve_server.importers.tensorflow1_options import CellOptions, cell_numbers
from cellserve_server.importers.tensorflow1_scopes import (
    CORES,
    STACK,
    WRAPPERS,
    Leaf,
    Place,
    Scope,
    cells_in,
)


@dataclass(frozen=True)
class FoundCell:
    """A cell that was recognised.

    Attributes:
        cell: its description.
        input_size: the width of its inputs; None: ids.
        leaves: the checkpoint's variables by the names that the cell's have in a model.
    """

    cell: CellDescription
    input_size: int | None
    leaves: Mapping[str, Leaf]


class CellReader:
    """Recognises cells; the same one for all of a model, so that options with a value for each cell can be counted.

    Args:
        settings: what the user gave.
        options: the options of single cells.
    """

    def __init__(self, settings: Settings, options: CellOptions) -> None:
        self._settings = settings
        self._options = options
        self._notes: list[Assumption] = []

    def read(self, place: Place) -> FoundCell:
        """The cell at a place, with the wrappers that stand beside it, in residual wrappers if the user said so.

        Raises:
            ImportRefusedError: it is none that is served, its variables do not fit together, or its class is open.
        """
        if place.refusal:
            raise ImportRefusedError(place.refusal)
        try:
            found = self._level(place.level, place.core, place.kind)
            if not isinstance(found.cell, MultiRNNCell):
                (found,) = self._with_residuals([found])
        except CellServeError as error:
            raise ImportRefusedError(f"{place.core.path}: {error}") from error
        return found

    def assumptions(self) -> list[Assumption]:
        """What was assumed about the cells, beside their options."""
        # Both directions of a bidirectional layer note the same.
        return list({note.option: note for note in self._notes}.values())

    def _level(self, level: Scope, core: Scope, kind: str) -> FoundCell:
        """A cell, and around it the wrappers that TensorFlow before 1.2 put beside it."""
        found = self._core(core, kind)
        for name in ("input_projection_wrapper", "embedding_wrapper", "output_projection_wrapper"):
            beside = level.scopes.get(name)
            if beside is not None and beside is not core and not beside.scopes:
                found = self._wrapped(found, name, beside)
        return found

    def _core(self, scope: Scope, kind: str) -> FoundCell:
        if kind == STACK:
            return self._stack(scope)
        if kind in WRAPPERS:
            return self._wrapped(self._only_cell(scope), kind, scope)
        return self._plain(scope, kind or self._kind_of(scope))

    def _only_cell(self, level: Scope) -> FoundCell:
        places = [place for place in cells_in(level) if place.level is level]
        if len(places) > 1:
            # Wrappers of old beside their cell are part of it.
            places = [place for place in places if place.kind not in WRAPPERS or place.core.scopes]
        if len(places) != 1:
            names = ", ".join(place.core.path for place in places) or "none"
            raise ImportRefusedError(f"{level.path}: expected one cell; got {names}")
        if places[0].refusal:
            raise ImportRefusedError(places[0].refusal)
        return self._level(level, places[0].core, places[0].kind)

    def _kind_of(self, scope: Scope) -> str:
        """The class of a cell with a name of its own, by its variables where they leave no choice."""
        names = scope.flat().keys()
        if "candidate/kernel" in names:
            return "gru_cell"
        if "candidate/hidden_projection/kernel" in names:
            return "cudnn_compatible_gru_cell"
        if "w_f_diag" in names or "projection/kernel" in names:
            return "lstm_cell"
        return self._options.kind(scope.path, [kind for kind in CORES if not kind.startswith("cudnn")])

    def _plain(self, scope: Scope, kind: str) -> FoundCell:
        leaves = scope.flat()
        primary = "gates/kernel" if kind in ("gru_cell", "cudnn_compatible_gru_cell") else "kernel"
        if primary not in leaves:
            raise ImportRefusedError(f"{scope.path}: expected a variable {primary}; got {', '.join(sorted(leaves))}")
        leaf = leaves[primary]
        gates = {"basic_rnn_cell": 1, "gru_cell": 2, "cudnn_compatible_gru_cell": 2}.get(kind, 4)
        if len(leaf.shape) != 2 or leaf.shape[1] % gates or not leaf.shape[1]:
            of = f"a multiple of {gates}" if gates > 1 else "columns"
            raise ImportRefusedError(f"{leaf.name}: expected a matrix with {of}; got shape {list(leaf.shape)}")
        units = leaf.shape[1] // gates
        cell = BUILDERS[kind](units, leaves, self._options)
        input_size = leaf.shape[0] - cell.output_size
        if input_size < 1:
            raise ImportRefusedError(
                f"{leaf.name}: expected more than {cell.output_size} rows, for the inputs and a state of that width; "
                f"got {leaf.shape[0]}"
            )
        _require_same(scope.path, cell, input_size, leaves)
        return FoundCell(cell, input_size, {f"{cell.scope()}/{name}": leaf for name, leaf in leaves.items()})

    def _wrapped(self, inner: FoundCell, kind: str, scope: Scope) -> FoundCell:
        own = scope.leaves
        cell: CellDescription
        if kind == "embedding_wrapper":
            (table,) = _require_leaves(scope, "embedding", ranks=(2,))
            cell = EmbeddingWrapper(inner.cell, table.shape[0], table.shape[1])
            inner_width: int | None = table.shape[1]
            input_size: int | None = None
        else:
            kernel, _ = _require_leaves(scope, "kernel", "bias", ranks=(2, 1))
            activation = self._options.activation("wrapper_activation", "none")
            if kind == "output_projection_wrapper":
                cell = OutputProjectionWrapper(inner.cell, kernel.shape[1], activation)
                input_size, inner_width = inner.input_size, inner.input_size
            else:
                cell = InputProjectionWrapper(inner.cell, kernel.shape[1], activation)
                input_size, inner_width = kernel.shape[0], kernel.shape[1]
        if inner.input_size != inner_width:
            raise ImportRefusedError(
                f"{scope.path}: it gives vectors of {inner_width}, and the cell in it takes {inner.input_size}"
            )
        _require_same(scope.path, cell, input_size or 0, own, own_only=True)
        prefix = f"{cell.scope()}/"
        leaves = {prefix + name: leaf for name, leaf in [*own.items(), *inner.leaves.items()]}
        return FoundCell(cell, input_size, leaves)

    def _stack(self, scope: Scope) -> FoundCell:
        numbers = sorted(int(name.removeprefix("cell_")) for name in scope.scopes if re.fullmatch(r"cell_\d+", name))
        if scope.leaves or len(numbers) != len(scope.scopes):
            other = sorted({*scope.leaves, *scope.scopes} - {f"cell_{number}" for number in numbers})
            raise ImportRefusedError(f"{scope.path}: expected cells alone, cell_0 and so on; got also {other[0]}")
        unique = {number: self._only_cell(scope.scopes[f"cell_{number}"]) for number in numbers}
        order = self._order(scope, numbers, unique)
        first_use = {number: order.index(number) for number in numbers}
        found = self._with_residuals([unique[number] for number in order])
        for index, (below, above) in enumerate(pairwise(found)):
            if above.input_size != below.cell.output_size:
                raise ImportRefusedError(
                    f"{scope.path}/cell_{order[index + 1]}: expected a cell for inputs of {below.cell.output_size}, "
                    f"what cell_{order[index]} gives; by its variables it takes {above.input_size}"
                )
        cell = MultiRNNCell([each.cell for each in found], state_is_tuple=self._options.state_is_tuple())
        leaves = {
            f"{cell.scope()}/cell_{first_use[number]}/{name}": leaf
            for number in numbers
            for name, leaf in unique[number].leaves.items()
        }
        return FoundCell(cell, found[0].input_size, leaves)

    def _order(self, scope: Scope, numbers: list[int], unique: Mapping[int, FoundCell]) -> list[int]:
        """Which cell runs when: ``[cell] * n`` leaves the variables of the first alone."""
        given = self._settings.get("layers")
        if given is None:
            if numbers != list(range(len(numbers))):
                raise ImportRefusedError(
                    f"{scope.path}: expected cells 0 to {numbers[-1]}; got {', '.join(map(str, numbers))}: a cell used "
                    "several times leaves the variables of its first use, and which one that is is not said",
                    option=f"layers={','.join(map(str, numbers))} with the missing ones filled in",
                )
            only = unique[numbers[0]]
            if len(numbers) == 1 and only.input_size == only.cell.output_size:
                because = "[cell] * n leaves the variables of one cell; one layer was taken (two: layers=0,0)"
                self._notes.append(Assumption("layers", "0", because))
            return numbers
        order = cell_numbers(given, "layers", numbers[-1] + 1)
        unused = [number for number in numbers if number not in order]
        missing = [number for number in order if number not in unique]
        if unused or missing:
            raise ImportRefusedError(f"layers: expected each of {numbers}, some several times; got {given!r}")
        self._notes.append(Assumption("layers", given, "cells used several times share their variables", given=True))
        return order

    def _with_residuals(self, found: list[FoundCell]) -> list[FoundCell]:
        """The cells, those in a ResidualWrapper that the user names: it leaves no trace in a checkpoint."""
        possible = [index for index, each in enumerate(found) if each.input_size == each.cell.output_size]
        given = self._settings.get("residual") if possible else None
        if not possible:
            return found
        because = "a ResidualWrapper leaves no trace in a checkpoint; by their widths it could be around cell "
        self._notes.append(
            Assumption(
                "residual", given or "none", because + ", ".join(map(str, possible)), given=given not in (None, "none")
            )
        )
        chosen = [] if given in (None, "none") else cell_numbers(given or "", "residual", len(found))
        wrapped = {}
        for index in chosen:
            # One object stays one object: a cell used several times is so within its wrapper, too.
            wrapped[id(found[index])] = FoundCell(
                ResidualWrapper(found[index].cell), found[index].input_size, found[index].leaves
            )
        return [wrapped.get(id(each), each) if i in chosen else each for i, each in enumerate(found)]


def _require_leaves(scope: Scope, *names: str, ranks: tuple[int, ...]) -> list[Leaf]:
    leaves = []
    for name, rank in zip(names, ranks, strict=True):
        leaf = scope.leaves.get(name)
        if leaf is None:
            raise ImportRefusedError(f"{scope.path}: expected a variable {name}; got {', '.join(sorted(scope.leaves))}")
        if len(leaf.shape) != rank or 0 in leaf.shape:
            raise ImportRefusedError(f"{leaf.name}: expected {rank} dimensions; got shape {list(leaf.shape)}")
        leaves.append(leaf)
    return leaves


def _require_same(
    path: str, cell: CellDescription, input_size: int, leaves: Mapping[str, Leaf], own_only: bool = False
) -> None:
    """Raises unless these are the variables of the cell, by name and shape."""
    expected = {variable.name: variable.shape for variable in cell.own_variables(input_size)}
    missing, surplus = sorted(expected.keys() - leaves.keys()), sorted(leaves.keys() - expected.keys())
    if missing:
        raise ImportRefusedError(f"{path}: expected the variables of {type(cell).__name__}; missing {missing[0]}")
    if surplus:
        raise ImportRefusedError(
            f"{path}: expected the variables of {type(cell).__name__}; got also {leaves[surplus[0]].name}"
        )
    for name, shape in expected.items():
        if leaves[name].shape != shape:
            raise ImportRefusedError(
                f"{leaves[name].name}: expected shape {list(shape)}; got {list(leaves[name].shape)}"
            )
