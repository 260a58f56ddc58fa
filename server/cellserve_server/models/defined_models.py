"""The models that clients define: each belongs to its tenant, is named by its content, and goes when it is unused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cellserve.errors import FieldInvalidError, QuotaExceededError
from cellserve.specs import ModelDescription
from cellserve_server.config import ServerConfig
from cellserve_server.models.loaded_model import LoadedModel, ModelDraft, ModelState
from cellserve_server.models.weights import weight_bytes

DEFINED_PREFIX = "defined-"
_DIGEST_CHARS = 32


class DefinedModels:
    """The defined models of all tenants.

    Args:
        config: the quotas and the default ttl.
        clock: gives unix seconds.
        on_drop: called with a model that has just gone.
    """

    def __init__(
        self, config: ServerConfig, clock: Callable[[], float], on_drop: Callable[[LoadedModel], None]
    ) -> None:
        self._config = config
        self._clock = clock
        self._on_drop = on_drop
        self._models: dict[tuple[str, str], LoadedModel] = {}

    def __iter__(self) -> Iterator[LoadedModel]:
        # A copy: metrics are read in another thread, and dropping while looking is allowed.
        return iter(list(self._models.values()))

    def get(self, tenant: str, name: str) -> LoadedModel | None:
        """The tenant's model of this name; None: it never was, or has gone."""
        model = self._models.get((tenant, name))
        if model is not None and self._is_due(model, self._clock()):
            self.drop(model)
            return None
        return model

    def check_size(self, description: ModelDescription) -> None:
        """Refuses a model that is too large for any quota, before its weights are drawn or received.

        Raises:
            QuotaExceededError: no retry will help.
        """
        limit = self._config.max_defined_model_bytes
        wanted = weight_bytes(description)
        if wanted > limit:
            raise QuotaExceededError(
                f"spec: expected a model of at most {limit} bytes of weights (max_defined_model_bytes); got {wanted}",
                metadata=_quota("max_defined_model_bytes", limit),
            )

    def adopt(self, tenant: str, draft: ModelDraft, ttl_s: float | None) -> LoadedModel:
        """Takes a model into service, or renews it if it is there.

        Raises:
            FieldInvalidError: the ttl is out of its range.
            QuotaExceededError: the tenant has too many models or bytes; ``retry_after_s`` is when the next may go.
        """
        ttl_s = self._config.defined_model_ttl_s if ttl_s is None else ttl_s
        if not 0 < ttl_s <= self._config.max_ttl_s:
            raise FieldInvalidError(f"ttl: expected more than 0 and at most {self._config.max_ttl_s} s; got {ttl_s} s")
        self.sweep()
        name = defined_name(draft)
        model = self._models.get((tenant, name))
        if model is None:
            model = LoadedModel(name, 1, tenant, draft, self._clock())
            self._check_quotas(tenant, model.weight_bytes)
            self._models[(tenant, name)] = model
        # Never shorter than somebody was told before.
        model.ttl_s = max(model.ttl_s, ttl_s)
        model.state = ModelState.READY
        self.touch(model)
        return model

    def _check_quotas(self, tenant: str, wanted_bytes: int) -> None:
        mine = [model for model in self._models.values() if model.tenant == tenant]
        have_bytes = sum(model.weight_bytes for model in mine)
        max_models, max_bytes = self._config.max_defined_models, self._config.max_defined_model_bytes
        if len(mine) < max_models and have_bytes + wanted_bytes <= max_bytes:
            return
        unused = [model.expire_time for model in mine if not model.session_count]
        wait_s = min(unused) - self._clock() if unused else self._config.defined_model_ttl_s
        if len(mine) >= max_models:
            raise QuotaExceededError(
                f"expected at most {max_models} defined models (max_defined_models); there are {len(mine)}",
                metadata=_quota("max_defined_models", max_models),
                retry_after_s=wait_s,
            )
        raise QuotaExceededError(
            f"expected at most {max_bytes} bytes of defined models (max_defined_model_bytes); there are {have_bytes} "
            f"and this one has {wanted_bytes}",
            metadata=_quota("max_defined_model_bytes", max_bytes),
            retry_after_s=wait_s,
        )

    def touch(self, model: LoadedModel) -> None:
        """The model is used now: puts its expiry off."""
        model.expire_time = max(model.expire_time, self._clock() + model.ttl_s)

    def drop(self, model: LoadedModel) -> None:
        """Takes a model out; nothing may begin on it any more."""
        assert model.tenant is not None, "an operator's model is not here"
        model.state = ModelState.UNLOADING
        del self._models[(model.tenant, model.name)]
        self._on_drop(model)

    def sweep(self) -> float | None:
        """Drops what is unused and due; gives the unix seconds at which to come again, None: no need to."""
        now = self._clock()
        for model in self:
            if self._is_due(model, now):
                self.drop(model)
            elif model.session_count:
                self.touch(model)
        return min((model.expire_time for model in self._models.values()), default=None)

    @staticmethod
    def _is_due(model: LoadedModel, now: float) -> bool:
        return model.expire_time <= now and not model.session_count


def defined_name(draft: ModelDraft) -> str:
    """The name of a model that a client defines: by its content."""
    return DEFINED_PREFIX + draft.digest[:_DIGEST_CHARS]


def _quota(name: str, limit: int) -> dict[str, str]:
    return {"quota": name, "limit": str(limit)}
