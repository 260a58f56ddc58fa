"""A model's version as files: ``<root>/<name>/<version>/cell.json`` and ``weights.safetensors``.

``cell.json`` is ``{"format_version": 1, "description": "One sentence.", "model": {...}}``, where ``model`` is a
``ModelSpec`` as proto JSON with the field names of ``model.proto``. An imported model has ``imported`` beside it: the
framework, the source's name, and what was assumed.

``weights.safetensors`` carries the SHA-256 of ``model`` in its metadata: weights beside another description than
theirs are refused even where all shapes fit (another ``forget_bias``, say). A file without one, made by other hands,
is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.numpy
from google.protobuf import json_format
from safetensors import SafetensorError

from cellserve.errors import InvalidArgumentError, ModelBrokenError
from cellserve.specs import ModelDescription, model_from_proto, model_to_proto
from cellserve.tensors import Array
from cellserve.v1 import model_pb2
from cellserve_server.models.weights import prepare_weights, weight_bytes

CELL_FILE = "cell.json"
WEIGHTS_FILE = "weights.safetensors"
FORMAT_VERSION = 1
CHECKSUM_KEY = "cellserve_description_sha256"
MAX_CELL_FILE_BYTES = 1 << 20
MAX_DESCRIPTION_CHARS = 1000
MODEL_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
VERSION_PATTERN = re.compile(r"[1-9][0-9]{0,8}")

_CELL_FILE_KEYS = {"format_version": int, "description": str, "model": dict}
_OPTIONAL_KEYS = {"imported": dict}
# Twice the weights, so that float64 weights for a float32 model are still read and refused for what they are.
_WEIGHTS_FILE_FACTOR = 2
_WEIGHTS_HEADER_BYTES = 1 << 20


class ModelFiles(NamedTuple):
    """What a version's folder holds, checked: the sentence about it, the model, and its prepared weights."""

    summary: str
    description: ModelDescription
    weights: dict[str, Array]


def read_model(root: Path, name: str, version: int) -> ModelFiles:
    """Reads and checks a version. ``name`` and ``version`` are of the patterns above, so nothing outside is reached.

    Raises:
        ModelBrokenError: a file is missing, too large, malformed, or does not fit the other; the message names the
            file within the root, never the root.
    """
    label = f"{name}/{version}"
    cell_file = _read_cell_file(root / name / str(version) / CELL_FILE, f"{label}/{CELL_FILE}")
    description = cell_file.description
    weights_label = f"{label}/{WEIGHTS_FILE}"
    max_bytes = _WEIGHTS_FILE_FACTOR * weight_bytes(description) + _WEIGHTS_HEADER_BYTES
    data = _read_bytes(root / name / str(version) / WEIGHTS_FILE, weights_label, max_bytes)
    try:
        arrays = safetensors.numpy.load(data)
    except SafetensorError as error:
        raise ModelBrokenError(f"{weights_label}: expected a safetensors file; {error}") from error
    except KeyError as error:
        # This is how safetensors says that numpy has no such type (BF16, F8_E4M3).
        raise ModelBrokenError(f"{weights_label}: expected {description.dtype.name}; got {error.args[0]}") from error
    stored = _stored_checksum(data)
    if stored is not None and stored != cell_file.checksum:
        raise ModelBrokenError(
            f"{weights_label}: expected the weights of the model in {CELL_FILE}, whose checksum is "
            f"{cell_file.checksum[:12]}; these were written for {str(stored)[:12]}: one of the files was changed"
        )
    try:
        weights = prepare_weights(description, arrays)
    except InvalidArgumentError as error:
        raise ModelBrokenError(f"{weights_label}: {error.message}") from error
    return ModelFiles(cell_file.summary, description, weights)


def _stored_checksum(data: bytes) -> str | None:
    """The checksum in the metadata of a safetensors file that was loaded before, so that its header is sound."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: Mapping[str, str] = header.get("__metadata__") or {}
    return metadata.get(CHECKSUM_KEY)


def _checksum(spec: Mapping[str, Any]) -> str:
    """The SHA-256 of ``model`` in ``cell.json``, whatever its white space and the order of its keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _CellFile(NamedTuple):
    summary: str
    description: ModelDescription
    checksum: str


