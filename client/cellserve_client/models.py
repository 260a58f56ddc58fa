"""What a server tells about a model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from google.protobuf import text_format

from cellserve.errors import FieldInvalidError, ModelBrokenError
from cellserve.specs import ArraySpec, array_spec_from_proto, model_from_proto
from cellserve.states import Structure, spec_from_proto
from cellserve.tensors import dtype_of
from cellserve.v1 import model_pb2, session_pb2, tensor_pb2

MODELS_PREFIX = "models/"
# What is assumed of a server that does not say: grpc's own default, and the steps that CellServe takes.
FALLBACK_MESSAGE_BYTES = 4 << 20
FALLBACK_SEQUENCE_STEPS = 10_000


@dataclass(frozen=True)
class ModelLimits:
    """What the server takes for a model at most.

    Attributes:
        max_sequence_steps: steps of one request.
        max_rows: rows (batch size) of one session, call or sequence; 0 when the server does not say.
        max_message_bytes: bytes of one message, in either direction.
        durability: what becomes of sessions when the server's process ends: ``MEMORY`` (they end too), ``ASYNC`` (a
            crash may lose the last moments), ``SYNC`` (none), or ``UNSPECIFIED`` when the server does not say.
    """

    max_sequence_steps: int
    max_rows: int
    max_message_bytes: int
    durability: str = "UNSPECIFIED"


@dataclass(frozen=True)
class ModelInfo:
    """One version of one model.

    Attributes:
        name: without ``models/``.
        version: its number.
        resource_name: ``models/{name}/versions/{version}``.
        description: one sentence for people.
        state: ``READY``, ``BROKEN`` or ``UNLOADING``.
        error: why it is broken; empty otherwise.
        dtype: of weights, states, and floating-point inputs and outputs; None when it is broken.
        inputs: what one step of one row takes; empty when it is broken.
        outputs: what one step of one row gives; empty when it is broken.
        layers: the layers from the inputs upward, as text.
        vocabulary_size: for a model of ids, how many there are; None otherwise.
        state_size: as TensorFlow prints it; None when it is broken.
        capabilities: of ``STEP``, ``SESSION``, ``SEQUENCE``, in this order.
        parameter_count: the number of its weights' elements.
        state_bytes_per_row: what one row of a session's state takes, in bytes.
        digest: SHA-256 over description and weights, hexadecimal.
        load_time: when this server loaded it; None when it did not say.
        defined: a client made it with DefineModel.
        expire_time: when it goes if nobody uses it; None: it stays.
        limits: what the server takes for it.
    """

    name: str
    version: int
    resource_name: str
    description: str
    state: str
    error: str
    dtype: np.dtype[Any] | None
    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    layers: tuple[str, ...]
    vocabulary_size: int | None
    state_size: Structure | None
    capabilities: tuple[str, ...]
    parameter_count: int
    state_bytes_per_row: int
    digest: str
    load_time: datetime | None
    defined: bool
    expire_time: datetime | None
    limits: ModelLimits

    def working_dtype(self) -> np.dtype[Any]:
        """Its ``dtype``.

        Raises:
            ModelBrokenError: it has none, since it could not be loaded.
        """
        if self.dtype is None:
            raise ModelBrokenError(f"{self.resource_name} cannot be served: {self.error}")
        return self.dtype

    @property
    def steppable(self) -> bool:
        """Whether single steps are possible; otherwise it needs whole sequences."""
        return "STEP" in self.capabilities

    @property
    def labels(self) -> tuple[str, ...]:
        """What the elements of the first output are called: a classifier's classes. Empty when they have no names."""
        return self.outputs[0].labels if self.outputs else ()

    @property
    def output_size(self) -> Any:
        """The width of the output, as TensorFlow prints it: an int; a tuple for an output of another rank."""
        if not self.outputs:
            return None
        shape = self.outputs[0].shape
        return shape[0] if len(shape) == 1 else shape


