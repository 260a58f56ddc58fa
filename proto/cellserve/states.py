"""Nested states <-> ``State``, and nested states <-> flat lists of arrays.

A *structure* says how a state is nested and how wide its parts are, as TensorFlow's ``state_size`` does: an int, an
``LSTMStateTuple`` of ints, or a tuple of structures. A *state* is nested in the same way and has arrays
``[batch, units]`` in place of the ints. *Leaves* are those arrays in order (c before h, the first layer first).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from cellserve.errors import FieldInvalidError, ShapeMismatchError
from cellserve.tensors import (
    Array,
    array_from_tensor,
    data_type_of,
    require_dtype,
    require_shape,
    tensor_from_array,
)
from cellserve.v1 import state_pb2, tensor_pb2


class LSTMStateTuple(NamedTuple):
    """The state of an LSTM, in TensorFlow's order: c, the cell state, then h, the hidden state."""

    c: Any
    h: Any


# Recursive, and NamedTuple fields cannot be: mypy sees the leaves as Any, the functions below check them.
Structure: TypeAlias = Any
NestedState: TypeAlias = Any


def leaf_sizes(structure: Structure) -> list[int]:
    """The widths of a structure's leaves, in order."""
    if isinstance(structure, int):
        return [structure]
    return [size for part in structure for size in leaf_sizes(part)]


def leaf_names(structure: Structure, prefix: str = "state") -> list[str]:
    """What each leaf is called in messages to people: ``state[0].c``."""
    if isinstance(structure, int):
        return [prefix]
    return [name for label, part in _parts(structure, structure, prefix) for name in leaf_names(part, label)]


