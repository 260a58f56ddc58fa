"""One function for every kind of source: recognise, read, verify, write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cellserve.errors import CellServeError
from cellserve_server.importers import keras, onnx_graph, pytorch, tensorflow1
from cellserve_server.importers.base import ImportedModel, Importer, ImportRefusedError, Settings
from cellserve_server.importers.verify import Verification, verify_import
from cellserve_server.models.defined_models import DEFINED_PREFIX
from cellserve_server.models.model_files import MODEL_NAME_PATTERN, VERSION_PATTERN, write_model

IMPORTERS: tuple[Importer, ...] = (keras, pytorch, onnx_graph, tensorflow1)
KINDS = (
    "PyTorch (.safetensors, .pt), Keras (.keras, .weights.h5), ONNX (.onnx) and TensorFlow 1 checkpoints (the prefix, "
    "the .index file or the folder)"
)
MAX_VERSION = 999_999_999
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ImportResult:
    """What an import did.

    Attributes:
        name, version: of the model that was written.
        folder: where it was written: ``<models>/<name>/<version>``.
        source: what was read.
        imported: the model, what was assumed and what was ignored.
        verification: how it compares with the framework; None: this was not asked for.
    """

    name: str
    version: int
    folder: Path
    source: Path
    imported: ImportedModel
    verification: Verification | None


def import_model(
    source: Path | str,
    name: str,
    *,
    version: int | None = None,
    models: Path | str = Path("models"),
    settings: Mapping[str, str] = _NO_SETTINGS,
    verify: bool = False,
) -> ImportResult:
    """Makes a served model of a file that a framework wrote. Needs no framework, and runs no code of the file's.

    Args:
        source: the file, folder or checkpoint's prefix; its kind is recognised by what is in it.
        name: of the model: letters, digits, ``_``, ``.`` and ``-``, at most 128.
        version: of the model; None: one more than the highest that there is.
        models: the folder of models; it is made if it is missing.
        settings: what the source does not say, by option: ``{"forget_bias": "0"}``.
        verify: run the framework, where it is installed, on random inputs beside the served model, and write only
            if they agree.

    Raises:
        ImportRefusedError: the source cannot be served exactly, is damaged or says too little; an option is not known;
            the version is there; or verification found a difference. Nothing was written.
    """
    source, models = Path(source), Path(models)
    _require_name(name)
    version = _free_version(models, name, version)
    chosen = Settings(settings)
    try:
        imported = _importer_for(source).read(source, chosen)
    except OSError as error:
        raise ImportRefusedError(f"{source}: it cannot be read: {error.strerror or error}") from error
    if chosen.unused():
        known = ", ".join(chosen.asked()) or "none"
        raise ImportRefusedError(f"{chosen.unused()[0]}: no such option for this source; there are: {known}")
    verification = verify_import(imported) if verify else None
    if verification is not None and verification.failed:
        raise ImportRefusedError(
            f"the served model and {imported.framework} differ by {verification.largest_difference:.3g}, more than "
            f"{verification.tolerance:.3g}; if an assumption was wrong, set its option"
        )
    folder = models / name / str(version)
    try:
        write_model(
            folder, _summary(imported, source), imported.description, imported.weights, _origin(imported, source)
        )
    except CellServeError as error:
        raise ImportRefusedError(f"{source.name}: {error}") from error
    except OSError as error:
        raise ImportRefusedError(f"{folder}: it cannot be written: {error.strerror or error}") from error
    return ImportResult(name, version, folder, source, imported, verification)


def _require_name(name: str) -> None:
    if not MODEL_NAME_PATTERN.fullmatch(name):
        raise ImportRefusedError(
            "name: expected 1 to 128 letters, digits, '_', '.' and '-', the first a letter or a digit; "
            f"got {name[:200]!r}"
        )
    if name.startswith(DEFINED_PREFIX):
        raise ImportRefusedError(f"name: names that begin with {DEFINED_PREFIX!r} are the server's own; got {name!r}")


def _free_version(models: Path, name: str, version: int | None) -> int:
    if version is not None and not 1 <= version <= MAX_VERSION:
        raise ImportRefusedError(f"version: expected a number from 1 to {MAX_VERSION}; got {version}")
    folder = models / name
    try:
        there = [int(path.name) for path in folder.iterdir() if re.fullmatch(VERSION_PATTERN, path.name)]
    except FileNotFoundError:
        there = []
    except OSError as error:
        raise ImportRefusedError(f"{folder}: it cannot be listed: {error.strerror}") from error
    if version in there:
        raise ImportRefusedError(f"version: {name} has a version {version}; there are {sorted(there)}, give another")
    free = max(there, default=0) + 1 if version is None else version
    if free > MAX_VERSION:
        raise ImportRefusedError(f"version: {name} has version {MAX_VERSION}, the highest that there can be; give one")
    return free


def _importer_for(source: Path) -> Importer:
    importer = next((each for each in IMPORTERS if each.recognises(source)), None)
    if importer is not None:
        return importer
    if not source.exists():
        raise ImportRefusedError(f"{source}: no such file or folder")
    raise ImportRefusedError(f"{source.name}: it is of no kind that can be imported; these can: {KINDS}")


def _summary(imported: ImportedModel, source: Path) -> str:
    return f"Imported from {imported.framework}: {source.name[:200]}."


def _origin(imported: ImportedModel, source: Path) -> dict[str, object]:
    """What ``cell.json`` keeps: enough to see, and to repeat, what was decided."""
    assumptions = [
        {"option": note.option, "value": note.value, "because": note.because, "given": note.given}
        for note in imported.assumptions
    ]
    return {"framework": imported.framework, "source": source.name, "assumptions": assumptions}
