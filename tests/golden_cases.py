"""The golden vectors of ``tests/golden`` as typed cases, for tests in the process and through the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellserve import cells
from cellserve.cells import CellDescription
from cellserve.specs import ArraySpec, Bidirectional, ModelDescription, describe
from cellserve.states import LSTMStateTuple, Structure
from cellserve.tensors import Array

GOLDEN_FOLDER = Path(__file__).parent / "golden"
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True)
class GoldenCase:
    """What TensorFlow 1 computed.

    Attributes:
        id: the case's name.
        kind: ``step``, ``build_call``, ``dynamic_rnn`` or ``bidirectional_dynamic_rnn``.
        cell: the cell; None: ``bidirectional_dynamic_rnn``, whose two are in ``description.layers[0]``.
        description: the model: the one cell, or the two.
        input_size: the width of the inputs.
        dtype: of all arrays.
        tolerance: absolute and relative.
        weights: under TensorFlow's names, the scope (``rnn/``) in front, in the order in which they were made.
        inputs: ``[batch, time, input_size]``.
        lengths: int64 ``[batch]``; all of them time when ``sequence_length`` is None.
        sequence_length: as given to TensorFlow; None: it was not.
        time_major: whether TensorFlow was fed ``[time, batch, input_size]``; the arrays here are batch major anyhow.
        initial_state_passed: False: TensorFlow began with its own zeros.
        initial_leaves: the state's leaves ``[batch, units]``.
        outputs: ``[batch, time, size]``; forward's and backward's side by side.
        final_leaves: the state's leaves after each row's last step.
        state_size_repr: the cell's ``state_size`` as TensorFlow prints it.
        output_size: the width of the outputs.
    """

    id: str
    kind: str
    cell: CellDescription | None
    description: ModelDescription
    input_size: int
    dtype: np.dtype[Any]
    tolerance: float
    weights: dict[str, Array]
    inputs: Array
    lengths: Array
    sequence_length: tuple[int, ...] | None
    time_major: bool
    initial_state_passed: bool
    initial_leaves: list[Array]
    outputs: Array
    final_leaves: list[Array]
    state_size_repr: str
    output_size: int

    @property
    def steppable(self) -> bool:
        """Whether the case can be stepped: all but the bidirectional ones."""
        return self.description.steppable


@dataclass(frozen=True)
class FrameworkCase:
    """What PyTorch, Keras or onnxruntime computed, as it stands: layouts and names are the framework's own.

    Attributes:
        id: the case's name.
        framework: ``torch``, ``keras`` or ``onnxruntime``.
        entry: the case in the manifest.
        arrays: ``inputs``, ``outputs``, ``initial_state...``, ``final_state...``, and those of ``entry["weights"]``.
        files: the same weights as the framework saves them; of several kinds, or none.
    """

    id: str
    framework: str
    entry: dict[str, Any]
    arrays: dict[str, Array]
    files: tuple[Path, ...]


def golden_cases() -> list[GoldenCase]:
    """TensorFlow's cases, in the manifest's order."""
    return [_load(entry) for entry in _entries() if entry["framework"] == "tensorflow"]


def framework_cases() -> list[FrameworkCase]:
    """The other frameworks' cases, in the manifest's order."""
    return [
        FrameworkCase(
            id=entry["id"],
            framework=entry["framework"],
            entry=entry,
            arrays=_arrays(entry),
            files=tuple(GOLDEN_FOLDER / name for name in entry["weight_files"]),
        )
        for entry in _entries()
        if entry["framework"] != "tensorflow"
    ]


def _entries() -> list[dict[str, Any]]:
    manifest = json.loads((GOLDEN_FOLDER / "manifest.json").read_text(encoding="utf-8"))
    entries: list[dict[str, Any]] = manifest["cases"]
    return entries


def _arrays(entry: dict[str, Any]) -> dict[str, Array]:
    with np.load(GOLDEN_FOLDER / entry["file"], allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _load(entry: dict[str, Any]) -> GoldenCase:
    arrays = _arrays(entry)
    dtype, input_size = np.dtype(entry["dtype"]), entry["input_size"]
    cell = _cell(entry["cell"], {}) if "cell" in entry else None
    description = _bidirectional(entry, dtype) if cell is None else describe(cell, input_size, dtype)
    structure = description.state_size
    paths = _leaf_paths(structure) if cell is not None else _both_paths(structure)
    outputs = arrays["outputs"] if cell is not None else np.concatenate([arrays["outputs/fw"], arrays["outputs/bw"]], 2)
    batch, time = arrays["inputs"].shape[:2]
    sequence_length = entry["sequence_length"]
    return GoldenCase(
        id=entry["id"],
        kind=entry["kind"],
        cell=cell,
        description=description,
        input_size=input_size,
        dtype=dtype,
        tolerance=TOLERANCES[dtype.name],
        weights={name: arrays[name] for name in entry["weights"]},
        inputs=arrays["inputs"],
        lengths=np.array([time] * batch if sequence_length is None else sequence_length, np.int64),
        sequence_length=None if sequence_length is None else tuple(sequence_length),
        time_major=entry["time_major"],
        initial_state_passed=not entry["initial_state"].startswith("not passed"),
        initial_leaves=[arrays["initial_state" + path] for path in paths],
        outputs=outputs,
        final_leaves=[arrays["final_state" + path] for path in paths],
        state_size_repr=entry["state_size_repr"],
        output_size=outputs.shape[2],
    )


def _cell(entry: dict[str, Any], shared: dict[str, CellDescription]) -> CellDescription:
    """Builds a cell; those with an equal ``share_id`` are one object. The manifest's options have the fields' names."""
    options = dict(entry)
    kind, share_id = getattr(cells, options.pop("type")), options.pop("share_id", None)
    if share_id in shared:
        return shared[share_id]
    if "cell" in options:
        options["cell"] = _cell(options["cell"], shared)
    if "cells" in options:
        options["cells"] = [_cell(inner, shared) for inner in options["cells"]]
    cell: CellDescription = kind(**options)
    if share_id is not None:
        shared[share_id] = cell
    return cell


def _bidirectional(entry: dict[str, Any], dtype: np.dtype[Any]) -> ModelDescription:
    forward, backward = _cell(entry["cell_fw"], {}), _cell(entry["cell_bw"], {})
    inputs = ArraySpec("inputs", dtype, (entry["input_size"],))
    output = ArraySpec("output", dtype, (forward.output_size + backward.output_size,))
    return ModelDescription((inputs,), (Bidirectional(forward, backward),), (output,), dtype)


def _leaf_paths(structure: Structure) -> list[str]:
    """How the leaves' names go on after ``initial_state``."""
    if isinstance(structure, int):
        return [""]
    labels = ("c", "h") if isinstance(structure, LSTMStateTuple) else [str(index) for index in range(len(structure))]
    return [f"/{label}{path}" for label, part in zip(labels, structure, strict=True) for path in _leaf_paths(part)]


def _both_paths(structure: Structure) -> list[str]:
    forward, backward = structure
    return [f"/fw{path}" for path in _leaf_paths(forward)] + [f"/bw{path}" for path in _leaf_paths(backward)]
