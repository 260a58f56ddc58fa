"""The files that Keras writes: ``.keras``, a zip with JSON and HDF5, and ``.weights.h5``, the HDF5 alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellserve_server.importers.archives import MAX_SOURCE_BYTES, Archive, member_names, require_source_file
from cellserve_server.importers.base import ImportRefusedError
from cellserve_server.importers.keras_variables import Variables, read_variables

MAX_CONFIG_BYTES = 64 << 20
MAX_METADATA_BYTES = 1 << 20
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_ZIP_MAGIC = b"PK\x03\x04"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class KerasFile:
    """What a ``.keras`` file holds: the model's configuration, the version that wrote it (2 or 3), its variables."""

    config: dict[str, Any]
    version: int
    variables: Variables


def kind_of(source: Path) -> str:
    """``model``, ``weights`` or nothing: by the first bytes and a zip's contents.

    A file of Keras's own suffixes that is nothing recognisable is taken by its suffix, for it must be damaged.
    """
    if not source.is_file():
        return ""
    with source.open("rb") as file:
        head = file.read(16)
    if head.startswith(_HDF5_MAGIC):
        return "weights"
    names = member_names(source) if head.startswith(_ZIP_MAGIC) else []
    if names:
        return "model" if CONFIG in names or WEIGHTS in names else ""
    return {".keras": "model", ".h5": "weights"}.get(source.suffix.lower(), "")


def read_keras_file(source: Path) -> KerasFile:
    """Reads a ``.keras`` file.

    Raises:
        ImportRefusedError: it is damaged, a member is missing, or one unpacks to more than there can be.
    """
    with Archive(source) as archive:
        config = _json_object(archive.read(CONFIG, MAX_CONFIG_BYTES), f"{source.name}: {CONFIG}")
        metadata = _json_object(archive.read(METADATA, MAX_METADATA_BYTES), f"{source.name}: {METADATA}")
        weights = archive.read(WEIGHTS, MAX_SOURCE_BYTES)
    written_by = str(metadata.get("keras_version", ""))[:50]
    if written_by.partition(".")[0] not in ("2", "3"):
        raise ImportRefusedError(f"{source.name}: expected a file of Keras 2 or 3; got one of {written_by!r}")
    return KerasFile(config, int(written_by[0]), read_variables(weights, f"{source.name}: {WEIGHTS}"))


def read_weights_file(source: Path) -> Variables:
    """Reads a ``.weights.h5`` file.

    Raises:
        ImportRefusedError: it is damaged, or no file of variables.
    """
    require_source_file(source)
    return read_variables(source.read_bytes(), source.name)


def _json_object(data: bytes, label: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImportRefusedError(f"{label}: expected JSON; {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise ImportRefusedError(f"{label}: expected an object; got a {type(content).__name__}")
    return content
