"""The models that clients define: each belongs to its tenant, is named by its content, and goes when it is unused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cellserve.errors import FieldInvalidError, QuotaExceededError
from cellserve.specs import ModelDescription
from cellserve_server.config import ServerConfig
from cellserve_server.models.loaded_model import LoadedModel, ModelDraft, ModelState
from cellserve_server.models.weights import model_bytes
from cellserve_server.tenant_limits import TenantLimits

DEFINED_PREFIX = "defined-"
DEFINE_RETRY_S = 1.0
_DIGEST_CHARS = 32


class DefinedModels:
    """The defined models of all tenants.

    Args:
        config: the quotas and the default ttl.
        limits: those of tenants.
        clock: gives unix seconds.
        on_drop: called with a model that has just gone.
    """

    def __init__(
        self,
        config: ServerConfig,
        limits: TenantLimits,
        clock: Callable[[], float],
        on_drop: Callable[[LoadedModel], None],
    ) -> None:
        self._config = config
        self._limits = limits
        self._clock = clock
        self._on_drop = on_drop
        self._models: dict[tuple[str, str], LoadedModel] = {}
        self._on_their_way: Counter[str] = Counter()  # bytes, by tenant

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

    @contextmanager
    def defining(self, tenant: str, description: ModelDescription) -> Iterator[None]:
        """Counts the bytes of a model that is on its way, before its weights are drawn or received.

        Raises:
            QuotaExceededError: there are too many bytes; without ``retry_after_s`` the model is too large for any time.
        """
        wanted = model_bytes(description)
        what = "header.spec: expected at most {} bytes of models to be defined at once"
        self._require_bytes(what, tenant, wanted, self._on_their_way, DEFINE_RETRY_S)
        self._on_their_way[tenant] += wanted
        try:
            yield
        finally:
            self._on_their_way[tenant] -= wanted
            if not self._on_their_way[tenant]:
                del self._on_their_way[tenant]

    def adopt(self, tenant: str, draft: ModelDraft, ttl_s: float | None) -> LoadedModel:
        """Takes a model into service, or renews it if it is there.

        Raises:
            FieldInvalidError: the ttl is out of its range.
            QuotaExceededError: the tenant has too many models or bytes, or all tenants have too many bytes;
                ``retry_after_s`` is when the next may go.
        """
        ttl_s = self._config.defined_model_ttl_s if ttl_s is None else ttl_s
        if not 0 < ttl_s <= self._config.max_ttl_s:
            raise FieldInvalidError(f"ttl: expected more than 0 and at most {self._config.max_ttl_s} s; got {ttl_s} s")
        self.sweep()
        name = defined_name(draft)
        model = self._models.get((tenant, name))
        if model is None:
            model = LoadedModel(name, 1, tenant, draft, self._clock())
            self._check_quotas(tenant, model.model_bytes)
            self._models[(tenant, name)] = model
        # Never shorter than somebody was told before.
        model.ttl_s = max(model.ttl_s, ttl_s)
        model.state = ModelState.READY
        self.touch(model)
        return model

    def _check_quotas(self, tenant: str, wanted_bytes: int) -> None:
        mine = [model for model in self._models.values() if model.tenant == tenant]
        max_models = self._config.max_defined_models
        if len(mine) >= max_models:
            raise QuotaExceededError(
                f"expected at most {max_models} defined models (max_defined_models); there are {len(mine)}",
                metadata=_quota("max_defined_models", max_models),
                retry_after_s=self._wait_s(mine),
            )
        held: Counter[str] = Counter()
        for (owner, _), model in self._models.items():
            held[owner] += model.model_bytes
        what = "expected at most {} bytes of defined models"
        self._require_bytes(what, tenant, wanted_bytes, held, self._wait_s(mine or list(self._models.values())))

    def _wait_s(self, models: Sequence[LoadedModel]) -> float:
        """The seconds until the next of them may go."""
        unused = [model.expire_time for model in models if not model.session_count]
        return min(unused) - self._clock() if unused else self._config.defined_model_ttl_s

    def _require_bytes(self, what: str, tenant: str, wanted: int, have: Counter[str], retry_after_s: float) -> None:
        """Refuses ``wanted`` bytes beyond the limits; ``what`` begins the message, with a place for the limit."""
        own, mine = self._limits.of(tenant), have[tenant]
        for name, whose, limit, there in (
            ("max_defined_model_bytes", "", own.max_defined_model_bytes, mine),
            ("max_defined_bytes", " of this tenant", own.max_defined_bytes, mine),
            ("max_defined_bytes", " of all tenants", self._config.max_defined_bytes, have.total()),
        ):
            if there + wanted > limit:
                raise QuotaExceededError(
                    f"{what.format(limit)}{whose} ({name}); there are {there} and this one has {wanted}",
                    metadata=_quota(name, limit),
                    retry_after_s=retry_after_s if wanted <= limit else None,
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
