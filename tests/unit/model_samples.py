"""Models for tests of the repository, and a way to put them into a folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellserve.cells import BasicLSTMCell, BasicRNNCell
from cellserve.specs import (
    ArraySpec,
    Bidirectional,
    Dense,
    Layer,
    ModelDescription,
    Standardise,
    describe,
    place_layers,
    takes_ids,
)
from cellserve.tensors import Array
from cellserve.v1 import model_pb2
from cellserve_server.cells import Network, build_network, draw_weights
from cellserve_server.models.model_files import write_model
from cellserve_server.models.repository import LoadedModel, ModelRepository, draft_model
from cellserve_server.models.weights import prepare_weights

FLOAT32, FLOAT64, INT32 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int32)
DEPTH = 3
RNN = describe(BasicRNNCell(4), 3, FLOAT32)
LIMITS = model_pb2.ModelLimits(max_sequence_steps=10, max_rows=20, max_message_bytes=30)
DAY = 86400.0


def model(layers: Sequence[Layer], dtype: np.dtype[Any] = FLOAT32, depth: int = DEPTH) -> ModelDescription:
    """A description of these layers on vectors of ``depth``, or on ids where the first layer takes them."""
    ids = takes_ids(layers[0])
    inputs = (ArraySpec("ids", INT32, ()) if ids else ArraySpec("inputs", dtype, (depth,)),)
    bare = ModelDescription(inputs, tuple(layers), (), dtype)
    output = ArraySpec("output", dtype, place_layers(bare)[-1].output_shape)
    return ModelDescription(inputs, tuple(layers), (output,), dtype)


def network_of(description: ModelDescription, seed: int = 0) -> Network:
    """A network with weights of which none is 0 by chance or by default."""
    noise = np.random.default_rng(seed)
    weights = draw_weights(description, seed)
    moved = {name: array + noise.normal(0, 0.1, array.shape) for name, array in weights.items()}
    dtype = description.dtype
    return build_network(description, prepare_weights(description, {k: v.astype(dtype) for k, v in moved.items()}))


def classifier() -> ModelDescription:
    inputs = ArraySpec("features", FLOAT32, (3,))
    output = ArraySpec("probabilities", FLOAT32, (2,), ("no", "yes"))
    return ModelDescription((inputs,), (Standardise(), BasicLSTMCell(4), Dense(2, "softmax")), (output,), FLOAT32)


def bidirectional() -> ModelDescription:
    inputs, output = ArraySpec("inputs", FLOAT32, (3,)), ArraySpec("output", FLOAT32, (8,))
    layer = Bidirectional(BasicLSTMCell(4), BasicRNNCell(4))
    return ModelDescription((inputs,), (layer,), (output,), FLOAT32)


def put(root: Path, name: str, version: int, description: ModelDescription = RNN, seed: int = 0) -> Path:
    """Puts a version into the folder, in place of what was there."""
    folder = root / name / str(version)
    shutil.rmtree(folder, ignore_errors=True)
    write_model(folder, f"The model {name}.", description, draw_weights(description, seed))
    return folder


def names(models: ModelRepository, tenant: str = "default") -> list[str]:
    return [entry.resource_name for entry in models.list(tenant)]


def load(models: ModelRepository, name: str) -> LoadedModel:
    """Loads a version from the folder, as LoadModel does it."""
    location = models.locate(name)
    return models.install(location, models.read(location))


def define(
    models: ModelRepository,
    tenant: str,
    description: ModelDescription,
    weights: Mapping[str, Array] | None = None,
    seed: int | None = None,
    ttl_s: float | None = None,
) -> LoadedModel:
    """Makes a model of a description, as DefineModel does it; weights or a seed, one of the two."""
    with models.defining(tenant, description):
        return models.adopt(tenant, draft_model(description, weights=weights, seed=seed), ttl_s)
