"""Cells on a server, for asyncio: those that the client describes, and the models that the server has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from cellserve.errors import FieldInvalidError, ShapeMismatchError
from cellserve.specs import IDS, ArraySpec
from cellserve.states import Structure
from cellserve.v1 import model_service_pb2
from cellserve_client import methods
from cellserve_client.arrays import UNKNOWN_WIDTH
from cellserve_client.deadlines import Deadline, held
from cellserve_client.definitions import WIDTH_OF_IDS, Definition
from cellserve_client.fleet import Fleet, MadeModel
from cellserve_client.models import ModelInfo, info_from_proto
from cellserve_client.remote import RemoteCell

Result = TypeVar("Result")


class Cell(RemoteCell):
    """A cell that the client describes. The server makes a model of it when its input width is known.

    That is at once when the weights or ``input_size`` tell it, and otherwise at its first inputs, as TensorFlow builds
    a cell; ids have no width, a cell on them is made when it is first used. When the server no longer has the model (it
    expired, or the server was restarted) it is made again.
    """

    def __init__(self, fleet: Fleet, definition: Definition) -> None:
        super().__init__(fleet)
        self._definition = definition
        self._takes_ids = definition.cell.takes_ids()
        self._input_size: int | None = WIDTH_OF_IDS if self._takes_ids else None
        self._info: ModelInfo | None = None
        self._made: MadeModel | None = None
        self._defining = asyncio.Lock()

    @property
    def state_size(self) -> Structure:
        return self._definition.cell.state_size

    @property
    def output_size(self) -> int:
        return self._definition.cell.output_size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._definition.dtype

    @property
    def info(self) -> ModelInfo | None:
        return self._info

    @property
    def input_size(self) -> int | None:
        """The width of the inputs; 0 where they are ids, None as long as it is not known."""
        return self._input_size

    @property
    def _input_specs(self) -> tuple[ArraySpec, ...]:
        if self._takes_ids:
            return (ArraySpec("inputs", IDS, ()),)
        width = UNKNOWN_WIDTH if self._input_size is None else self._input_size
        return (ArraySpec("inputs", self.dtype, (width,)),)

    async def build(
        self, input_shape: Sequence[int] | int | None = None, *, timeout_s: float | None = None
    ) -> ModelInfo:
        """Makes the model for inputs of this shape, of which the last dimension counts, or of this width.

        Args:
            input_shape: a cell on ids needs none, and a width other than 0 is an error.
            timeout_s: how long it may take, in seconds; None: the connection's timeout.

        Raises:
            ShapeMismatchError: it is built for another width already, or takes ids.
            FieldInvalidError: there is no shape, and the cell takes vectors.
        """
        deadline = self._fleet.deadline(timeout_s)
        if self._takes_ids:
            # A shape is the ids' own, [batch]: no dimension of it is a width.
            if isinstance(input_shape, (int, np.integer)) and input_shape != WIDTH_OF_IDS:
                raise ShapeMismatchError(f"input_size: expected none, the inputs are ids; got {input_shape}")
            return await self._define(WIDTH_OF_IDS, deadline)
        if input_shape is None:
            raise FieldInvalidError("input_shape: expected the shape of the inputs or their width; got None")
        width = int(input_shape if isinstance(input_shape, (int, np.integer)) else input_shape[-1])
        if self._input_size not in (None, width):
            raise ShapeMismatchError(f"inputs: expected width {self._input_size}, for which it is built; got {width}")
        return await self._define(width, deadline)

    async def _with_model(
        self, input_size: int | None, deadline: Deadline, operation: Callable[[ModelInfo], Awaitable[Result]]
    ) -> Result:
        # It may expire, or a server begin anew, or be another one: the fleet makes it again where it is not known.
        return await operation(await self._define(input_size, deadline))

    async def _define(self, input_size: int | None, deadline: Deadline) -> ModelInfo:
        """The model, made unless it was made before."""
        async with held(self._defining, deadline, f"cell {type(self._definition.cell).__name__}"):
            if self._info is not None:
                return self._info
            width = input_size if self._input_size is None else self._input_size
            if width is None:
                raise FieldInvalidError(
                    "input_size: expected it to be known before a session begins; give "
                    "server.cell(..., input_size=...) or weights=, or call the cell once"
                )
            made = MadeModel(lambda: self._definition.requests(width))
            answer: model_service_pb2.DefineModelResponse = await self._fleet.invoke(
                methods.DEFINE_MODEL, made.requests, deadline
            )
            self._input_size = width
            self._made = self._fleet.made_models.note(answer.model.name, made)
            self._info = info_from_proto(answer.model)
            return self._info


class Model(RemoteCell):
    """A model that the server has, pinned to one version: to be called as a cell, or to begin sessions on."""

    def __init__(self, fleet: Fleet, info: ModelInfo) -> None:
        super().__init__(fleet)
        self._info = info
        self._dtype = info.working_dtype()

    @property
    def state_size(self) -> Structure:
        return self._info.state_size

    @property
    def output_size(self) -> Any:
        return self._info.output_size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def name(self) -> str:
        """Its name, without ``models/``."""
        return self._info.name

    @property
    def version(self) -> int:
        """Its version, which does not change."""
        return self._info.version

    @property
    def labels(self) -> tuple[str, ...]:
        """What the output's elements are called; empty when they have no names."""
        return self._info.labels

    @property
    def _input_specs(self) -> tuple[ArraySpec, ...]:
        return self._info.inputs

    async def _with_model(
        self, input_size: int | None, deadline: Deadline, operation: Callable[[ModelInfo], Awaitable[Result]]
    ) -> Result:
        return await operation(self._info)
