"""The modules of a state dict: recurrent ones by the names and shapes of their tensors, and the plain ones around."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.pytorch_files import FileTensor

MAX_MODULES = 64
GATES: Mapping[str, int] = MappingProxyType({"RNN": 1, "GRU": 3, "LSTM": 4})
"""How many blocks of hidden_size rows the weights of a module have."""

_PART = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(?:_l(\d{1,3})(_reverse)?)?")


@dataclass(frozen=True)
class Direction:
    """One cell of a recurrent module: the full names of its tensors.

    Attributes:
        biases: ``bias_ih`` and ``bias_hh``; None: it has none.
        projection: ``weight_hr``; None: no ``proj_size``.
    """

    weight_ih: str
    weight_hh: str
    biases: tuple[str, str] | None
    projection: str | None


@dataclass(frozen=True)
class RecurrentModule:
    """An ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU``, or one of the cells.

    Attributes:
        name: the module's in the model; empty: it is the model.
        kind: ``RNN``, ``LSTM`` or ``GRU``.
        is_cell: ``nn.RNNCell`` and so on.
        layers: for each layer the forward cell, and the backward one where the module is bidirectional.
        proj_size: 0: none.
    """

    name: str
    kind: str
    is_cell: bool
    input_size: int
    hidden_size: int
    proj_size: int
    layers: tuple[tuple[Direction, ...], ...]

    @property
    def output_size(self) -> int:
        """The width of the outputs; both directions' together."""
        return len(self.layers[0]) * (self.proj_size or self.hidden_size)

    @property
    def has_biases(self) -> bool:
        """Whether it was made with ``bias=True``."""
        return self.layers[0][0].biases is not None


@dataclass(frozen=True)
class PlainModule:
    """A matrix ``weight`` ``[rows, columns]`` and perhaps a ``bias``: an ``nn.Linear`` or an ``nn.Embedding``."""

    name: str
    rows: int
    columns: int
    weight: str
    bias: str | None


@dataclass(frozen=True)
class Modules:
    """What a state dict holds: modules, and the tensors that are of none that is known here."""

    recurrent: tuple[RecurrentModule, ...]
    plain: tuple[PlainModule, ...]
    unknown: tuple[str, ...]


def find_modules(tensors: Mapping[str, FileTensor]) -> Modules:
    """Sorts the tensors of a state dict into modules.

    Raises:
        ImportRefusedError: there is no recurrent module, or one whose tensors do not fit together.
    """
    cells: dict[str, dict[str, str]] = {}
    rest: dict[str, dict[str, str]] = {}
    for full in tensors:
        module, _, last = full.rpartition(".")
        groups = cells if _PART.fullmatch(last) else rest
        groups.setdefault(module, {})[last] = full
    if not cells:
        raise ImportRefusedError(
            "expected the weights of nn.RNN, nn.LSTM or nn.GRU (weight_ih_l0, weight_hh_l0, ...); the file has none"
        )
    recurrent = tuple(_recurrent(name, parts, tensors) for name, parts in cells.items())
    plain = tuple(
        found for name, parts in rest.items() if name not in cells and (found := _plain(name, parts, tensors))
    )
    known = {name for module in plain for name in (module.weight, module.bias)}
    unknown = tuple(full for parts in rest.values() for full in parts.values() if full not in known)
    if len(recurrent) + len(plain) > MAX_MODULES:
        raise ImportRefusedError(f"expected at most {MAX_MODULES} modules; got {len(recurrent) + len(plain)}")
    return Modules(recurrent, plain, unknown)


def _plain(name: str, parts: Mapping[str, str], tensors: Mapping[str, FileTensor]) -> PlainModule | None:
    if "weight" not in parts or not parts.keys() <= {"weight", "bias"} or not name:
        return None
    shape = tensors[parts["weight"]].shape
    if len(shape) != 2:
        return None
    if "bias" in parts and tensors[parts["bias"]].shape != shape[:1]:
        raise ImportRefusedError(
            f"{parts['bias']}: expected shape [{shape[0]}], as many as {parts['weight']} has rows; "
            f"got {list(tensors[parts['bias']].shape)}"
        )
    return PlainModule(name, shape[0], shape[1], parts["weight"], parts.get("bias"))


