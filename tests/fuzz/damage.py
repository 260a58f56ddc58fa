"""Bytes and JSON that something has happened to: cut short, flipped, put twice, zeroed, exchanged for worse."""

from __future__ import annotations

import copy
import random
from typing import Any

HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 31, 1 << 63, 1 << 200, 1e308, float("nan"), float("inf"), "", "x" * 10_000, "\0", [], {},
    [[]], "NaN", "-1", "1e999", {"a": {}},
)  # fmt: skip


def damaged(data: bytes, choices: random.Random) -> bytes:
    """The bytes with one to three kinds of damage."""
    for _ in range(choices.randint(1, 3)):
        data = _once(data, choices)
    return data


def _once(data: bytes, choices: random.Random) -> bytes:
    if not data:
        return choices.randbytes(choices.randrange(64))
    start = choices.randrange(len(data))
    # Heads are where the lengths are.
    if choices.randrange(2):
        start = choices.randrange(min(len(data), 256))
    end = min(start + choices.choice([1, 2, 4, 8, 64]), len(data))
    match choices.randrange(8):
        case 0:
            return data[:start]
        case 1:
            return data[:start] + bytes([data[start] ^ 1 << choices.randrange(8)]) + data[start + 1 :]
        case 2:
            return data[:start] + choices.randbytes(end - start) + data[end:]
        case 3:
            return data[:start] + data[end:]
        case 4:
            return data[:end] + data[start:]
        case 5:
            return data[:start] + bytes(end - start) + data[end:]
        case 6:
            return data[:start] + b"\xff" * (end - start) + data[end:]
        case _:
            return data[:start] + choices.choice([b"\x7f\xff\xff\xff", b"\0" * 8, b'"', b"{", b"]"]) + data[start:]


def damaged_json(document: Any, choices: random.Random) -> Any:
    """A copy of a JSON document of which one part is left out, put twice, or exchanged for a hostile value."""
    document = copy.deepcopy(document)
    places = list(_places(document))
    if not places:
        return choices.choice(HOSTILE_VALUES)
    container, key = choices.choice(places)
    match choices.randrange(4):
        case 0:
            del container[key]
        case 1 if isinstance(container, list):
            container.extend([copy.deepcopy(container[key])] * choices.choice([1, 50]))
        case 2:
            other, other_key = choices.choice(places)
            container[key] = copy.deepcopy(other[other_key])
        case _:
            container[key] = choices.choice(HOSTILE_VALUES)
    return document


def _places(document: Any) -> Any:
    """Every (container, key) within."""
    items: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    for key, value in items:
        yield document, key
        yield from _places(value)
