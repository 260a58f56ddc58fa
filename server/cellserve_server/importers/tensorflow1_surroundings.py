"""What stands around the cells of a checkpoint: a table of embeddings below, dense layers above."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cellserve.specs import DENSE_ACTIVATIONS, Dense, Embedding
from cellserve_server.importers.base import Assumption, ImportRefusedError, Settings
from cellserve_server.importers.tensorflow1_names import modern_name
from cellserve_server.importers.tensorflow1_parts import Part
from cellserve_server.importers.tensorflow1_scopes import Leaf

NONE = "none"
_EMBEDDING_WORD = "embed"
_SHOWN = 8
# What the kernel and the bias of one dense layer are called at their ends.
_ENDS = (
    ("/kernel", "/bias"),
    ("/W", "/b"),
    ("/w", "/b"),
    ("/weight", "/bias"),
    ("_W", "_b"),
    ("_w", "_b"),
    ("_weights", "_biases"),
    ("_weights", "_bias"),
    ("_kernel", "_bias"),
)


@dataclass(frozen=True)
class _DensePair:
    """The variables of what may be a dense layer; ``bias`` None: it has none."""

    name: str
    kernel: Leaf
    bias: Leaf | None

    @property
    def widths(self) -> tuple[int, int]:
        """Of inputs and outputs."""
        return self.kernel.shape[0], self.kernel.shape[1]


def choose_embedding(
    leaves: Mapping[str, Leaf], input_size: int | None, settings: Settings, notes: list[Assumption]
) -> Part | None:
    """The table whose rows the cells take: the only matrix that is called so and fits, or the one the user names.

    Args:
        leaves: the variables that are not the cells'.
        input_size: what the lowest cell takes; None: ids, so there is a table already.
        settings: ``embedding``.
        notes: takes the assumption.

    Raises:
        ImportRefusedError: several fit, or what the user names does not.
    """
    if input_size is None:
        return None
    fitting = [leaf for name, leaf in leaves.items() if _EMBEDDING_WORD in name.lower() and _is_table(leaf, input_size)]
    given = settings.get("embedding")
    if given is None and len(fitting) > 1:
        names = ", ".join(leaf.name for leaf in fitting[:_SHOWN])
        raise ImportRefusedError(
            f"several tables of rows as wide as the cells' inputs, {input_size}: {names}",
            option=f"embedding={fitting[0].name}",
        )
    value = given or (fitting[0].name if fitting else NONE)
    if given is not None or fitting:
        because = f"by its name and its width, {input_size}, the cells' inputs are its rows (none: inputs are vectors)"
        notes.append(Assumption("embedding", value, because, given=given is not None))
    if value == NONE:
        return None
    if value not in leaves or not _is_table(leaves[value], input_size):
        got = list(leaves[value].shape) if value in leaves else "no such variable"
        raise ImportRefusedError(f"embedding: expected a matrix with {input_size} columns or none; {value!r} is {got}")
    table = leaves[value]
    return Part(Embedding(*table.shape), {"embedding/embeddings": table})


def _is_table(leaf: Leaf, width: int) -> bool:
    return len(leaf.shape) == 2 and leaf.shape[1] == width and leaf.shape[0] > 0


def choose_head(
    leaves: Mapping[str, Leaf], width: int, embedding: Part | None, settings: Settings, notes: list[Assumption]
) -> list[Part]:
    """The dense layers on the cells' outputs: the only kernel and bias that fit, or those that the user names.

    Args:
        leaves: the variables that are not the cells'.
        width: of the cells' outputs.
        embedding: what was chosen below the cells, which is not looked at again.
        settings: ``head``: ``none``, or ``dense:relu,dense_1:softmax``.
        notes: takes the assumption.

    Raises:
        ImportRefusedError: it is open which layers there are, or what the user names does not fit.
    """
    taken = set() if embedding is None else {leaf.name for leaf in embedding.leaves.values()}
    free = {name: leaf for name, leaf in leaves.items() if name not in taken}
    pairs = _pairs(free)
    given = settings.get("head")
    if given is None:
        return _only_head(pairs, width, notes)
    notes.append(Assumption("head", given, "what follows the cells is in no checkpoint", given=True))
    if given == NONE:
        return []
    parts = []
    for entry in given.split(","):
        name, _, activation = entry.strip().partition(":")
        pair = _pair_named(name, pairs, free)
        if pair.widths[0] != width:
            raise ImportRefusedError(
                f"head: expected a kernel with {width} rows; {pair.kernel.name} has {pair.widths[0]}"
            )
        parts.append(_dense(pair, activation or NONE))
        width = pair.widths[1]
    return parts


def about_options(leaves: Mapping[str, Leaf], settings: Settings) -> set[str]:
    """The variables about which the user decided by ``head`` and ``embedding``: they may stay unused."""
    decided: set[str] = set()
    if settings.get("head") is not None:
        pairs = _pairs(leaves).values()
        decided |= {leaf.name for pair in pairs for leaf in (pair.kernel, pair.bias) if leaf is not None}
    if settings.get("embedding") is not None:
        decided |= {name for name in leaves if _EMBEDDING_WORD in name.lower()}
    return decided


def _only_head(pairs: Mapping[str, _DensePair], width: int, notes: list[Assumption]) -> list[Part]:
    fitting = [pair for pair in pairs.values() if pair.widths[0] == width]
    if not fitting:
        return []
    pair = fitting[0]
    others = [each for each in pairs.values() if each is not pair and each.widths[0] in (width, pair.widths[1])]
    if others:
        names = ", ".join(each.name for each in [pair, *others][:_SHOWN])
        raise ImportRefusedError(
            f"several dense layers fit the cells' outputs, {width} wide, or one another: {names}; name those that "
            "follow the cells, in order, with their functions (one of " + ", ".join(DENSE_ACTIVATIONS) + "), or none",
            option=f"head={pair.name}:{NONE}",
        )
    because = (
        "by its shape it is a dense layer on the cells' outputs, without a function (another: "
        f"head={pair.name}:softmax; none of it: head=none)"
    )
    notes.append(Assumption("head", f"{pair.name}:{NONE}", because))
    return [_dense(pair, NONE)]


def _pairs(leaves: Mapping[str, Leaf]) -> dict[str, _DensePair]:
    by_modern = {modern_name(name): leaf for name, leaf in leaves.items()}
    pairs = {}
    for modern, kernel in by_modern.items():
        for kernel_end, bias_end in _ENDS:
            name = f"/{modern}".removesuffix(kernel_end)
            bias = by_modern.get((name + bias_end).removeprefix("/")) if name != f"/{modern}" else None
            if bias is not None and len(kernel.shape) == 2 and bias.shape == kernel.shape[1:]:
                shown = name.removeprefix("/") or kernel.name
                pairs[shown] = _DensePair(shown, kernel, bias)
                break
    return pairs


def _pair_named(name: str, pairs: Mapping[str, _DensePair], leaves: Mapping[str, Leaf]) -> _DensePair:
    """A dense layer by its scope (``dense``), or by its variables (``Variable+Variable_1``, or a kernel alone)."""
    if name in pairs:
        return pairs[name]
    if modern_name(name) in pairs:
        return pairs[modern_name(name)]
    kernel_name, plus, bias_name = name.partition("+")
    kernel = leaves.get(kernel_name)
    bias = leaves.get(bias_name) if plus else None
    if kernel is None or (plus and bias is None):
        known = ", ".join(list(pairs)[:_SHOWN]) or "none"
        raise ImportRefusedError(
            f"head: expected dense layers ({known}), or the names of a kernel and a bias as W+b; got {name!r}"
        )
    if len(kernel.shape) != 2 or 0 in kernel.shape or (bias is not None and bias.shape != kernel.shape[1:]):
        shapes = f"{list(kernel.shape)}" + (f" and {list(bias.shape)}" if bias else "")
        raise ImportRefusedError(f"head: expected a matrix and a bias as wide; {name} has {shapes}")
    return _DensePair(name, kernel, bias)


def _dense(pair: _DensePair, activation: str) -> Part:
    if activation not in DENSE_ACTIVATIONS:
        raise ImportRefusedError(
            f"head: {pair.name}: expected one of {', '.join(DENSE_ACTIVATIONS)} after the colon; got {activation!r}"
        )
    leaves = {"dense/kernel": pair.kernel}
    if pair.bias is not None:
        leaves["dense/bias"] = pair.bias
    return Part(Dense(pair.widths[1], activation), leaves)