def _parts(structure: Structure, value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The direct parts of a nested value with their names."""
    if isinstance(structure, LSTMStateTuple):
        yield f"{prefix}.c", value[0]
        yield f"{prefix}.h", value[1]
    else:
        for index, part in enumerate(value):
            yield f"{prefix}[{index}]", part


def unflatten(structure: Structure, leaves: Sequence[Any]) -> NestedState:
    """Nests leaves as the structure says. The number of leaves has to fit."""
    iterator = iter(leaves)
    state = _take(structure, iterator)
    assert next(iterator, None) is None, "more leaves than the structure has"
    return state


def _take(structure: Structure, leaves: Iterator[Any]) -> NestedState:
    if isinstance(structure, int):
        return next(leaves)
    parts = [_take(part, leaves) for part in structure]
    return LSTMStateTuple(*parts) if isinstance(structure, LSTMStateTuple) else tuple(parts)


def flatten(structure: Structure, state: NestedState, field: str = "state") -> list[Array]:
    """The leaves of a nested state. Where an ``LSTMStateTuple`` is due a plain pair (c, h) will do, as in TensorFlow.

    Raises:
        ShapeMismatchError: the state is nested in another way than the structure; the part is named.
    """
    if isinstance(structure, int):
        if isinstance(state, (tuple, list)):
            raise ShapeMismatchError(f"{field}: expected one array [batch, {structure}]; got a tuple of {len(state)}")
        return [np.asarray(state)]
    kind = "a pair (c, h)" if isinstance(structure, LSTMStateTuple) else f"a tuple of {len(structure)} states"
    if not isinstance(state, (tuple, list)):
        raise ShapeMismatchError(f"{field}: expected {kind}; got {type(state).__name__}")
    if len(state) != len(structure):
        raise ShapeMismatchError(f"{field}: expected {kind}; got a tuple of {len(state)}")
    return [
        leaf
        for part, (label, value) in zip(structure, _parts(structure, state, field), strict=True)
        for leaf in flatten(part, value, label)
    ]


def check_leaves(
    structure: Structure, leaves: Sequence[Array], rows: int | str, dtype: np.dtype[Any], field: str
) -> None:
    """Checks that every leaf is ``[rows, units]`` of one dtype; a word for ``rows`` stands for any number.

    Raises:
        ShapeMismatchError, DtypeMismatchError: naming the leaf.
    """
    for name, size, leaf in zip(leaf_names(structure, field), leaf_sizes(structure), leaves, strict=True):
        require_shape(leaf, (rows, size), name)
        require_dtype(leaf, dtype, name)


def state_to_proto(structure: Structure, leaves: Sequence[Array]) -> state_pb2.State:
    """Packs leaves as a ``State`` that is nested as the structure says."""
    return _pack(structure, iter(leaves))


def _pack(structure: Structure, leaves: Iterator[Array]) -> state_pb2.State:
    if isinstance(structure, int):
        return state_pb2.State(tensor=tensor_from_array(next(leaves), "state"))
    if isinstance(structure, LSTMStateTuple):
        c, h = next(leaves), next(leaves)
        pair = state_pb2.LstmState(c=tensor_from_array(c, "state.c"), h=tensor_from_array(h, "state.h"))
        return state_pb2.State(lstm=pair)
    return state_pb2.State(tuple=state_pb2.TupleState(items=[_pack(part, leaves) for part in structure]))


def state_from_proto(structure: Structure, state: state_pb2.State, field: str = "state") -> list[Array]:
    """Unpacks a ``State`` into leaves; they are read-only.

    Raises:
        FieldInvalidError: nothing is set.
        ShapeMismatchError: the state is nested in another way, or a part's bytes do not fit its shape.
        DtypeMismatchError: a part's element type is unknown.
    """
    kind = state.WhichOneof("kind")
    if kind is None:
        raise FieldInvalidError(f"{field}: expected a state; got an empty message")
    if isinstance(structure, int):
        if kind != "tensor":
            raise ShapeMismatchError(f"{field}: expected one tensor [batch, {structure}]; got {_kind_text(state)}")
        return [array_from_tensor(state.tensor, field)]
    if isinstance(structure, LSTMStateTuple):
        if kind != "lstm":
            raise ShapeMismatchError(f"{field}: expected an LSTM's (c, h); got {_kind_text(state)}")
        return [array_from_tensor(state.lstm.c, f"{field}.c"), array_from_tensor(state.lstm.h, f"{field}.h")]
    if kind != "tuple" or len(state.tuple.items) != len(structure):
        raise ShapeMismatchError(f"{field}: expected a tuple of {len(structure)} states; got {_kind_text(state)}")
    return [
        leaf
        for index, (part, item) in enumerate(zip(structure, state.tuple.items, strict=True))
        for leaf in state_from_proto(part, item, f"{field}[{index}]")
    ]


def _kind_text(state: state_pb2.State) -> str:
    kind = state.WhichOneof("kind")
    if kind == "tuple":
        return f"a tuple of {len(state.tuple.items)}"
    return "an LSTM's (c, h)" if kind == "lstm" else "one tensor"


def spec_to_proto(structure: Structure, dtype: np.dtype[Any], name: str = "state") -> state_pb2.StateSpec:
    """Packs a structure as a ``StateSpec``: every leaf a vector of its width."""

    def leaf(size: int, label: str) -> tensor_pb2.TensorSpec:
        return tensor_pb2.TensorSpec(name=label, data_type=data_type_of(dtype, label), shape=[size])

    if isinstance(structure, int):
        return state_pb2.StateSpec(tensor=leaf(structure, name))
    if isinstance(structure, LSTMStateTuple):
        pair = state_pb2.LstmStateSpec(c=leaf(structure.c, f"{name}.c"), h=leaf(structure.h, f"{name}.h"))
        return state_pb2.StateSpec(lstm=pair)
    items = [spec_to_proto(part, dtype, f"{name}[{index}]") for index, part in enumerate(structure)]
    return state_pb2.StateSpec(tuple=state_pb2.TupleStateSpec(items=items))


def spec_from_proto(spec: state_pb2.StateSpec) -> Structure:
    """Unpacks a ``StateSpec`` into a structure.

    Raises:
        FieldInvalidError: nothing is set, or a leaf is not a vector.
    """
    kind = spec.WhichOneof("kind")
    if kind == "tensor":
        return _leaf_size(spec.tensor)
    if kind == "lstm":
        return LSTMStateTuple(c=_leaf_size(spec.lstm.c), h=_leaf_size(spec.lstm.h))
    if kind == "tuple":
        return tuple(spec_from_proto(item) for item in spec.tuple.items)
    raise FieldInvalidError("state_spec: expected a state's sizes; got an empty message")


def _leaf_size(spec: tensor_pb2.TensorSpec) -> int:
    if len(spec.shape) != 1:
        raise FieldInvalidError(f"{spec.name}: expected a vector; got shape {list(spec.shape)}")
    return int(spec.shape[0])


def zeros(structure: Structure, rows: int, dtype: np.dtype[Any]) -> NestedState:
    """A state of zeros, every leaf ``[rows, units]``."""
    return unflatten(structure, [np.zeros((rows, size), dtype) for size in leaf_sizes(structure)])
