"""Runs onnxruntime on an ONNX file, to compare with what is served."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellserve.tensors import Array
from cellserve_server.importers.base import ReferenceFailedError
from cellserve_server.importers.onnx_file import Graph, GraphInput
from cellserve_server.importers.onnx_recurrent import GATES
from cellserve_server.importers.onnx_values import DIRECTIONS, FEATURES, Flow, Part

_LENGTHS_PORT = 4


class OnnxReference:
    """Feeds sequences to a graph as it wants them, and brings its output to ``[batch, time, features]``.

    Args:
        source: the file.
        graph: what it holds.
        output: the name of the output that is served.
        flow: what its axes mean.
        time, batch: which part of an axis is which; None: there is no such axis.
    """

    def __init__(
        self, source: Path, graph: Graph, output: str, flow: Flow, time: Part | None, batch: Part | None
    ) -> None:
        self._source = source
        self._graph = graph
        self._output = output
        self._flow = flow
        self._time = time
        self._batch = batch

    @property
    def shape(self) -> tuple[int | None, int | None]:
        """The batch and the time that the graph insists on; None: any."""
        return (1 if self._batch is None else self._batch.length, 1 if self._time is None else self._time.length)

    def __call__(self, inputs: Array) -> Array:
        """As ``ImportedModel.reference``. A graph that gives the last step alone gives that alone here, too."""
        try:
            runtime: Any = importlib.import_module("onnxruntime")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "running ONNX beside the served model needs the package onnxruntime, which is not installed",
                name="onnxruntime",
            ) from error
        try:
            # Errors of its own classes, of which some have no common base.
            session = runtime.InferenceSession(str(self._source), providers=["CPUExecutionProvider"])
            (values,) = session.run([self._output], self._feeds(inputs))
        except Exception as error:
            raise ReferenceFailedError(f"onnxruntime: {error}") from error
        return self._arranged(values, *inputs.shape[:2])

    def _feeds(self, inputs: Array) -> dict[str, Array]:
        batch, time = inputs.shape[:2]
        feeds = {}
        lengths = {node.inputs[_LENGTHS_PORT] for node in self._graph.nodes if _has_lengths(node.op, node.inputs)}
        for given in self._graph.inputs:
            dtype = np.dtype(given.type_name)
            if given.name == self._flow.source:
                feeds[given.name] = self._as_fed(given, inputs).astype(dtype)
            elif given.name in lengths:
                feeds[given.name] = np.full(batch, time, dtype)
            else:
                feeds[given.name] = np.zeros(_state_shape(given, batch), dtype)
        return feeds

    def _as_fed(self, given: GraphInput, inputs: Array) -> Array:
        """The sequence with the axes in the order in which the graph wants them."""
        own = [Part(f"{given.name}[{axis}]", length) for axis, length in enumerate(given.shape or ())]
        places = [part for part in own if part in (self._time, self._batch)]
        wanted = [0 if part == self._batch else 1 for part in places]
        missing = tuple(axis for axis in (0, 1) if axis not in wanted)
        lead = inputs.reshape([length for axis, length in enumerate(inputs.shape) if axis not in missing])
        return lead.transpose([*np.argsort(np.argsort(wanted)).tolist(), *range(len(wanted), lead.ndim)])

    def _arranged(self, values: Array, batch: int, time: int) -> Array:
        parts = [part for axis in self._flow.axes for part in axis]
        kinds = [self._place_of(part) for part in parts]
        lengths = [{0: batch, 1: time}.get(kind, part.length or 1) for kind, part in zip(kinds, parts, strict=True)]
        steps = time if 1 in kinds else 1
        return values.reshape(lengths).transpose(np.argsort(kinds, kind="stable")).reshape(batch, steps, -1)

    def _place_of(self, part: Part) -> int:
        """Where a part stands in ``[batch, time, directions, features]``; other parts are of length 1."""
        order = [self._batch, self._time, DIRECTIONS, FEATURES]
        return next((place for place, each in enumerate(order) if each in (part, part.meaning)), -1)


def _has_lengths(op: str, inputs: Sequence[str]) -> bool:
    return op in GATES and len(inputs) > _LENGTHS_PORT and bool(inputs[_LENGTHS_PORT])


def _state_shape(given: GraphInput, batch: int) -> list[int]:
    """The shape of a state: lengths that are left open are the batch."""
    return [batch if length is None else length for length in given.shape or ()]
