"""The models that the server has: the operator's, from a folder, and those that clients defined.

Not safe for several threads: the calls belong on the event loop. The slow parts, ``ModelRepository.read`` and
``draft_model``, touch nothing shared and may run elsewhere; ``install`` and ``adopt`` then take what they made.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import structlog

from cellserve.errors import FieldInvalidError, ModelNotFoundError
from cellserve.specs import ModelDescription
from cellserve_server.config import ServerConfig
from cellserve_server.models.defined_models import DEFINED_PREFIX, DefinedModels
from cellserve_server.models.loaded_model import BrokenModel, LoadedModel, ModelDraft, ModelState, draft_model
from cellserve_server.models.model_files import MODEL_NAME_PATTERN, VERSION_PATTERN
from cellserve_server.models.model_folder import Entry, Location, ModelFolder
from cellserve_server.tenant_limits import TenantLimits

__all__ = ["DEFINED_PREFIX", "BrokenModel", "Entry", "LoadedModel", "Location", "ModelDraft", "ModelRepository"]
__all__ += ["ModelState", "draft_model", "short_name"]

_SHOWN = 5
_SHOWN_CHARS = 200
_RESOURCE_NAME = re.compile(rf"models/({MODEL_NAME_PATTERN.pattern})(?:/versions/({VERSION_PATTERN.pattern}))?")

log = structlog.get_logger(__name__)


def _ignore(_: LoadedModel) -> None:
    """What is done about a model that has gone as long as nobody asked to be told."""


class ModelRepository:
    """All models of a server.

    Args:
        root: the folder of models; it may be absent.
        config: limits.
        clock: gives unix seconds.
        limits: those of tenants; None: as the settings say.

    Attributes:
        on_unload: called with a model that is unloaded by force: ends the sessions that are open on it, now or soon.
        on_drop: called with a model that has gone for good, for whoever keeps something for it.
    """

    def __init__(
        self, root: Path, config: ServerConfig, clock: Callable[[], float], limits: TenantLimits | None = None
    ) -> None:
        self.on_unload: Callable[[LoadedModel], None] = _ignore
        self.on_drop: Callable[[LoadedModel], None] = _ignore
        self._folder = ModelFolder(root, clock, lambda model: self.on_drop(model))
        limits = limits or TenantLimits(config)
        self._defined = DefinedModels(config, limits, clock, lambda model: self.on_drop(model))

    def load_all(self) -> None:
        """Loads every version in the folder; those that cannot be served are kept as broken. For the server's start.

        Raises:
            OSError: the folder is there and cannot be listed.
        """
        self._folder.load_all()

    def resolve(self, tenant: str, name: str, field: str = "model") -> LoadedModel:
        """The model that a request names; if the tenant defined it, its expiry is put off.

        Args:
            name: ``models/x`` for its newest ready version, or ``models/x/versions/3``.
            field: what the name is called in messages.

        Raises:
            FieldInvalidError: no name of that form.
            ModelNotFoundError: it is not there, is being unloaded, or is another tenant's.
            ModelBrokenError: it is there and cannot be served.
        """
        entry = self.get(tenant, name, field)
        if isinstance(entry, BrokenModel):
            raise entry.as_error()
        if entry.state is not ModelState.READY:
            raise _unloading(entry)
        if entry.tenant is not None:
            self._defined.touch(entry)
        return entry

    def get(self, tenant: str, name: str, field: str = "model") -> Entry:
        """As ``resolve``, but gives what is there, broken and unloading ones too, and does not count as a use."""
        short, version = _parse(name, field)
        defined = self._defined.get(tenant, short) if short.startswith(DEFINED_PREFIX) else None
        versions = self._folder.versions(short) if defined is None else {defined.version: defined}
        if version is not None and version in versions:
            return versions[version]
        if version is None and versions:
            return max(versions.values(), key=lambda entry: (entry.state is ModelState.READY, entry.version))
        raise self._not_found(tenant, name, short)

    def list(self, tenant: str) -> Sequence[Entry]:
        """Every version that the tenant may see, broken and unloading ones too, ordered by name and version."""
        mine = [model for model in self._defined if model.tenant == tenant]
        return sorted([*self._folder, *mine], key=lambda entry: (entry.name, entry.version))

    def defined(self) -> Sequence[LoadedModel]:
        """Those that clients defined, all tenants' together."""
        return list(self._defined)

    def count_by_state(self) -> dict[str, int]:
        """The number of versions, all tenants' together, by state. May be called by another thread."""
        return dict(Counter(entry.state.value for entry in [*self._folder, *self._defined]))

    def locate(self, name: str, field: str = "name") -> Location:
        """The version in the folder that a name means: ``models/x`` is the newest.

        Raises:
            FieldInvalidError: no name of that form, or a defined model's: it has no folder.
            ModelNotFoundError: the folder has no such version.
        """
        short, version = _parse(name, field)
        if short.startswith(DEFINED_PREFIX):
            raise FieldInvalidError(f"{field}: expected a model of the server's folder; {name} is made by DefineModel")
        return self._folder.locate(short, version)

    def read(self, location: Location) -> ModelDraft | BrokenModel:
        """Reads a version's files and builds the model. This is the slow part; it may run in another thread."""
        return self._folder.read(location)

    def install(self, location: Location, outcome: ModelDraft | BrokenModel) -> LoadedModel:
        """Takes what ``read`` gave into service. The same content again changes nothing, but ends an unloading.

        Raises:
            ModelBrokenError: it cannot be served; a version that was in service before stays so.
            FailedPreconditionError: the content is another than that under the version's open sessions.
            QuotaExceededError: there are too many versions.
        """
        return self._folder.install(location, outcome)

    def unload(self, tenant: str, name: str, force: bool) -> Entry:
        """Takes a version out of service. It goes when its last session has ended; ``force`` has them ended now.

        Args:
            name: ``models/x/versions/3``.

        Returns:
            What was unloaded; of a loaded one ``session_count`` says whether sessions are left on it.

        Raises:
            FieldInvalidError: no name of that form, or one without a version.
            ModelNotFoundError: it is not there, or is another tenant's.
        """
        if _parse(name, "name")[1] is None:
            raise FieldInvalidError(f"name: expected models/{{model}}/versions/{{version}}; got {name!r}")
        entry = self.get(tenant, name, "name")
        if isinstance(entry, BrokenModel):
            self._folder.drop(entry)
            return entry
        entry.state = ModelState.UNLOADING
        log.info("model_unloading", model=entry.resource_name, sessions=entry.session_count, force=force)
        # Held while its sessions are ended, so that the last of them does not drop it under our feet.
        entry.session_count += 1
        if force:
            self.on_unload(entry)
        self.release(entry)
        return entry

    def defining(self, tenant: str, description: ModelDescription) -> AbstractContextManager[None]:
        """Within it a model is on its way: its weights are received or drawn, and it is adopted.

        Raises:
            QuotaExceededError: too many bytes are on their way; without ``retry_after_s`` no retry will help.
        """
        return self._defined.defining(tenant, description)

    def adopt(self, tenant: str, draft: ModelDraft, ttl_s: float | None) -> LoadedModel:
        """Takes a draft into service under its content's name; the same content again renews the model that is there.

        Raises:
            FieldInvalidError: the ttl is out of its range.
            QuotaExceededError: the tenant has too many models or bytes of them, or all tenants have.
        """
        return self._defined.adopt(tenant, draft, ttl_s)

    def sweep(self) -> float | None:
        """Drops defined models that are unused and due; gives the unix seconds of the next time, None: no need."""
        return self._defined.sweep()

    def acquire(self, model: LoadedModel) -> None:
        """A session begins on a model.

        Raises:
            ModelNotFoundError: the model was unloaded since it was resolved.
        """
        if model.state is not ModelState.READY:
            raise _unloading(model)
        model.session_count += 1

    def release(self, model: LoadedModel) -> None:
        """A session on a model has ended."""
        assert model.session_count > 0, "a session ended twice"
        model.session_count -= 1
        if model.tenant is not None:
            self._defined.touch(model)
        if model.state is ModelState.UNLOADING and not model.session_count:
            owner = self._folder if model.tenant is None else self._defined
            owner.drop(model)

    def _not_found(self, tenant: str, name: str, short: str) -> ModelNotFoundError:
        if short.startswith(DEFINED_PREFIX):
            text = "no such model: it was never defined here, or was not used for its ttl; define it again"
        elif self._folder.versions(short):
            text = f"no such version; there are {', '.join(map(str, sorted(self._folder.versions(short))[-_SHOWN:]))}"
        else:
            text = f"no such model; {self._what_there_is(tenant)}"
        return ModelNotFoundError(f"{name}: {text}", metadata={"model": name})

    def _what_there_is(self, tenant: str) -> str:
        """The operator's models by name; a client's own are named by their content, which tells nobody anything."""
        names = sorted({entry.name for entry in self._folder})
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        defined = sum(model.tenant == tenant for model in self._defined)
        text = f"there are {shown}" if names else "the server's folder has none"
        return f"{text}; besides {defined} that clients defined" if defined else text


def short_name(name: str, field: str) -> str:
    """``x`` of ``models/x`` and of ``models/x/versions/3``.

    Raises:
        FieldInvalidError: no name of that form.
    """
    return _parse(name, field)[0]


def _parse(name: str, field: str) -> tuple[str, int | None]:
    match = _RESOURCE_NAME.fullmatch(name)
    if match is None:
        got = repr(name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "...")
        raise FieldInvalidError(
            f"{field}: expected models/{{model}} or models/{{model}}/versions/{{version}}; got {got}",
            metadata={"field": field},
        )
    return match[1], int(match[2]) if match[2] else None


def _unloading(model: LoadedModel) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{model.resource_name}: it is unloading or was unloaded; no session may begin on it",
        metadata={"model": model.resource_name},
    )
