"""The layers of a ``.weights.h5`` file, which has their variables by class and number and says nothing of the rest.

The classes come from the names of the groups (``lstm``, ``lstm_1``), the sizes from the shapes. Layers of one class are
numbered in the order in which they run. Between classes the widths decide; where they leave a choice, it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellserve.specs import DENSE_ACTIVATIONS
from cellserve_server.importers.assembly import chosen
from cellserve_server.importers.base import Assumption, ImportRefusedError, Settings
from cellserve_server.importers.chains import Link, TooManyOrdersError, possible_orders
from cellserve_server.importers.keras_layers import MERGE_MODES, TRAINING_ONLY
from cellserve_server.importers.keras_model import GROUPS, KerasLayer, KerasModel
from cellserve_server.importers.keras_options import ACTIVATIONS
from cellserve_server.importers.keras_variables import Variables

MAX_INFERRED_LAYERS = 64
_WITHOUT_NUMBERS = ("InputLayer", "Identity", *TRAINING_ONLY)
_ACTIVATION_LAYERS = ("Activation", "Softmax", "ReLU")
_DIRECTIONS = ("forward_layer", "backward_layer")


@dataclass(frozen=True)
class InferredModel:
    """The layers of a file of variables, what was assumed to find them, and what else the file has."""

    model: KerasModel
    assumptions: tuple[Assumption, ...]
    ignored: tuple[str, ...]
    version: int


def infer_model(variables: Variables, dtype: str, settings: Settings) -> InferredModel:
    """Finds the layers of a file of variables.

    Args:
        variables: of the file.
        dtype: of the model.
        settings: ``layers``, ``activation``, ``recurrent_activation``, ``head``, ``merge_mode``, ``reset_after``,
            ``go_backwards``, ``masking`` and ``keras_version`` say what the file does not.

    Raises:
        ImportRefusedError: the file has a group of no known layer, or leaves something open.
    """
    return _Inference(variables, dtype, settings).result()


@dataclass(frozen=True)
class _Found:
    """A layer as its group shows it: its class, the class of a cell within, and the sizes of its options."""

    group: str
    kind: str
    cell: str
    link: Link
    options: Mapping[str, Any]


class _Inference:
    def __init__(self, variables: Variables, dtype: str, settings: Settings) -> None:
        self._variables = variables
        self._dtype = dtype
        self._settings = settings
        self._assumptions: list[Assumption] = []
        self._ignored: list[str] = [f"{name}: not of the layers" for name in variables.others]

    def result(self) -> InferredModel:
        by_kind: dict[str, list[str]] = {}
        for group in sorted(self._variables.groups, key=lambda name: (_class_of(name)[1], name)):
            by_kind.setdefault(_class_of(group)[0], []).append(group)
        for kind in _WITHOUT_NUMBERS:
            if kind != "InputLayer":
                self._ignored += [f"{group}: a {kind} layer" for group in by_kind.get(kind, ())]
        activations = [group for kind in _ACTIVATION_LAYERS for group in by_kind.get(kind, ())]
        skipped = (*_WITHOUT_NUMBERS, *_ACTIVATION_LAYERS)
        merge_mode = self._merge_mode() if "Bidirectional" in by_kind else "concat"
        found = [
            self._find(group, kind, frozenset(groups[:number]), merge_mode)
            for kind, groups in by_kind.items()
            if kind not in skipped
            for number, group in enumerate(groups)
        ]
        if not 1 <= len(found) <= MAX_INFERRED_LAYERS:
            raise ImportRefusedError(f"expected 1 to {MAX_INFERRED_LAYERS} layers with variables; got {len(found)}")
        line = self._in_order(found)
        layers = self._with_options(line, activations)
        version = int(self._version(layers))
        width = line[0].link.input_width
        shape = (None, None) if width is None else (None, None, width)
        return InferredModel(KerasModel(tuple(layers), shape), tuple(self._assumptions), tuple(self._ignored), version)

    def _find(self, group: str, kind: str, after: frozenset[str], merge_mode: str) -> _Found:
        if kind in ("SimpleRNN", "LSTM", "GRU"):
            width, units, options = self._cell(group, f"{group}/cell", kind)
            return _Found(group, kind, kind, Link(group, kind, width, units, after), options)
        if kind == "Bidirectional":
            cell = self._kind_of_cell(f"{group}/forward_layer/cell", group)
            both = [self._cell(group, f"{group}/{direction}/cell", cell) for direction in _DIRECTIONS]
            if both[0] != both[1]:
                raise ImportRefusedError(f"{group}: expected two layers of one size; import the .keras file")
            width, units, options = both[0]
            link = Link(group, kind, width, units * (2 if merge_mode == "concat" else 1), after)
            return _Found(group, kind, cell, link, {**options, "merge_mode": merge_mode})
        if kind in ("Dense", "TimeDistributed"):
            shapes = self._shapes(group if kind == "Dense" else f"{group}/layer")
            if len(shapes) not in (1, 2) or len(shapes[0]) != 2:
                raise ImportRefusedError(f"{group}: expected the kernel and bias of a Dense layer; got shapes {shapes}")
            options = {"units": shapes[0][1], "use_bias": len(shapes) == 2}
            return _Found(group, kind, "", Link(group, kind, shapes[0][0], shapes[0][1], after), options)
        shapes = self._shapes(group)
        if kind == "Embedding" and len(shapes) == 1 and len(shapes[0]) == 2:
            options = {"input_dim": shapes[0][0], "output_dim": shapes[0][1]}
            return _Found(group, kind, "", Link(group, kind, None, shapes[0][1], after), options)
        if kind == "Normalization" and len(shapes) == 3 and len(shapes[0]) == 1:
            return _Found(group, kind, "", Link(group, kind, shapes[0][0], shapes[0][0], after), {"axis": -1})
        raise ImportRefusedError(
            f"{group}: a file of variables does not say enough of this layer; import the .keras file instead"
        )

    def _shapes(self, path: str) -> list[tuple[int, ...]]:
        return [self._variables.by_path[name].values.shape for name in self._variables.of(path)]

    def _kind_of_cell(self, path: str, group: str) -> str:
        shapes = self._shapes(path)
        if len(shapes) > 1 and len(shapes[1]) == 2:
            units, columns = shapes[1]
            for kind, gates in (("SimpleRNN", 1), ("GRU", 3), ("LSTM", 4)):
                if columns == gates * units:
                    return kind
        raise ImportRefusedError(
            f"{group}: expected a recurrent kernel of 1, 3 or 4 blocks (SimpleRNN, GRU, LSTM); got shapes {shapes}"
        )

    def _cell(self, group: str, path: str, kind: str) -> tuple[int, int, dict[str, Any]]:
        """Width of the inputs, units and options of a cell."""
        shapes = self._shapes(path)
        if self._kind_of_cell(path, group) != kind or len(shapes[0]) != 2 or len(shapes) > 3:
            raise ImportRefusedError(f"{group}: expected the kernels and bias of a {kind}; got shapes {shapes}")
        options: dict[str, Any] = {"units": shapes[1][0], "use_bias": len(shapes) == 3}
        if kind == "GRU" and len(shapes) == 3:
            options["reset_after"] = len(shapes[2]) == 2
        elif kind == "GRU":
            because = "without biases a file of variables does not say where a GRU resets; Keras's default"
            assumption = chosen(self._settings, "reset_after", "true", ("true", "false"), because)
            self._assume(assumption)
            options["reset_after"] = assumption.value == "true"
        return shapes[0][0], shapes[1][0], options

    def _merge_mode(self) -> str:
        because = "a file of variables does not say how both directions are joined; Keras's default"
        assumption = chosen(self._settings, "merge_mode", "concat", tuple(MERGE_MODES), because)
        self._assume(assumption)
        return assumption.value

    def _assume(self, assumption: Assumption) -> None:
        if assumption not in self._assumptions:
            self._assumptions.append(assumption)

    def _in_order(self, found: Sequence[_Found]) -> list[_Found]:
        """The layers in the order in which they run."""
        given = self._settings.get("layers")
        links = [each.link for each in found]
        names = [link.name for link in links]
        if given is not None:
            names = _named(given, names)
            links = [
                Link(
                    link.name,
                    link.kind,
                    link.input_width,
                    link.output_width,
                    frozenset(names[: names.index(link.name)]),
                )
                for link in links
            ]
        try:
            orders = possible_orders([[link] for link in links])
        except TooManyOrdersError:
            raise ImportRefusedError(
                "there are many orders in which the layers fit", "layers=" + ",".join(names)
            ) from None
        if not orders:
            widths = "; ".join(f"{link.name}: {link.input_width or 'ids'} -> {link.output_width}" for link in links)
            both_ways = any(link.kind == "Bidirectional" for link in links)
            hint = " (merge_mode says how wide a Bidirectional layer's output is)" if both_ways else ""
            raise ImportRefusedError(
                f"the widths of the layers fit in no order{'' if given is None else ' given'}: {widths}{hint}"
            )
        if len(orders) > 1:
            first, second = (",".join(link.name for link in order) for order in orders)
            raise ImportRefusedError(f"the layers fit in several orders: {first}; or {second}", f"layers={first}")
        order = [link.name for link in orders[0]]
        if len(order) > 1:
            because = "a file of variables has no order of layers"
            because += "" if given is not None else "; this is the only one in which their widths fit"
            self._assume(Assumption("layers", ",".join(order), because, given=given is not None))
        return sorted(found, key=lambda each: order.index(each.group))

    def _with_options(self, line: Sequence[_Found], activation_layers: Sequence[str]) -> list[KerasLayer]:
        """The layers with what a file of variables does not say: options, or Keras's defaults."""
        cells = [each for each in line if each.cell]
        gated = [each for each in cells if each.cell != "SimpleRNN"]
        dense = [each for each in line if each.kind in ("Dense", "TimeDistributed")]
        names = tuple(ACTIVATIONS[3])
        options = {each.group: dict(each.options) for each in line}
        for group, value in self._values("activation", "tanh", cells, names).items():
            options[group]["activation"] = value
        for group, value in self._values("recurrent_activation", "sigmoid", gated, names).items():
            options[group]["recurrent_activation"] = value
        if dense and (len(dense) > 1 or activation_layers) and self._settings.get("head") is None:
            what = ", ".join(activation_layers) or f"its {len(dense)} Dense layers"
            raise ImportRefusedError(
                f"a file of variables does not say the activations of {what}",
                "head=" + ",".join(["relu"] * (len(dense) - 1) + ["none"]),
            )
        if activation_layers and not dense:
            raise ImportRefusedError(f"{activation_layers[0]}: an activation without a Dense layer cannot be served")
        for group, value in self._values("head", "none", dense, DENSE_ACTIVATIONS).items():
            options[group]["activation"] = "linear" if value == "none" else value
        if cells:
            because = "a file of variables does not say whether a layer goes backwards; one that does cannot be served"
            self._assume(chosen(self._settings, "go_backwards", "false", ("false",), because))
        if any(each.kind == "Embedding" for each in line):
            because = "a file of variables does not say whether id 0 is masked; lengths say where padding begins"
            self._assume(chosen(self._settings, "masking", "none", ("none", "lengths"), because))
        return [self._layer(each, options[each.group]) for each in line]

    def _values(self, option: str, default: str, layers: Sequence[_Found], allowed: Sequence[str]) -> dict[str, str]:
        """An option of several layers: one value for all, or one for each, in the order of the layers."""
        if not layers:
            return {}
        given = self._settings.get(option)
        value = default if given is None else given
        values = [part.strip() for part in value.split(",")]
        values = values * len(layers) if len(values) == 1 and option != "head" else values
        if len(values) != len(layers) or not set(values) <= set(allowed):
            raise ImportRefusedError(
                f"{option}: expected {len(layers)} of {', '.join(allowed)}, one for each of "
                f"{', '.join(each.group for each in layers)}; got {value[:200]!r}"
            )
        because = "a file of variables does not say it" + ("" if given is not None else "; Keras's default")
        self._assume(Assumption(option, value, because, given=given is not None))
        return {each.group: part for each, part in zip(layers, values, strict=True)}

    def _layer(self, found: _Found, options: dict[str, Any]) -> KerasLayer:
        base = {"name": found.group, "dtype": self._dtype}
        if found.kind == "TimeDistributed":
            inner = {"class_name": "Dense", "config": {**base, "name": f"{found.group}_dense", **options}}
            return KerasLayer(found.kind, found.group, {**base, "layer": inner}, found.group)
        if found.cell:
            options["return_sequences"] = True
        if found.kind != "Bidirectional":
            return KerasLayer(found.kind, found.group, {**base, **options}, found.group)
        merge_mode = options.pop("merge_mode")
        both = [
            {
                "class_name": found.cell,
                "config": {**base, "name": f"{found.group}_{way}", **options, "go_backwards": way == _DIRECTIONS[1]},
            }
            for way in _DIRECTIONS
        ]
        wrapped = {"merge_mode": merge_mode, "layer": both[0], "backward_layer": both[1]}
        return KerasLayer(found.kind, found.group, {**base, **wrapped}, found.group)

    def _version(self, layers: Sequence[KerasLayer]) -> str:
        because = "a file of variables does not say its version, and hard_sigmoid is another function in Keras 2"
        assumption = chosen(self._settings, "keras_version", "3", ("2", "3"), because)
        if "hard_sigmoid" in repr([layer.config for layer in layers]) or assumption.given:
            self._assume(assumption)
        return assumption.value


def _class_of(group: str) -> tuple[str, int]:
    """The class of a layer and its number by the name of its group: ``lstm_1`` is the second LSTM."""
    for kind, name in GROUPS.items():
        match = re.fullmatch(re.escape(name) + r"(?:_(\d{1,4}))?", group)
        if match:
            return kind, int(match[1] or 0)
    raise ImportRefusedError(f"{group[:200]}: of no layer that can be served; these can: {', '.join(GROUPS)}")


def _named(given: str, names: Sequence[str]) -> list[str]:
    """The groups that the user's list means; a class that comes again is the next of its class."""
    taken: list[str] = []
    for part in given.split(","):
        name, count = part.strip(), 0
        while name in taken:
            count += 1
            name = f"{part.strip()}_{count}"
        taken.append(name)
    if sorted(taken) != sorted(names):
        raise ImportRefusedError(f"layers: expected {', '.join(sorted(names))} in some order; got {given[:300]!r}")
    return taken
