"""Looking after the folder of models while the server runs: new versions come into service without a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypeAlias

import structlog

from cellserve.errors import CellServeError
from cellserve_server.models.loaded_model import LoadedModel
from cellserve_server.models.model_files import CELL_FILE, MODEL_NAME_PATTERN, VERSION_PATTERN, WEIGHTS_FILE
from cellserve_server.models.model_folder import Location
from cellserve_server.models.repository import ModelRepository

Signature: TypeAlias = tuple[tuple[int, int], ...]
"""Modification time in nanoseconds and size in bytes of each of a version's files."""

log = structlog.get_logger(__name__)


class FolderWatch:
    """Finds versions whose files are new or were changed. Does file work only, so it may run in a thread.

    A version is reported once its files were the same at two looks in a row: one that is still being copied is left
    alone until it stands still.

    Args:
        root: the folder of models; it may be absent, and come later.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._settled: dict[Location, Signature] = {}
        self._last_look: dict[Location, Signature] = {}

    def take_for_granted(self) -> None:
        """Takes what is there now for known."""
        self._settled = self._last_look = self._signatures()

    def look(self) -> list[Location]:
        """The versions that are new, or changed, and stand still; each change is reported once."""
        before, self._last_look = self._last_look, self._signatures()
        changed = [
            location
            for location, signature in self._last_look.items()
            if signature == before.get(location) and signature != self._settled.get(location)
        ]
        # What has gone is forgotten: should it come back, it is new.
        self._settled = {known: mark for known, mark in self._settled.items() if known in self._last_look}
        self._settled.update((location, self._last_look[location]) for location in changed)
        return sorted(changed)

    def _signatures(self) -> dict[Location, Signature]:
        """Of every version that has both files. A folder that cannot be read has none, now."""
        found: dict[Location, Signature] = {}
        for folder in self._root.glob("*/*"):
            name, version = folder.parent.name, folder.name
            if not MODEL_NAME_PATTERN.fullmatch(name) or not VERSION_PATTERN.fullmatch(version):
                continue
            try:
                stats = [(folder / file).stat() for file in (CELL_FILE, WEIGHTS_FILE)]
            except OSError:
                continue  # Not whole yet, or going: the next look will tell.
            found[Location(name, int(version))] = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
        return found


class ModelLoader:
    """Loads versions from the folder one at a time, the slow part in a thread.

    Args:
        models: where they go.
        root: the folder.
    """

    def __init__(self, models: ModelRepository, root: Path) -> None:
        self._models = models
        self._watch = FolderWatch(root)
        self._one_at_a_time = asyncio.Lock()

    async def load_all(self) -> None:
        """Loads what is there when the server starts; for ``poll`` it is known then.

        Raises:
            OSError: the folder is there and cannot be listed.
        """
        # In this order: what changes while it is loaded will be seen as changed.
        await asyncio.to_thread(self._watch.take_for_granted)
        await asyncio.to_thread(self._models.load_all)

    async def load(self, location: Location) -> LoadedModel:
        """Loads one version and takes it into service.

        Raises:
            CellServeError: as ``ModelRepository.install``; what was in service before stays so.
        """
        async with self._one_at_a_time:
            outcome = await asyncio.to_thread(self._models.read, location)
            return self._models.install(location, outcome)

    async def poll(self) -> None:
        """Looks once and loads what is new or changed. What cannot be served is logged and kept as broken."""
        for location in await asyncio.to_thread(self._watch.look):
            try:
                await self.load(location)
            except CellServeError as error:
                log.warning("model_not_taken", model=f"{location.name}/{location.version}", error=error.message)
