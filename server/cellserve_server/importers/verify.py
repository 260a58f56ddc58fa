"""A model that was imported, beside the framework that it comes from: the same random inputs through both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellserve.specs import place_layers
from cellserve.tensors import Array
from cellserve_server.cells import build_network
from cellserve_server.importers.base import ImportedModel, ReferenceFailedError
from cellserve_server.models.weights import prepare_weights

BATCH, TIME = 3, 7
SEED = 0
# Of float32: a few units in the last place for each of a few hundred terms. A wrong gate order is off by 0.01 or more.
RELATIVE_TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


@dataclass(frozen=True)
class Verification:
    """How a served model compares with its framework.

    Attributes:
        largest_difference: of any output, absolute; None: the framework did not run.
        tolerance: what is still taken as rounding.
        why_not: why the framework did not run, and what to install; empty: it ran.
    """

    largest_difference: float | None
    tolerance: float
    why_not: str = ""

    @property
    def failed(self) -> bool:
        """Whether the two differ by more than rounding."""
        return self.largest_difference is not None and not self.largest_difference <= self.tolerance


def verify_import(imported: ImportedModel) -> Verification:
    """Runs both on random sequences from zero states and compares the outputs.

    A reference may give fewer steps than it was asked for, the last ones, where the framework's graph gives only
    those; and it may insist on a batch and a time of its own.
    """
    tolerance = RELATIVE_TOLERANCE[imported.description.dtype.name]
    if imported.reference is None:
        why = f"the source alone does not let {imported.framework} run: a checkpoint holds weights, not a program"
        return Verification(None, tolerance, why)
    batch, time = imported.reference_shape
    inputs = _random_inputs(imported, BATCH if batch is None else batch, TIME if time is None else time)
    try:
        expected = imported.reference(inputs)
    except ModuleNotFoundError as error:
        return Verification(None, tolerance, f"{error.name} is not installed: pip install {error.name}")
    except ReferenceFailedError as error:
        return Verification(None, tolerance, f"the framework could not run the source: {error}")
    served = _serve(imported, inputs)[:, inputs.shape[1] - expected.shape[1] :]
    if served.shape != expected.shape:
        return Verification(float("inf"), tolerance)
    difference = float(np.abs(served - expected).max(initial=0.0))
    return Verification(difference, tolerance * max(1.0, float(np.abs(expected).max(initial=0.0))))


def _random_inputs(imported: ImportedModel, batch: int, time: int) -> Array:
    spec = imported.description.inputs[0]
    random = np.random.default_rng(SEED)
    if spec.dtype.kind == "i":
        return random.integers(0, _vocabulary_size(imported), (batch, time), spec.dtype)
    return random.normal(0.0, 1.0, (batch, time, *spec.shape)).astype(spec.dtype)


def _vocabulary_size(imported: ImportedModel) -> int:
    """The number of ids that the first layer takes: the rows of its table."""
    variables = place_layers(imported.description)[0].variables
    return next(each.shape[0] for each in variables if each.name.endswith(("embedding/embeddings", "/embedding")))


def _serve(imported: ImportedModel, inputs: Array) -> Array:
    network = build_network(imported.description, prepare_weights(imported.description, imported.weights))
    batch, time = inputs.shape[:2]
    zeros = [np.zeros((batch, size), network.dtype) for size in network.leaf_sizes]
    outputs, _ = network.run([inputs], np.full(batch, time, np.int64), zeros)
    return outputs[0]
