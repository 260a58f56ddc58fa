"""The operator's models: the versions in the folder, and what became of each when it was loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import structlog

from cellserve.errors import (
    CellServeError,
    FailedPreconditionError,
    ModelBrokenError,
    ModelNotFoundError,
    QuotaExceededError,
)
from cellserve_server.models.defined_models import DEFINED_PREFIX
from cellserve_server.models.loaded_model import BrokenModel, LoadedModel, ModelDraft, ModelState, draft_of_prepared
from cellserve_server.models.model_files import CELL_FILE, MODEL_NAME_PATTERN, VERSION_PATTERN, read_model

MAX_VERSIONS = 10_000
_SHOWN = 5

Entry: TypeAlias = LoadedModel | BrokenModel

log = structlog.get_logger(__name__)


class Location(NamedTuple):
    """A version in the folder of models."""

    name: str
    version: int


class ModelFolder:
    """The versions that were loaded from a folder of models, or found broken in it.

    Args:
        root: the folder; it may be absent.
        clock: gives unix seconds.
        on_drop: called with a model that has just gone.
    """

    def __init__(self, root: Path, clock: Callable[[], float], on_drop: Callable[[LoadedModel], None]) -> None:
        self._root = root
        self._clock = clock
        self._on_drop = on_drop
        self._found: dict[str, dict[int, Entry]] = {}

    def __iter__(self) -> Iterator[Entry]:
        # Copies: metrics are read in another thread.
        return iter([entry for versions in list(self._found.values()) for entry in list(versions.values())])

    def __len__(self) -> int:
        return sum(len(versions) for versions in self._found.values())

    def versions(self, name: str) -> Mapping[int, Entry]:
        """The versions of a model that the server knows, broken and unloading ones too; may be none."""
        return self._found.get(name, {})

    def load_all(self) -> None:
        """Loads every version in the folder; those that cannot be served are kept as broken.

        Raises:
            OSError: the folder is there and cannot be listed.
        """
        if not self._root.exists():
            log.warning("models_folder_missing", folder=str(self._root))
            return
        for folder in sorted(self._root.iterdir()):
            if not folder.is_dir() or folder.name.startswith("."):
                continue
            if not MODEL_NAME_PATTERN.fullmatch(folder.name):
                log.warning("model_name_not_allowed", name=folder.name, expected=MODEL_NAME_PATTERN.pattern)
                continue
            for version in self._versions_on_disk(folder.name):
                if len(self) >= MAX_VERSIONS:
                    log.error("too_many_models", limit=MAX_VERSIONS, first_left_out=f"{folder.name}/{version}")
                    return
                location = Location(folder.name, version)
                self._put(location, self.read(location))

    def locate(self, name: str, version: int | None) -> Location:
        """The version on the disk that is meant; None: the newest.

        Raises:
            ModelNotFoundError: the folder has no such version.
        """
        versions = self._versions_on_disk(name)
        if not versions or (version is not None and version not in versions):
            there = f"versions {', '.join(map(str, versions[-_SHOWN:]))}" if versions else "nothing of that name"
            wanted = f"models/{name}" + ("" if version is None else f"/versions/{version}")
            raise ModelNotFoundError(f"{wanted}: the server's folder of models has {there}", metadata={"model": wanted})
        return Location(name, versions[-1] if version is None else version)

    def read(self, location: Location) -> ModelDraft | BrokenModel:
        """Reads a version's files and builds the model. This is the slow part; it may run in another thread."""
        try:
            if location.name.startswith(DEFINED_PREFIX):
                raise ModelBrokenError(f"{location.name}: names with {DEFINED_PREFIX} are for models of DefineModel")
            files = read_model(self._root, location.name, location.version)
            return draft_of_prepared(files.summary, files.description, files.weights)
        except CellServeError as error:
            return BrokenModel(location.name, location.version, error.message)
        except Exception as error:
            # One model's trouble, be it our bug or memory, must not keep the others from service.
            log.exception("model_load_failed", model=location.name, version=location.version)
            text = f"{type(error).__name__} while it was loaded; the server's log has the details"
            return BrokenModel(location.name, location.version, text)

    def install(self, location: Location, outcome: ModelDraft | BrokenModel) -> LoadedModel:
        """Takes what ``read`` gave into service. The same content again changes nothing, but ends an unloading.

        Raises:
            ModelBrokenError: it cannot be served; a version that was in service before stays so.
            FailedPreconditionError: the content is another than that under the version's open sessions.
            QuotaExceededError: there are too many versions.
        """
        known = self.versions(location.name).get(location.version)
        if known is None and len(self) >= MAX_VERSIONS:
            raise QuotaExceededError(
                f"expected at most {MAX_VERSIONS} versions of models; unload some first",
                metadata={"quota": "max_versions", "limit": str(MAX_VERSIONS)},
            )
        if isinstance(outcome, BrokenModel):
            if not isinstance(known, LoadedModel):
                self._put(location, outcome)
            raise outcome.as_error()
        if isinstance(known, LoadedModel):
            if known.digest == outcome.digest:
                known.state = ModelState.READY
                return known
            if known.session_count:
                raise FailedPreconditionError(
                    f"{known.resource_name}: {known.session_count} sessions are open on it and its files have "
                    "changed; give the new weights a new version"
                )
            self.drop(known)
        model = self._put(location, outcome)
        assert isinstance(model, LoadedModel)
        return model

    def drop(self, entry: Entry) -> None:
        """Forgets a version; nothing may begin on it any more."""
        versions = self._found[entry.name]
        del versions[entry.version]
        if not versions:
            del self._found[entry.name]
        log.info("model_unloaded", model=entry.resource_name)
        if isinstance(entry, LoadedModel):
            entry.state = ModelState.UNLOADING
            self._on_drop(entry)

    def _put(self, location: Location, outcome: ModelDraft | BrokenModel) -> Entry:
        entry: Entry
        if isinstance(outcome, BrokenModel):
            entry = outcome
            log.error("model_broken", model=entry.resource_name, error=entry.error)
        else:
            entry = LoadedModel(location.name, location.version, None, outcome, self._clock())
            log.info("model_loaded", model=entry.resource_name, digest=entry.digest, weight_bytes=entry.weight_bytes)
        self._found.setdefault(location.name, {})[location.version] = entry
        return entry

    def _versions_on_disk(self, name: str) -> list[int]:
        try:
            folders = [folder for folder in (self._root / name).iterdir() if folder.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            log.error("model_folder_unreadable", model=name, error=error.strerror)
            return []
        legal = [folder.name for folder in folders if VERSION_PATTERN.fullmatch(folder.name)]
        odd = sorted({folder.name for folder in folders if not folder.name.startswith(".")} - set(legal))
        if odd:
            log.warning("version_not_allowed", model=name, folders=odd[:_SHOWN], expected="1, 2, 3, ...")
        if not legal:
            log.warning("model_has_no_version", model=name, expected=str(self._root / name / "1" / CELL_FILE))
        return sorted(map(int, legal))
