"""The defined models in the store: there as long as a session may need them, whichever replica goes on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from cellserve.errors import ModelNotFoundError, QuotaExceededError, RecordCorruptError, StoreUnavailableError
from cellserve.specs import ModelDescription
from cellserve.tensors import Array
from cellserve_server.keeping.model_records import decode_model, encode_model
from cellserve_server.models.defined_models import defined_name
from cellserve_server.models.loaded_model import ModelDraft
from cellserve_server.models.repository import LoadedModel, ModelRepository
from cellserve_server.stores.base import Store
from cellserve_server.tenant_limits import TenantLimits

# A session may live for max_ttl_s from now without its model being looked at again. The store keeps models for twice as
# long, and is told again when half of that is over.
KEPT_TTLS = 2.0


class StoredModels:
    """The defined models in the store.

    Args:
        store: where they are.
        models: the models of this server.
        limits: of tenants.
        clock: unix seconds.
    """

    def __init__(self, store: Store, models: ModelRepository, limits: TenantLimits, clock: Callable[[], float]) -> None:
        self._store = store
        self._models = models
        self._limits = limits
        self._kept_s = KEPT_TTLS * limits.overall.max_ttl_s
        self._clock = clock
        self._kept_until: dict[tuple[str, str], float] = {}
        # Of those that clients of this server have defined: what they take in the store, whether or not they are here.
        self._put_bytes: dict[tuple[str, str], int] = {}
        self._log = structlog.get_logger("cellserve.models")

    def require_room(self, tenant: str, draft: ModelDraft, wanted_bytes: int) -> None:
        """Refuses a model that is too much for the store. What other replicas have put there is not known.

        Args:
            wanted_bytes: of its weights, if they go there.

        Raises:
            QuotaExceededError: ``retry_after_s`` is when the next of the tenant's may go.
        """
        if (tenant, defined_name(draft)) in self._put_bytes:
            return
        limit = self._limits.of(tenant).max_stored_model_bytes
        mine = {key: size for key, size in self._put_bytes.items() if key[0] == tenant}
        have = sum(mine.values())
        if have + wanted_bytes > limit:
            first = min((self._kept_until[key] for key in mine), default=self._clock() + self._kept_s)
            raise QuotaExceededError(
                f"spec: expected at most {limit} bytes of defined models in the store (max_stored_model_bytes); there "
                f"are {have}, which stay as long as sessions may need them, and this one has {wanted_bytes}",
                metadata={"quota": "max_stored_model_bytes", "limit": str(limit)},
                retry_after_s=max(first - self._clock(), 0.0),
            )

    async def put(
        self,
        tenant: str,
        model: LoadedModel,
        description: ModelDescription,
        weights: Mapping[str, Array] | None,
        seed: int | None,
    ) -> None:
        """Keeps a model that a client has just defined.

        Raises:
            StoreUnavailableError: it is not kept.
        """
        content = await asyncio.to_thread(encode_model, description, weights, seed)
        until = self._clock() + self._kept_s
        await self._store.put_model(tenant, model.name, content, until)
        self._kept_until[tenant, model.name] = until
        self._put_bytes[tenant, model.name] = len(content)

    async def load(self, tenant: str, name: str) -> LoadedModel:
        """A model of the store, in service from now on.

        Args:
            name: without ``models/``.

        Raises:
            ModelNotFoundError: the store does not have it. RecordCorruptError: it is damaged.
            StoreUnavailableError, QuotaExceededError.
        """
        content = await self._store.get_model(tenant, name)
        if content is None:
            raise ModelNotFoundError(
                f"models/{name}: no such model; the session's client defined it, and it is not in the store any more",
                metadata={"model": f"models/{name}"},
            )
        draft = await asyncio.to_thread(decode_model, content)
        if defined_name(draft) != name:
            raise RecordCorruptError(
                f"models/{name}: what the store has under this name is another model: it is damaged",
                metadata={"model": f"models/{name}"},
            )
        model = self._models.adopt(tenant, draft, None)
        # It may leave memory again, with its sessions, before ``renew`` comes by; and so time after time.
        until = self._clock() + self._kept_s
        if await self._store.keep_model(tenant, name, until):
            self._kept_until[tenant, name] = until
        self._log.info("model_from_store", model=model.resource_name)
        return model

    async def renew(self) -> None:
        """Puts the expiry of those off that sessions need. To be called now and then; a failure waits for the next."""
        now = self._clock()
        used = [model for model in self._models.defined() if model.session_count]
        for model in used:
            assert model.tenant is not None, "a defined model has a tenant"
            key = (model.tenant, model.name)
            if self._kept_until.get(key, 0.0) - now > self._kept_s / 2:
                continue
            until = now + self._kept_s
            try:
                if await self._store.keep_model(*key, until):
                    self._kept_until[key] = until
                else:
                    self._log.error("model_not_in_store", model=model.resource_name)
            except StoreUnavailableError as error:
                self._log.warning("model_not_renewed", model=model.resource_name, error=error.message)
                return
        living = {(model.tenant, model.name) for model in self._models.defined()}
        self._kept_until = {
            key: until
            for key, until in self._kept_until.items()
            if key in living or (key in self._put_bytes and until > now)
        }
        self._put_bytes = {key: size for key, size in self._put_bytes.items() if self._kept_until.get(key, 0.0) > now}
