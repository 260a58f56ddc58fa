"""One version of one model in the server's memory: loaded, or broken and remembered as such."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from cellserve.errors import FieldInvalidError, ModelBrokenError
from cellserve.specs import ArraySpec, ModelDescription, model_to_proto
from cellserve.states import Structure, leaf_names, leaf_sizes, spec_to_proto
from cellserve.tensors import Array
from cellserve.v1 import model_pb2
from cellserve_server.cells import Network, build_network, draw_weights
from cellserve_server.models.input_digests import InputDigests
from cellserve_server.models.weights import (
    model_bytes,
    parameter_count,
    prepare_weights,
    weight_bytes,
    weights_digest,
)

MAX_STATE_LEAVES = 4096


class ModelState(enum.StrEnum):
    """How far a version is; the words are also labels of metrics."""

    READY = "ready"
    BROKEN = "broken"
    UNLOADING = "unloading"


_STATE_NUMBERS = {
    ModelState.READY: model_pb2.MODEL_STATE_READY,
    ModelState.BROKEN: model_pb2.MODEL_STATE_BROKEN,
    ModelState.UNLOADING: model_pb2.MODEL_STATE_UNLOADING,
}


@dataclass(frozen=True, eq=False)
class ModelDraft:
    """A model that is whole, checked and has computed a step, but has no name and is not in service.

    Attributes:
        summary: one sentence for people; may be empty.
        description: how it computes.
        network: the arithmetic with the weights.
        digest: SHA-256 over description and weights, in hexadecimal.
    """

    summary: str
    description: ModelDescription
    network: Network
    digest: str


def draft_model(
    description: ModelDescription, *, weights: Mapping[str, Array] | None = None, seed: int | None = None
) -> ModelDraft:
    """Builds a model of weights, or of a seed from which they are drawn; exactly one of the two is given.

    This is the slow part of defining a model. It touches nothing shared, so it may run in another thread.

    Raises:
        InvalidArgumentError: the weights do not fit, or the state has too many parts.
    """
    assert (weights is None) != (seed is None), "either weights or a seed"
    if weights is not None:
        return draft_of_prepared("", description, prepare_weights(description, weights))
    assert seed is not None
    _require_few_leaves(description)
    return draft_of_prepared("", description, draw_weights(description, seed))


def draft_of_prepared(summary: str, description: ModelDescription, weights: Mapping[str, Array]) -> ModelDraft:
    """Builds a model of weights that ``prepare_weights`` or ``draw_weights`` gave.

    Raises:
        FieldInvalidError: the state has too many parts.
    """
    _require_few_leaves(description)
    network = build_network(description, weights)
    _warm_up(description, network)
    return ModelDraft(summary, description, network, weights_digest(description, weights))


def _require_few_leaves(description: ModelDescription) -> None:
    leaves = len(leaf_sizes(description.state_size))
    if leaves > MAX_STATE_LEAVES:
        raise FieldInvalidError(f"layers: expected a state of at most {MAX_STATE_LEAVES} arrays; got {leaves}")


def _warm_up(description: ModelDescription, network: Network) -> None:
    """One step of one row: what cannot compute is found out before anybody asks, and memory is touched once."""
    leaves = [np.zeros((1, size), description.dtype) for size in network.leaf_sizes]
    lead = (1,) if description.steppable else (1, 1)
    inputs = [np.zeros(lead + spec.shape, spec.dtype) for spec in description.inputs]
    if description.steppable:
        outputs, after = network.step(inputs, leaves)
    else:
        outputs, after = network.run(inputs, np.ones(1, np.int64), leaves)
    assert [(array.shape, array.dtype) for array in outputs] == [
        (lead + spec.shape, spec.dtype) for spec in description.outputs
    ], "the network gives other outputs than its description says"
    assert [leaf.shape for leaf in after] == [leaf.shape for leaf in leaves], "the network gives another state"


class LoadedModel:
    """One version of one model, immutable but for its state, its count of sessions and its expiry.

    Compared and hashed by identity: the same name loaded again with other weights is another model.

    Attributes:
        name: without ``models/``: ``speaker-id``.
        version: at least 1.
        resource_name: ``models/speaker-id/versions/1``.
        tenant: None: the operator's; else the tenant who defined it, and who alone sees it.
        summary: one sentence for people.
        description: how it computes.
        network: the arithmetic with the weights.
        structure: how its state is nested, ``description.state_size``.
        leaf_sizes: the widths of the flattened state's leaves.
        leaf_names: what they are called in messages: ``state[0].c``.
        inputs: what one step of one row takes.
        input_digests: checksums of steps of these inputs.
        outputs: what one step of one row gives.
        steppable: whether it can be stepped, not only run over whole sequences.
        digest: SHA-256 over description and weights, in hexadecimal.
        parameter_count: the number of the weights' elements.
        weight_bytes: their bytes.
        model_bytes: the same, and those of the description.
        state_bytes_per_row: the bytes of one row's state.
        output_bytes_per_row: the bytes of one row's outputs of one step.
        load_time: unix seconds.
        state: READY, or UNLOADING: no session may begin on it.
        session_count: sessions open on it.
        ttl_s: how long it stays unused, in seconds; 0 for the operator's, which stay.
        expire_time: unix seconds at which it goes if nobody uses it; 0 for the operator's.
    """

    __slots__ = (
        "description",
        "digest",
        "expire_time",
        "input_digests",
        "inputs",
        "leaf_names",
        "leaf_sizes",
        "load_time",
        "model_bytes",
        "name",
        "network",
        "output_bytes_per_row",
        "outputs",
        "parameter_count",
        "resource_name",
        "session_count",
        "state",
        "state_bytes_per_row",
        "steppable",
        "structure",
        "summary",
        "tenant",
        "ttl_s",
        "version",
        "weight_bytes",
    )

    def __init__(self, name: str, version: int, tenant: str | None, draft: ModelDraft, load_time: float) -> None:
        description = draft.description
        self.name = name
        self.version = version
        self.resource_name = f"models/{name}/versions/{version}"
        self.tenant = tenant
        self.summary = draft.summary
        self.description = description
        self.network = draft.network
        self.structure: Structure = description.state_size
        self.leaf_sizes = tuple(leaf_sizes(self.structure))
        self.leaf_names = tuple(leaf_names(self.structure))
        self.inputs: tuple[ArraySpec, ...] = description.inputs
        self.input_digests = InputDigests(self.inputs)
        self.outputs: tuple[ArraySpec, ...] = description.outputs
        self.steppable = description.steppable
        self.digest = draft.digest
        self.parameter_count = parameter_count(description)
        self.weight_bytes = weight_bytes(description)
        self.model_bytes = model_bytes(description)
        self.state_bytes_per_row = sum(self.leaf_sizes) * description.dtype.itemsize
        self.output_bytes_per_row = sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in self.outputs)
        self.load_time = load_time
        self.state = ModelState.READY
        self.session_count = 0
        self.ttl_s = 0.0
        self.expire_time = 0.0

    def __repr__(self) -> str:
        return f"LoadedModel({self.resource_name!r}, tenant={self.tenant!r}, digest={self.digest[:12]!r})"

    def to_proto(self, limits: model_pb2.ModelLimits) -> model_pb2.Model:
        """The model as clients see it, with what this server takes for it."""
        capabilities = [model_pb2.CAPABILITY_SEQUENCE]
        if self.steppable:
            capabilities = [model_pb2.CAPABILITY_STEP, model_pb2.CAPABILITY_SESSION, *capabilities]
        return model_pb2.Model(
            name=self.resource_name,
            description=self.summary,
            spec=model_to_proto(self.description),
            state_spec=spec_to_proto(self.structure, self.description.dtype),
            capabilities=capabilities,
            state=_STATE_NUMBERS[self.state],
            parameter_count=self.parameter_count,
            state_bytes_per_row=self.state_bytes_per_row,
            digest=self.digest,
            load_time=_timestamp(self.load_time),
            defined=self.tenant is not None,
            expire_time=None if self.tenant is None else _timestamp(self.expire_time),
            limits=limits,
        )


@dataclass(frozen=True)
class BrokenModel:
    """A version that was found in the folder and cannot be served.

    Attributes:
        name: without ``models/``.
        version: at least 1.
        error: why, for people; names files within the folder of models, nothing of the machine.
    """

    name: str
    version: int
    error: str

    @property
    def resource_name(self) -> str:
        """``models/{name}/versions/{version}``."""
        return f"models/{self.name}/versions/{self.version}"

    @property
    def state(self) -> ModelState:
        """BROKEN."""
        return ModelState.BROKEN

    def as_error(self) -> ModelBrokenError:
        """What a request that needs the model gets."""
        return ModelBrokenError(f"{self.resource_name}: {self.error}", metadata={"model": self.resource_name})

    def to_proto(self, limits: model_pb2.ModelLimits) -> model_pb2.Model:
        """The model as clients see it: its name and its error."""
        return model_pb2.Model(name=self.resource_name, state=_STATE_NUMBERS[self.state], error=self.error)


def _timestamp(unix_s: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(math.floor(unix_s * 1_000_000))
    return stamp