def _read_cell_file(path: Path, label: str) -> _CellFile:
    data = _read_bytes(path, label, MAX_CELL_FILE_BYTES)
    try:
        content = json.loads(data, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ModelBrokenError(f"{label}: expected JSON; {error}") from error
    if not isinstance(content, dict):
        raise ModelBrokenError(f"{label}: expected an object; got {type(content).__name__}")
    for key, kind in _CELL_FILE_KEYS.items():
        if type(content.get(key)) is not kind:
            got = type(content[key]).__name__ if key in content else "nothing"
            raise ModelBrokenError(f"{label}: {key}: expected {kind.__name__}; got {got}")
    for key, kind in _OPTIONAL_KEYS.items():
        if key in content and type(content[key]) is not kind:
            raise ModelBrokenError(f"{label}: {key}: expected {kind.__name__}; got {type(content[key]).__name__}")
    unknown = sorted(content.keys() - _CELL_FILE_KEYS.keys() - _OPTIONAL_KEYS.keys())
    if unknown:
        raise ModelBrokenError(f"{label}: expected {', '.join(_CELL_FILE_KEYS)}; got also {unknown[0]!r}")
    if content["format_version"] != FORMAT_VERSION:
        raise ModelBrokenError(f"{label}: format_version: expected {FORMAT_VERSION}; got {content['format_version']}")
    if len(content["description"]) > MAX_DESCRIPTION_CHARS:
        raise ModelBrokenError(
            f"{label}: description: expected at most {MAX_DESCRIPTION_CHARS} characters; "
            f"got {len(content['description'])}"
        )
    try:
        spec = json_format.ParseDict(content["model"], model_pb2.ModelSpec())
        return _CellFile(content["description"], model_from_proto(spec), _checksum(content["model"]))
    except (json_format.ParseError, OverflowError) as error:  # The latter of an infinity where a whole number is due.
        raise ModelBrokenError(f"{label}: model: {error}") from error
    except InvalidArgumentError as error:
        raise ModelBrokenError(f"{label}: model.{error.message}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return content


def _read_bytes(path: Path, label: str, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise ModelBrokenError(f"{label}: the file is missing") from error
    except OSError as error:
        raise ModelBrokenError(f"{label}: the file cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise ModelBrokenError(f"{label}: expected at most {max_bytes} bytes; got more")
    return data


def write_model(
    folder: Path,
    description_text: str,
    model_description: ModelDescription,
    weights: Mapping[str, Array],
    imported: Mapping[str, Any] | None = None,
) -> None:
    """Writes a version's folder, whole or not at all: a server that looks meanwhile sees no half of it.

    Args:
        folder: ``<root>/<name>/<version>``; it does not exist yet, or is empty. Folders above it are made.
        description_text: one sentence for people, at most 1000 characters.
        model_description: the model.
        weights: as for ``prepare_weights``: TensorFlow's names and layout, the model's dtype.
        imported: where the model comes from and what was assumed, kept in ``cell.json`` for people; JSON.

    Raises:
        InvalidArgumentError: the weights do not fit the model, or the text is too long.
        FileExistsError: the folder has something in it: new weights want a new version.
        OSError: the files cannot be written.
    """
    if len(description_text) > MAX_DESCRIPTION_CHARS:
        raise InvalidArgumentError(
            f"description: expected at most {MAX_DESCRIPTION_CHARS} characters; got {len(description_text)}"
        )
    prepared = prepare_weights(model_description, weights)
    spec = json_format.MessageToDict(model_to_proto(model_description), preserving_proto_field_name=True)
    content: dict[str, Any] = {"format_version": FORMAT_VERSION, "description": description_text, "model": spec}
    if imported is not None:
        content["imported"] = dict(imported)
    cell_file = json.dumps(content, indent=2) + "\n"
    if len(cell_file) > MAX_CELL_FILE_BYTES:
        raise InvalidArgumentError(f"{CELL_FILE}: expected at most {MAX_CELL_FILE_BYTES} bytes; got {len(cell_file)}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} has something in it; give the new weights a new version")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, for a rename within one file system; the dot hides it from a server that lists versions.
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        (temporary / CELL_FILE).write_text(cell_file, encoding="utf-8")
        # Written plainly: safetensors' own save_file makes files that only their owner may read.
        (temporary / WEIGHTS_FILE).write_bytes(safetensors.numpy.save(prepared, {CHECKSUM_KEY: _checksum(spec)}))
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
