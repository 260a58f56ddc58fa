"""The order in which a model's forward() uses its modules, as far as a state dict lets one know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cellserve.specs import DENSE_ACTIVATIONS
from cellserve_server.importers.base import Assumption, ImportRefusedError, Settings
from cellserve_server.importers.chains import Link, TooManyOrdersError, possible_orders
from cellserve_server.importers.pytorch_checkpoint import some_names
from cellserve_server.importers.pytorch_modules import Modules, PlainModule, RecurrentModule

AnyModule: TypeAlias = RecurrentModule | PlainModule
_EMBEDDING_WORDS = ("emb", "wte", "lookup", "word_vec")
_LINEAR_WORDS = ("fc", "lin", "head", "proj", "out", "decoder", "dense", "classif", "logit")


@dataclass(frozen=True)
class Part:
    """A module in its place: ``role`` is ``recurrent``, ``embedding`` or ``linear``, ``activation`` a linear one's."""

    module: AnyModule
    role: str
    activation: str = "none"


@dataclass(frozen=True)
class Chain:
    """The modules in the order in which they are used."""

    parts: tuple[Part, ...]
    assumptions: tuple[Assumption, ...]
    ignored: tuple[str, ...]


def find_order(modules: Modules, settings: Settings) -> Chain:
    """Puts the modules into an order.

    Args:
        modules: those of the state dict.
        settings: ``order`` names modules, the first used first, and leaves the others out; ``embedding`` says which
            module is an embedding; ``head`` gives the activation after each linear module.

    Raises:
        ImportRefusedError: there is a tensor of no known module, no order fits, or several do.
    """
    named: dict[str, AnyModule] = {module.name: module for module in modules.recurrent}
    named |= {module.name: module for module in modules.plain}
    given = settings.get("order")
    used = list(named) if given is None else [name.strip() for name in given.split(",")]
    if len(set(used)) != len(used) or not set(used) <= named.keys():
        raise ImportRefusedError(f"order: expected names among {some_names(named)}, each once; got {given!r}")
    links = _links([named[name] for name in used], settings, in_order=given is not None)
    if given is None and modules.unknown:
        raise ImportRefusedError(
            f"{some_names(modules.unknown)}: of no module that can be served (nn.RNN, nn.LSTM, nn.GRU, their "
            "cells, nn.Embedding, nn.Linear); an order of the others leaves them out",
            option="order=" + ",".join(_some_order(links)),
        )
    chain = _one_order(links, fixed=given is not None)
    parts, assumptions = _with_activations([(named[link.name], link.kind) for link in chain], settings)
    if len(chain) > 1:
        because = "a state dict does not say how forward() joins its modules"
        because += "" if given is not None else "; this is the only order in which their widths fit"
        names = ",".join(link.name for link in chain)
        assumptions.insert(0, Assumption("order", names, because, given=given is not None))
    left = [f"{name}: not in the order that was given" for name in named if name not in used]
    if given is not None:
        left += [f"{name}: of no module that can be served" for name in modules.unknown]
    return Chain(tuple(parts), tuple(assumptions), tuple(left))


def _links(modules: Sequence[AnyModule], settings: Settings, in_order: bool) -> list[tuple[list[Link], list[Link]]]:
    """For each module what it is by its name, and what it could be by its shape alone."""
    plain = [module for module in modules if isinstance(module, PlainModule)]
    embedding = settings.get("embedding") if any(module.bias is None for module in plain) else None
    if embedding is not None and embedding not in ("none", *(module.name for module in plain)):
        raise ImportRefusedError(
            f"embedding: expected none, or one of {some_names(module.name for module in plain)}; got {embedding!r}"
        )
    links = []
    before: list[str] = []
    for module in modules:
        after = frozenset(before) if in_order else _numbered_before(module.name, [other.name for other in modules])
        before.append(module.name)
        if isinstance(module, RecurrentModule):
            link = Link(module.name, "recurrent", module.input_size, module.output_size, after)
            links.append(([link], [link]))
            continue
        as_linear = Link(module.name, "linear", module.columns, module.rows, after)
        as_embedding = Link(module.name, "embedding", None, module.columns, after)
        both = [as_linear] if module.bias is not None else [as_linear, as_embedding]
        if embedding is not None and module.bias is None:
            both = [as_embedding] if module.name == embedding else [as_linear]
        links.append(([link for link in both if link.kind in _roles_of_name(module.name)] or both, both))
    return links


