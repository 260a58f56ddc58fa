"""How one step of many sessions lies in bytes: what ``Steps.inputs`` and ``Stepped.outputs`` hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.errors import FieldInvalidError, ShapeMismatchError, shown
from cellserve.tensors import Array, require_count, shape_text
from cellserve_server.edge.encoding import step_bytes
from cellserve_server.models.repository import LoadedModel


class StepColumns:
    """The columns of a group.

    Args:
        model: the group's model.
        rows: rows of each position.

    Attributes:
        input_bytes: what one position takes in all inputs.
        output_bytes: what one position takes in all outputs.
        output_sizes: what one position takes in each output.
        run_bytes: what one position holds in the engine: both, and the rows that it works on.
    """

    def __init__(self, model: LoadedModel, rows: int) -> None:
        self._model = model
        self._rows = rows
        self._has_ids = any(spec.dtype.kind != "f" for spec in model.inputs)
        self._input_sizes = tuple(step_bytes(spec, rows) for spec in model.inputs)
        self._input_dtypes = tuple(spec.dtype.newbyteorder("<") for spec in model.inputs)
        self._output_dtypes = tuple(spec.dtype.newbyteorder("<") for spec in model.outputs)
        self.input_bytes = sum(self._input_sizes)
        self.output_sizes = tuple(step_bytes(spec, rows) for spec in model.outputs)
        self.output_bytes = sum(self.output_sizes)
        self.run_bytes = self.input_bytes + self.output_bytes + rows * model.state_bytes_per_row

    def split(self, columns: Sequence[bytes], positions: int) -> list[Array]:
        """The inputs of some positions, ``[positions, rows, ...]`` each; they look into the message's bytes.

        Raises:
            FieldInvalidError: another number of inputs.
            ShapeMismatchError: another number of bytes.
        """
        require_count(columns, len(self._model.inputs), "inputs")
        arrays: list[Array] = []
        for index, (spec, data) in enumerate(zip(self._model.inputs, columns, strict=True)):
            expected = positions * self._input_sizes[index]
            if len(data) != expected:
                shape = shape_text((positions * self._rows, *spec.shape))
                raise ShapeMismatchError(
                    f"inputs[{index}] ({shown(spec.name)}): expected {expected} bytes, {spec.dtype.name}{shape} for "
                    f"{positions} positions of {self._rows} rows; got {len(data)}",
                    metadata={
                        "field": f"inputs[{index}]",
                        "expected_bytes": str(expected),
                        "actual_bytes": str(len(data)),
                    },
                )
            flat = np.frombuffer(data, self._input_dtypes[index])
            arrays.append(flat.reshape(positions, self._rows, *spec.shape))
        return arrays

    def are_valid(self, inputs: Sequence[Array]) -> bool:
        """Whether ``check`` finds nothing at any of these positions."""
        if self._has_ids:
            try:
                self.check(inputs, 0)
            except FieldInvalidError:
                return False
        return True

    def check(self, inputs: Sequence[Array], position: int) -> None:
        """Checks what shapes do not say of one position's inputs.

        Raises:
            FieldInvalidError: an id is out of its range.
        """
        if self._has_ids:
            self._model.network.check_inputs(inputs, f"inputs of position {position}")

    def digests(self, inputs: Sequence[Array]) -> Array:
        """The checksum of each position's inputs, uint64 ``[positions]``."""
        return self._model.input_digests.of_steps(inputs, self._rows)

    def encode(self, outputs: Sequence[Array]) -> list[bytes]:
        """The outputs of some positions, with all their rows, as the bytes fields of an answer."""
        return [
            output.astype(dtype, copy=False).tobytes()
            for output, dtype in zip(outputs, self._output_dtypes, strict=True)
        ]
