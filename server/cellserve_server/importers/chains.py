"""The order of modules that a file lists without one: what their widths allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_TRIED = 20_000


@dataclass(frozen=True)
class Link:
    """A module as it could stand in a chain.

    Attributes:
        name: the module's.
        kind: what it would be there, for the caller.
        input_width: the width that it takes; None: ids, so it can only be first.
        output_width: the width that it gives.
        after: names of modules that come before it, because the file says so.
    """

    name: str
    kind: str
    input_width: int | None
    output_width: int
    after: frozenset[str] = frozenset()


class TooManyOrdersError(Exception):
    """The search met its limit: there are a great many possible orders."""


def possible_orders(modules: Sequence[Sequence[Link]], most: int = 2) -> list[tuple[Link, ...]]:
    """The chains in which every module stands once and takes what the one before it gives.

    Args:
        modules: for each module what it could be, at least one possibility.
        most: how many to find; two tell that there is a choice.

    Raises:
        TooManyOrdersError: more than ``MAX_TRIED`` beginnings were tried.
    """
    found: list[tuple[Link, ...]] = []
    tried = 0
    waiting: list[tuple[Link, ...]] = [()]
    while waiting and len(found) < most:
        chain = waiting.pop()
        tried += 1
        if tried > MAX_TRIED:
            raise TooManyOrdersError
        if len(chain) == len(modules):
            found.append(chain)
            continue
        used = {link.name for link in chain}
        for possibilities in modules:
            if possibilities[0].name not in used:
                waiting += [(*chain, link) for link in possibilities if _fits(chain, link, used)]
    return found


def _fits(chain: tuple[Link, ...], link: Link, used: set[str]) -> bool:
    if not link.after <= used:
        return False
    return not chain or chain[-1].output_width == link.input_width