def _roles_of_name(name: str) -> tuple[str, ...]:
    last = [part for part in name.lower().split(".") if not part.isdigit()][-1:] or [""]
    if any(word in last[0] for word in _EMBEDDING_WORDS):
        return ("embedding",)
    return ("linear",) if any(word in last[0] for word in _LINEAR_WORDS) else ("linear", "embedding")


def _numbered_before(name: str, names: Sequence[str]) -> frozenset[str]:
    """The modules of the same ``nn.Sequential`` or ``nn.ModuleList`` that have a lower number."""
    parent, _, number = name.rpartition(".")
    if not number.isdecimal():
        return frozenset()
    brothers = [(other, other.rpartition(".")) for other in names]
    return frozenset(
        other
        for other, (folder, _, last) in brothers
        if folder == parent and last.isdecimal() and int(last) < int(number)
    )


def _some_order(links: Sequence[tuple[list[Link], list[Link]]]) -> list[str]:
    """The modules in an order that fits, if one is found; an example for a message."""
    try:
        found = possible_orders([by_name for by_name, _ in links], most=1)
    except TooManyOrdersError:
        found = []
    return [link.name for link in (found[0] if found else [by_shape[0] for _, by_shape in links])]


def _one_order(links: Sequence[tuple[list[Link], list[Link]]], fixed: bool) -> tuple[Link, ...]:
    names = [by_shape[0].name for _, by_shape in links]
    option = "" if fixed else "order=" + ",".join(names)
    try:
        found = possible_orders([by_name for by_name, _ in links]) or possible_orders(
            [by_shape for _, by_shape in links]
        )
    except TooManyOrdersError:
        raise ImportRefusedError(
            f"there are many orders in which the modules {some_names(names)} fit", option
        ) from None
    if not found:
        widths = "; ".join(
            " or ".join(f"{link.name or 'it'}: {link.input_width or 'ids'} -> {link.output_width}" for link in by_shape)
            for _, by_shape in links
        )
        raise ImportRefusedError(
            f"the widths of the modules fit in no order{' given' if fixed else ''}: {widths}", option
        )
    if len(found) > 1:
        first, second = ([f"{link.name} ({link.kind})" for link in chain] for chain in found)
        roles = [{link.name: link.kind for link in chain} for chain in found]
        option = "order=" + ",".join(link.name for link in found[0])
        if roles[0] != roles[1]:
            option = "embedding=" + next(name for name in names if roles[0][name] != roles[1][name])
        raise ImportRefusedError(
            f"the modules fit in several orders: {', '.join(first)}; or {', '.join(second)}", option
        )
    return found[0]


def _with_activations(
    chain: Sequence[tuple[AnyModule, str]], settings: Settings
) -> tuple[list[Part], list[Assumption]]:
    """Gives the linear modules their activations: one alone has none unless told, several have to be told."""
    count = sum(role == "linear" for _, role in chain)
    if not count:
        return [Part(module, role) for module, role in chain], []
    given = settings.get("head")
    if given is None and count > 1:
        raise ImportRefusedError(
            f"a state dict does not say what forward() applies between its {count} linear modules",
            option="head=" + ",".join(["relu"] * (count - 1) + ["none"]),
        )
    value = "none" if given is None else given
    activations = [name.strip() for name in value.split(",")]
    if len(activations) != count or not set(activations) <= set(DENSE_ACTIVATIONS):
        raise ImportRefusedError(
            f"head: expected {count} of {', '.join(DENSE_ACTIVATIONS)}, one for each linear module; got {value!r}"
        )
    because = "a state dict does not say what forward() applies to a linear module's outputs"
    waiting = iter(activations)
    parts = [Part(module, role, next(waiting) if role == "linear" else "none") for module, role in chain]
    return parts, [Assumption("head", value, because, given=given is not None)]
