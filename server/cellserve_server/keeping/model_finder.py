"""Finds the model that a request names: in this server, or, of those that clients defined, in the store."""

from __future__ import annotations

import asyncio

from cellserve.errors import ModelNotFoundError
from cellserve_server.keeping.stored_models import StoredModels
from cellserve_server.models.repository import DEFINED_PREFIX, Entry, LoadedModel, ModelRepository, short_name


class ModelFinder:
    """Finds models.

    Args:
        models: the models of this server.
        stored: those that clients defined, in the store; None: there is none.
    """

    def __init__(self, models: ModelRepository, stored: StoredModels | None) -> None:
        self._models = models
        self._stored = stored
        self._loading: dict[tuple[str, str], asyncio.Task[LoadedModel]] = {}

    async def resolve(self, tenant: str, name: str, field: str = "model") -> LoadedModel:
        """As ``ModelRepository.resolve``; what is in the store alone is loaded.

        Raises:
            CellServeError: as of ``ModelRepository.resolve``; ``StoreUnavailableError``, ``RecordCorruptError``.
        """
        try:
            return self._models.resolve(tenant, name, field)
        except ModelNotFoundError:
            if not await self._load(tenant, name, field):
                raise
        return self._models.resolve(tenant, name, field)

    async def get(self, tenant: str, name: str, field: str = "model") -> Entry:
        """As ``ModelRepository.get``; what is in the store alone is loaded."""
        try:
            return self._models.get(tenant, name, field)
        except ModelNotFoundError:
            if not await self._load(tenant, name, field):
                raise
        return self._models.get(tenant, name, field)

    async def _load(self, tenant: str, name: str, field: str) -> bool:
        """Loads a model from the store; whether it is there. Who asks while it is loaded waits for it."""
        short = short_name(name, field)
        if self._stored is None or not short.startswith(DEFINED_PREFIX):
            return False
        key = (tenant, short)
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._stored.load(tenant, short))
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        try:
            await asyncio.shield(task)
        except ModelNotFoundError:
            return False
        return True
