"""A reader of the pickles that ``torch.save`` makes, which knows tensors and plain values and can call nothing.

Python's own unpickler imports and calls whatever a file names. This one is a small machine of its own for the few
instructions that tensors in dicts and lists need; a name in the file is compared with a short list and is otherwise
refused. Source: the instructions as ``pickletools`` documents them, and what ``torch.serialization`` writes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Any, Final

from cellserve_server.importers.base import ImportRefusedError

MAX_PICKLE_BYTES = 16 << 20
MAX_INSTRUCTIONS = 2_000_000
MAX_TENSOR_DIMENSIONS = 16
_SHOWN_CHARS = 200

STORAGE_DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "FloatStorage": "float32",
        "DoubleStorage": "float64",
        "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16",
        "LongStorage": "int64",
        "IntStorage": "int32",
        "ShortStorage": "int16",
        "CharStorage": "int8",
        "ByteStorage": "uint8",
        "BoolStorage": "bool",
    }
)


@dataclass(frozen=True)
class StoredStorage:
    """A piece of memory that a file holds: its key in the file, its elements' type, and how many they are."""

    key: str
    dtype: str
    elements: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that a file holds: elements ``offset + sum(index_i stride_i)`` of a storage."""

    storage: StoredStorage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    """A name that a file may use. It is no object of that name: nothing was imported."""

    name: str


class _Mark:
    """Where a group of values on the stack begins."""


_REBUILDERS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter")
_DICTS = ("collections.OrderedDict", "collections.Counter")
_PLAIN = ("torch.Size", "torch.device")
_DTYPES = tuple(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64", "bool"))
_KNOWN = frozenset((*_REBUILDERS, *_DICTS, *_PLAIN, *_DTYPES, *(f"torch.{name}" for name in STORAGE_DTYPES)))
_CONSTANTS = MappingProxyType({"NONE": None, "NEWTRUE": True, "NEWFALSE": False})
_EMPTY: Mapping[str, Callable[[], object]] = MappingProxyType(
    {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
)
_INTEGERS = ("BININT", "BININT1", "BININT2", "LONG1")
_STRINGS = ("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES")
_LITERALS = frozenset((*_INTEGERS, "BINFLOAT", *_STRINGS))
_TUPLES = MappingProxyType({"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3})


@dataclass(frozen=True)
class Unpickled:
    """What a pickle holds: dicts, lists, tuples, sets, strings, numbers, ``StoredTensor``; and its storages by key."""

    value: object
    storages: Mapping[str, StoredStorage]


def read_pickle(stream: BytesIO, label: str) -> Unpickled:
    """Reads one pickle.

    Args:
        stream: stands at the pickle's first byte; afterwards it stands behind the pickle.
        label: what the pickle is called in messages.

    Raises:
        ImportRefusedError: it names anything that is not a tensor or a plain value, or is damaged or too large.
    """
    machine = _Machine(label)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_INSTRUCTIONS:
                raise ImportRefusedError(f"{label}: expected at most {MAX_INSTRUCTIONS} pickle instructions; got more")
            machine.do(instruction.name, argument)
        return Unpickled(machine.result(), machine.storages)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ImportRefusedError(f"{label}: the pickle is damaged: {type(error).__name__}: {error}") from error


class _Machine:
    """The stack machine of the pickle format, without the instructions that call or import."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, StoredStorage] = {}

    def result(self) -> object:
        """What is left at the end."""
        (value,) = self._stack
        return value

    def do(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self._stack.append(self._take(_TUPLES[name]))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name in ("PROTO", "FRAME", "STOP"):
            return
        else:
            self._do_rare(name, argument)

    def _do_rare(self, name: str, argument: Any) -> None:
        match name:
            case "MARK":
                self._stack.append(_Mark())
            case "POP":
                self._stack.pop()
            case "TUPLE":
                self._stack.append(tuple(self._marked()))
            case "APPEND":
                (value,) = self._take(1)
                self._top(list).append(value)
            case "APPENDS":
                values = self._marked()
                self._top(list).extend(values)
            case "ADDITEMS":
                values = self._marked()
                self._top(set).update(map(_key, values))
            case "SETITEM":
                key, value = self._take(2)
                self._top(dict)[_key(key)] = value
            case "SETITEMS":
                pairs = self._marked()
                self._top(dict).update(zip(map(_key, pairs[::2]), pairs[1::2], strict=True))
            case "GLOBAL":
                self._stack.append(self._known_global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                self._stack.append(self._known_global(".".join(self._take(2))))
            case "REDUCE":
                function, arguments = self._take(2)
                self._stack.append(self._rebuild(function, arguments))
            case "BUILD":
                self._leave_out_attributes()
            case "BINPERSID":
                (identifier,) = self._take(1)
                self._stack.append(self._storage(identifier))
            case _:
                raise ImportRefusedError(
                    f"{self._label}: the pickle instruction {name}: expected tensors, dicts, lists, numbers and "
                    "strings alone"
                )

    def _take(self, count: int) -> tuple[Any, ...]:
        if len(self._stack) < count:
            raise ValueError("the stack is empty")
        values = tuple(self._stack[-count:])
        if any(isinstance(value, _Mark) for value in values):
            raise ValueError("a group of values begins where a value should be")
        del self._stack[-count:]
        return values

    def _marked(self) -> list[Any]:
        for position in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[position], _Mark):
                values = self._stack[position + 1 :]
                del self._stack[position:]
                return values
        raise ValueError("a group of values has no beginning")

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"expected a {kind.__name__}; got a {type(self._stack[-1]).__name__}")
        return self._stack[-1]

    def _known_global(self, name: str) -> _Global:
        if name not in _KNOWN:
            raise ImportRefusedError(
                f"{self._label}: to read it one would have to run {name[:_SHOWN_CHARS]!r}; expected tensors, dicts, "
                "lists, numbers and strings alone. Save model.state_dict() without other objects, or save it as "
                "safetensors"
            )
        return _Global(name)

    def _rebuild(self, function: Any, arguments: Any) -> object:
        name = function.name
        if not isinstance(arguments, tuple):
            raise ValueError("a call without its arguments")
        if name in _DICTS:
            return _dict(*arguments)
        if name in _PLAIN:
            return arguments
        if name == "torch._utils._rebuild_parameter":
            if not isinstance(arguments[0], StoredTensor):
                raise ValueError("a parameter without its tensor")
            return arguments[0]
        if name in _REBUILDERS:
            return _tensor(*arguments[:4])
        raise ImportRefusedError(f"{self._label}: {name} is called; expected tensors, dicts, numbers and strings alone")

    def _leave_out_attributes(self) -> None:
        """An OrderedDict of a module carries ``_metadata``, version numbers of layers; tensors carry attributes too."""
        self._take(1)
        if not isinstance(self._stack[-1], (dict, StoredTensor)):
            raise ValueError(f"attributes for a {type(self._stack[-1]).__name__}")

    def _storage(self, identifier: tuple[Any, ...]) -> StoredStorage:
        kind, storage_type, key, _, elements, *view = identifier
        dtype = STORAGE_DTYPES.get(storage_type.name.removeprefix("torch."))
        if kind != "storage" or dtype is None or any(view):
            raise ValueError("expected a whole storage of a known type")
        if not isinstance(key, str) or not _is_count(elements):
            raise ValueError("expected a storage's key and its number of elements")
        storage = StoredStorage(key, dtype, elements)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"two storages with the key {key[:_SHOWN_CHARS]!r}")
        return storage


def _key(value: Any) -> Any:
    """A key of a dict. Tuples are none: Python counts no depth when it hashes a deep one, and dies."""
    if value is not None and not isinstance(value, (str, int, float, bytes)):
        raise ValueError(f"expected a string or a number as a key; got a {type(value).__name__}")
    return value


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    """What ``OrderedDict`` makes: of nothing, of a dict, or of pairs."""
    if isinstance(pairs, dict):
        return dict(pairs)
    return {_key(key): value for key, value in pairs}


def _tensor(storage: StoredStorage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> StoredTensor:
    """A tensor whose every element lies in its storage; no element is used twice, so that it stays as small as it."""
    counts = (offset, *shape, *stride)
    if not isinstance(storage, StoredStorage) or not all(_is_count(count) for count in counts):
        raise ValueError("expected a tensor's storage, offset, shape and strides")
    if len(shape) != len(stride) or len(shape) > MAX_TENSOR_DIMENSIONS:
        raise ValueError(f"a tensor of shape {shape} with strides {stride}")
    elements = 1
    for length in shape:
        elements *= length
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if elements > storage.elements or (elements and last >= storage.elements):
        raise ValueError(f"a tensor of shape {shape} in a storage of {storage.elements} elements")
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48
