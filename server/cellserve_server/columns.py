"""How one step of many sessions lies in bytes: what ``Steps.inputs`` and ``Stepped.outputs`` hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellserve.errors import ShapeMismatchError
from cellserve.tensors import Array, require_count, shape_text
from cellserve_server.encoding import bytes_of, step_bytes
from cellserve_server.fields import shown
from cellserve_server.models import LoadedModel
from cellserve_server.runs import RunResult


class StepColumns:
    """The columns of a group.

    Args:
        model: the group's model.
        rows: rows of each position.

    Attributes:
        input_bytes: what one position takes in all inputs.
        output_bytes: what one position takes in all outputs.
        run_bytes: what one position holds in the engine: both, and the rows that it works on.
    """

    def __init__(self, model: LoadedModel, rows: int) -> None:
        self._model = model
        self._rows = rows
        self._has_ids = any(spec.dtype.kind != "f" for spec in model.inputs)
        self.input_bytes = sum(step_bytes(spec, rows) for spec in model.inputs)
        self.output_bytes = sum(step_bytes(spec, rows) for spec in model.outputs)
        self.run_bytes = self.input_bytes + self.output_bytes + rows * model.state_bytes_per_row

    def split(self, columns: Sequence[bytes], positions: int) -> list[tuple[Array, ...]]:
        """The inputs of each position, ``[rows, 1, ...]`` each; they look into the message's bytes.

        Raises:
            FieldInvalidError: another number of inputs.
            ShapeMismatchError: another number of bytes.
        """
        require_count(columns, len(self._model.inputs), "inputs")
        arrays = []
        for index, (spec, data) in enumerate(zip(self._model.inputs, columns, strict=True)):
            expected = positions * step_bytes(spec, self._rows)
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
            flat = np.frombuffer(data, spec.dtype.newbyteorder("<"))
            arrays.append(flat.reshape(positions, self._rows, 1, *spec.shape))
        return list(zip(*arrays, strict=True))

    def check(self, inputs: Sequence[Array], position: int) -> None:
        """Checks what shapes do not say of one position's inputs.

        Raises:
            FieldInvalidError: an id is out of its range.
        """
        if self._has_ids:
            self._model.network.check_inputs(inputs, f"inputs of position {position}")

    def join(self, results: Sequence[RunResult]) -> list[bytes]:
        """The outputs of some positions, one bytes field for each output of the model."""
        return [
            bytes_of([result.outputs[index] for result in results], spec)
            for index, spec in enumerate(self._model.outputs)
        ]