def _recurrent(name: str, parts: Mapping[str, str], tensors: Mapping[str, FileTensor]) -> RecurrentModule:
    cells: dict[tuple[int | None, bool], dict[str, str]] = {}
    for last, full in parts.items():
        match = _PART.fullmatch(last)
        assert match is not None
        layer = None if match[2] is None else int(match[2])
        cells.setdefault((layer, match[3] is not None), {})[match[1]] = full
    label = name or "the module"
    is_cell = (None, False) in cells
    directions = 2 if any(reverse for _, reverse in cells) else 1
    count = len(cells) // directions
    wanted = {(None, False)} if is_cell else {(i, r) for i in range(count) for r in (False, True)[:directions]}
    if cells.keys() != wanted:
        raise ImportRefusedError(
            f"{label}: expected layers numbered from 0, in each direction; got {', '.join(sorted(parts))[:500]}"
        )
    first = _direction(label, next(iter(sorted(cells.items(), key=lambda item: item[0][0] or 0)))[1])
    kind, hidden, proj = _kind(first, tensors)
    layers = tuple(
        tuple(_direction(label, cells[key]) for key in sorted(wanted, key=_cell_order) if key[0] in (None, index))
        for index in range(count)
    )
    input_size = _matrix(first.weight_ih, tensors)[1]
    module = RecurrentModule(name, kind, is_cell, input_size, hidden, proj, layers)
    _check_shapes(module, tensors)
    return module


def _cell_order(key: tuple[int | None, bool]) -> tuple[int, bool]:
    return (key[0] or 0, key[1])


def _direction(label: str, parts: Mapping[str, str]) -> Direction:
    missing = {"weight_ih", "weight_hh"} - parts.keys()
    if ("bias_ih" in parts) != ("bias_hh" in parts):
        missing |= {"bias_ih", "bias_hh"} - parts.keys()
    if missing:
        part, there = next(iter(parts.items()))
        names = ", ".join(sorted(absent.join(there.rsplit(part, 1)) for absent in missing))
        raise ImportRefusedError(f"{label}: {names} is missing beside {', '.join(parts.values())}")
    biases = (parts["bias_ih"], parts["bias_hh"]) if "bias_ih" in parts else None
    return Direction(parts["weight_ih"], parts["weight_hh"], biases, parts.get("weight_hr"))


def _kind(cell: Direction, tensors: Mapping[str, FileTensor]) -> tuple[str, int, int]:
    """The kind of module by the rows of ``weight_hh`` for each hidden unit; hidden_size and proj_size."""
    rows, width = _matrix(cell.weight_hh, tensors)
    proj, hidden = (0, width) if cell.projection is None else _matrix(cell.projection, tensors)
    for kind, gates in GATES.items():
        if rows == gates * hidden and (not proj or kind == "LSTM"):
            return kind, hidden, proj
    allowed = "4 times" if proj else "1, 3 or 4 times"
    raise ImportRefusedError(
        f"{cell.weight_hh}: expected {allowed} as many rows as the hidden size, {hidden} (RNN, GRU, LSTM); got {rows}"
    )


def _matrix(name: str, tensors: Mapping[str, FileTensor]) -> tuple[int, int]:
    shape = tensors[name].shape
    if len(shape) != 2 or 0 in shape:
        raise ImportRefusedError(f"{name}: expected a matrix; got shape {list(shape)}")
    return shape[0], shape[1]


def _check_shapes(module: RecurrentModule, tensors: Mapping[str, FileTensor]) -> None:
    rows, width = GATES[module.kind] * module.hidden_size, module.proj_size or module.hidden_size
    depth = module.input_size
    has_biases = module.has_biases
    for directions in module.layers:
        for cell in directions:
            wanted: dict[str, tuple[int, ...]] = {cell.weight_ih: (rows, depth), cell.weight_hh: (rows, width)}
            for name in cell.biases or ():
                wanted[name] = (rows,)
            if cell.projection is not None:
                wanted[cell.projection] = (module.proj_size, module.hidden_size)
            _require_shapes(wanted.items(), tensors, module)
            if (cell.biases is not None) != has_biases or (cell.projection is not None) != bool(module.proj_size):
                raise ImportRefusedError(
                    f"{cell.weight_ih}: expected biases and projections in all of the module's cells or in none"
                )
        depth = len(directions) * width


def _require_shapes(
    wanted: Iterable[tuple[str, tuple[int, ...]]], tensors: Mapping[str, FileTensor], module: RecurrentModule
) -> None:
    for name, shape in wanted:
        if tensors[name].shape != shape:
            raise ImportRefusedError(
                f"{name}: expected shape {list(shape)}, for nn.{module.kind} of hidden_size {module.hidden_size}; "
                f"got {list(tensors[name].shape)}"
            )