def resource_name(name: str, version: int | None = None) -> str:
    """``models/{name}`` or ``models/{name}/versions/{version}``, whether or not the name has the prefix already.

    Raises:
        FieldInvalidError: no name, or two versions.
    """
    if not isinstance(name, str) or not name.removeprefix(MODELS_PREFIX):
        raise FieldInvalidError(f"model: expected a name, a cell or a model of this server; got {name!r}")
    full = name if name.startswith(MODELS_PREFIX) else MODELS_PREFIX + name
    if version is None:
        return full
    if "/versions/" in full:
        raise FieldInvalidError(f"version: expected none, since the name has one already: {name!r}; got {version!r}")
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise FieldInvalidError(f"version: expected a number from 0; got {version!r}")
    return f"{full}/versions/{version}"


def info_from_proto(model: model_pb2.Model) -> ModelInfo:
    """Unpacks a ``Model``.

    Raises:
        InvalidArgumentError: the server describes the model's tensors in a way that this client does not know.
    """
    name, _, version = model.name.removeprefix(MODELS_PREFIX).partition("/versions/")
    dtype, inputs, outputs = _tensors(model)
    return ModelInfo(
        name=name,
        version=int(version) if version.isdecimal() else 0,
        resource_name=model.name,
        description=model.description,
        state=model_pb2.ModelState.Name(model.state).removeprefix("MODEL_STATE_"),
        error=model.error,
        dtype=dtype,
        inputs=inputs,
        outputs=outputs,
        layers=tuple(text_format.MessageToString(layer, as_one_line=True) for layer in model.spec.layers),
        vocabulary_size=next(
            (layer.embedding.vocabulary_size for layer in model.spec.layers if layer.HasField("embedding")), None
        ),
        state_size=spec_from_proto(model.state_spec) if model.state_spec.WhichOneof("kind") else None,
        capabilities=tuple(
            model_pb2.Capability.Name(number).removeprefix("CAPABILITY_") for number in sorted(model.capabilities)
        ),
        parameter_count=model.parameter_count,
        state_bytes_per_row=model.state_bytes_per_row,
        digest=model.digest,
        load_time=model.load_time.ToDatetime(UTC) if model.HasField("load_time") else None,
        defined=model.defined,
        expire_time=model.expire_time.ToDatetime(UTC) if model.HasField("expire_time") else None,
        limits=ModelLimits(
            max_sequence_steps=model.limits.max_sequence_steps or FALLBACK_SEQUENCE_STEPS,
            max_rows=model.limits.max_rows,
            max_message_bytes=model.limits.max_message_bytes or FALLBACK_MESSAGE_BYTES,
            durability=_durability(model.limits.durability),
        ),
    )


def _durability(number: int) -> str:
    """Its name; one that is newer than this client is as good as none."""
    if number not in session_pb2.Durability.values():
        return "UNSPECIFIED"
    return session_pb2.Durability.Name(session_pb2.Durability.ValueType(number)).removeprefix("DURABILITY_")


def _tensors(
    model: model_pb2.Model,
) -> tuple[np.dtype[Any] | None, tuple[ArraySpec, ...], tuple[ArraySpec, ...]]:
    """The element type, inputs and outputs. Layers are not looked into: there may be kinds that are newer than this."""
    if not model.HasField("spec"):
        return None, (), ()
    spec = model.spec
    dtype = dtype_of(spec.data_type or tensor_pb2.DATA_TYPE_FLOAT32, "data_type")
    inputs = tuple(array_spec_from_proto(item, f"inputs[{i}]") for i, item in enumerate(spec.inputs))
    if not inputs:
        raise FieldInvalidError(f"{model.name}: expected at least one input; got none")
    if not spec.outputs:
        return dtype, inputs, model_from_proto(spec).outputs
    return dtype, inputs, tuple(array_spec_from_proto(item, f"outputs[{i}]") for i, item in enumerate(spec.outputs))
