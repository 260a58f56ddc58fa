"""How one step of many sessions lies in bytes, as the client packs and unpacks it.

Pure. What runs once for every step is kept short: a step has a few microseconds.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from cellserve.specs import ArraySpec
from cellserve.tensors import Array, array_from_bytes, require_count, require_shape, tensor_from_array
from cellserve.v1 import tensor_pb2
from cellserve_client.arrays import Outputs
from cellserve_client.hints import batch_size_explained
from cellserve_client.models import ModelInfo
from cellserve_client.pieces import HEADROOM_BYTES

# One position's inputs as bytes; a tuple of them where the model has several inputs.
StepBytes: TypeAlias = bytes | tuple[bytes, ...]
# What a position takes in a Steps or a Stepped beside its inputs or outputs, at most: handle, step, run id, timeout.
POSITION_BYTES = 40
# The most positions of one message: packing and unpacking it holds the event loop up.
MAX_POSITIONS = 1024
# What a message's inputs or outputs take at most, if that is not too few positions for a message of its own: the
# system gives larger blocks of memory fresh pages every time, which costs more than what they hold.
USUAL_BYTES = 256 << 10
FEW_POSITIONS = 32


class StepColumns:
    """The layout of one model's steps, for sessions of one batch size.

    Args:
        model: the model version.
        batch_size: rows of each session; None: one row without a batch dimension.

    Attributes:
        dtype: what the first input's elements are.
        shape: of the only input of one step, the batch dimension included where there is one. None where a step is not
            simply one array's memory: there are several inputs, or the machine's byte order is not the wire's.
        input_bytes: what one step takes in all inputs.
        output_bytes: what one step takes in all outputs.
    """

    def __init__(self, model: ModelInfo, batch_size: int | None) -> None:
        self._batch_size = batch_size
        self._lead = () if batch_size is None else (batch_size,)
        self._inputs = model.inputs
        self._outputs = model.outputs
        self._output_dtypes = [spec.dtype.newbyteorder("<") for spec in model.outputs]
        self._output_shapes = [(*self._lead, *spec.shape) for spec in model.outputs]
        is_plain = len(model.inputs) == 1 and sys.byteorder == "little"
        self.dtype = np.dtype(model.inputs[0].dtype.name)
        self.shape = (*self._lead, *model.inputs[0].shape) if is_plain else None
        self.input_bytes = sum(_bytes_of(spec, self._lead) for spec in model.inputs)
        self.output_bytes = sum(_bytes_of(spec, self._lead) for spec in model.outputs)

    def max_positions(self, max_message_bytes: int) -> int:
        """How many steps one message may have, so that it and its answer fit; 0: not even one step does."""
        position_bytes = max(self.input_bytes, self.output_bytes)
        fitting = (max_message_bytes - HEADROOM_BYTES) // (position_bytes + POSITION_BYTES)
        usual = max(USUAL_BYTES // max(position_bytes, 1), FEW_POSITIONS)
        return max(min(fitting, usual, MAX_POSITIONS), 0)

    def pack(self, arrays: Sequence[Array]) -> StepBytes:
        """One step's inputs as bytes, a copy.

        Args:
            arrays: one for each input, of its type already.

        Raises:
            ShapeMismatchError: an array is not of a step's shape.
        """
        self._check(arrays, self._lead)
        packed = tuple(tensor_from_array(array).data for array in arrays)
        return packed[0] if len(packed) == 1 else packed

    def pack_many(self, arrays: Sequence[Array], count: int) -> list[Array]:
        """The steps of so many sessions, ``[count, ...the shape of a step]``, as arrays of bytes ``[count, bytes]``.

        They are a copy: the caller may change the arrays while they are under way.

        Raises:
            ShapeMismatchError: an array is not of that shape.
        """
        self._check(arrays, (count, *self._lead))
        return [
            np.frombuffer(tensor_from_array(array).data, np.uint8).reshape(count, _bytes_of(spec, self._lead))
            for spec, array in zip(self._inputs, arrays, strict=True)
        ]

    def _check(self, arrays: Sequence[Array], lead: tuple[int, ...]) -> None:
        with batch_size_explained(self._batch_size, arrays, self._inputs, leading=len(lead)):
            for spec, array in zip(self._inputs, arrays, strict=True):
                field = "inputs" if len(arrays) == 1 else f"inputs[{spec.name!r}]"
                require_shape(array, (*lead, *spec.shape), field)

    def join(self, steps: Sequence[StepBytes]) -> list[bytes]:
        """``Steps.inputs`` of many packed steps."""
        if len(self._inputs) == 1:
            return [b"".join(steps)]  # type: ignore[arg-type]  # one input: no tuples
        return [b"".join(column) for column in zip(*steps, strict=True)]

    def tensors(self, step: StepBytes) -> list[tensor_pb2.Tensor]:
        """One packed step for a request of its own."""
        parts = (step,) if isinstance(step, bytes) else step
        return [
            tensor_from_array(np.frombuffer(part, spec.dtype).reshape(*self._lead, *spec.shape))
            for spec, part in zip(self._inputs, parts, strict=True)
        ]

    def arrays(self, outputs: Sequence[bytes], count: int) -> list[Array]:
        """``Stepped.outputs`` of so many positions, ``[count, ...]`` each; they look into the message.

        Raises:
            FieldInvalidError, ShapeMismatchError: another number of outputs or bytes, which is the server's fault.
        """
        require_count(outputs, len(self._outputs), "stepped.outputs")
        return [
            array_from_bytes(data, dtype, (count, *shape), "stepped.outputs")
            for data, dtype, shape in zip(outputs, self._output_dtypes, self._output_shapes, strict=True)
        ]

    def rows(self, outputs: Sequence[bytes], count: int) -> list[Outputs]:
        """What each of so many positions' callers gets: arrays of their own, to keep and to change.

        Raises:
            ShapeMismatchError: another number of bytes.
        """
        if count == 1 and len(outputs) == 1 and len(outputs[0]) == self.output_bytes:
            # Most of the time when a session steps alone; the copy of the bytes is the array's own memory.
            return [np.frombuffer(bytearray(outputs[0]), self._output_dtypes[0]).reshape(self._output_shapes[0])]
        columns = self.arrays(outputs, count)
        # A copy of each row, so that one output that is kept does not keep its whole message.
        copies = [list(map(np.array, column)) for column in columns]
        if len(copies) == 1:
            return copies[0]
        names = [spec.name for spec in self._outputs]
        return [dict(zip(names, values, strict=True)) for values in zip(*copies, strict=True)]

    def empty(self, count: int) -> list[Array]:
        """Zeros where the outputs of so many positions go."""
        return [
            np.zeros((count, *shape), spec.dtype)
            for spec, shape in zip(self._outputs, self._output_shapes, strict=True)
        ]


def draw_run_ids(count: int) -> Array:
    """So many run ids from the system's random source, uint64 ``[count]``; not 0, which means "none" on the wire."""
    drawn: Array = np.frombuffer(bytearray(os.urandom(8 * count)), np.uint64)  # A bytearray: they can be changed.
    return drawn if drawn.all() else np.maximum(drawn, np.uint64(1))


def _bytes_of(spec: ArraySpec, lead: tuple[int, ...]) -> int:
    return math.prod((*lead, *spec.shape)) * spec.dtype.itemsize
