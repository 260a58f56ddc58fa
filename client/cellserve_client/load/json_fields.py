"""Frozen dataclasses as JSON and back: every field by its name, or by the one in its metadata under ``JSON_NAME``."""

from __future__ import annotations

import types
import typing
from dataclasses import Field, fields, is_dataclass
from math import isfinite
from typing import Any, TypeVar, cast

from cellserve.errors import FieldInvalidError

JSON_NAME = "json"
# Whole numbers up to here are floats, too, without loss; counts and microseconds are not larger.
LARGEST_INTEGER = 2**53

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A dataclass, or what such a one holds, as objects, lists, numbers, strings, booleans and None."""
    if is_dataclass(value):
        return {_name(field): to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], document: Any, path: str) -> T:
    """Reads a dataclass from what ``to_json`` has made of it. Fields that it does not know are passed over.

    Args:
        kind: the dataclass.
        path: what the document is called in messages.

    Raises:
        FieldInvalidError: a field is missing or of another type; the message names it.
    """
    if not isinstance(document, dict):
        raise _unexpected(path, "an object", document)
    hints = typing.get_type_hints(kind)
    values = {}
    for field in fields(cast(Any, kind)):
        name = _name(field)
        if name not in document:
            raise FieldInvalidError(f"{path}: expected the field {name!r}; it has {', '.join(map(repr, document))}")
        values[field.name] = _read(hints[field.name], document[name], f"{path}.{name}")
    return kind(**values)


def _name(field: Field[Any]) -> str:
    return cast(str, field.metadata.get(JSON_NAME, field.name))


def _read(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    if is_dataclass(hint):
        return from_json(cast(type[Any], hint), value, path)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _read(parts[0], value, path)
    if origin is dict:
        if not isinstance(value, dict):
            raise _unexpected(path, "an object", value)
        return {key: _read(parts[1], item, f"{path}.{key}") for key, item in value.items()}
    if origin is tuple:
        return _read_list(parts, value, path)
    if type(value) is int and abs(value) > LARGEST_INTEGER:
        raise _unexpected(path, f"a number up to {LARGEST_INTEGER}", value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise _unexpected(path, f"a value of type {hint.__name__}", value)
    if hint is float and not isfinite(value):
        raise _unexpected(path, "a finite number", value)
    return value


def _read_list(parts: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _unexpected(path, "a list", value)
    if parts[-1] is not Ellipsis and len(value) != len(parts):
        raise _unexpected(path, f"a list of {len(parts)}", value)
    hints = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
    return tuple(
        _read(hint, item, f"{path}[{index}]") for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _unexpected(path: str, expected: str, got: Any) -> FieldInvalidError:
    text = repr(got)
    return FieldInvalidError(f"{path}: expected {expected}; got {text if len(text) < 60 else text[:57] + '...'}")
