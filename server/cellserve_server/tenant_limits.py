"""What each tenant may take: the server's settings as they hold for it.

By default a share of what the server takes of all (``tenant_share``), and the server's limits of single messages,
sessions and streams. A file of quotas says otherwise, for every tenant or for one, by the settings' own names:

    [every_tenant]
    max_sessions = 10_000

    [tenants.acme]
    max_steps_per_s = 50_000

Callers without an identity are one tenant, ``default``, which has all of the server unless the file says otherwise.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import structlog

from cellserve_server.config import SHARED, ServerConfig
from cellserve_server.security import DEFAULT_TENANT

EVERY_TENANT, TENANTS = "every_tenant", "tenants"
# A tenant's limits are made once; where callers can name ever new tenants, those that were not used are made anew.
MAX_KNOWN_TENANTS = 10_000
MAX_FILE_BYTES = 1 << 20
_KINDS: Mapping[str, str] = {
    item.name: item.metadata["tenant"] for item in fields(ServerConfig) if item.metadata["tenant"]
}
_MINIMA: Mapping[str, int] = {item.name: item.metadata["minimum"] for item in fields(ServerConfig)}

Values = Mapping[str, int | float]


class QuotasFileError(ValueError):
    """The file of quotas cannot be used; the message says where and why."""


class TenantLimits:
    """The limits of tenants.

    Args:
        config: the server's settings; ``quotas_file`` names the file, or is empty.

    Raises:
        QuotasFileError: the file cannot be read, or is not of its form.

    Attributes:
        has_rates: whether any steps are counted by time: where none are, nobody need look.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._path = Path(config.quotas_file) if config.quotas_file else None
        self._signature: tuple[int, int] | None = None
        self._of_every: Values = {}
        self._of_one: Mapping[str, Values] = {}
        self._known: dict[str, ServerConfig] = {}
        self._log = structlog.get_logger("cellserve.quotas")
        self.has_rates = bool(config.max_steps_per_s)
        if self._path is not None:
            self._load(self._path)

    def of(self, tenant: str) -> ServerConfig:
        """The settings as they hold for a tenant."""
        known = self._known.get(tenant)
        if known is None:
            if len(self._known) >= MAX_KNOWN_TENANTS:
                self._known.clear()
            known = self._known[tenant] = self._make(tenant)
        return known

    def poll(self) -> None:
        """Takes the file up if it has changed; one that cannot be used is logged, and what was known holds on."""
        if self._path is None:
            return
        try:
            if self._signature != _signature_of(self._path):
                self._load(self._path)
                self._log.info("quotas_loaded", file=str(self._path), tenants=len(self._of_one))
        except (OSError, QuotasFileError) as error:
            self._log.error("quotas_not_loaded", file=str(self._path), error=str(error))

    def _make(self, tenant: str) -> ServerConfig:
        share = 1.0 if tenant == DEFAULT_TENANT else self._config.tenant_share
        values: dict[str, Any] = {
            name: max(type(most := getattr(self._config, name))(most * share), _MINIMA[name])
            for name, kind in _KINDS.items()
            if kind == SHARED
        }
        return replace(self._config, **{**values, **self._of_every, **self._of_one.get(tenant, {})})

    def _load(self, path: Path) -> None:
        signature = _signature_of(path)
        if signature == self._signature:
            return
        self._signature = signature  # Also of one that cannot be used: it is told once.
        self._of_every, self._of_one = read_quotas(path, self._config)
        self._known.clear()
        rates = [values.get("max_steps_per_s") for values in (self._of_every, *self._of_one.values())]
        self.has_rates = bool(self._config.max_steps_per_s) or any(rates)


def read_quotas(path: Path, config: ServerConfig) -> tuple[Values, Mapping[str, Values]]:
    """What a file says of every tenant, and of single ones.

    Raises:
        QuotasFileError: it cannot be read, or names something that is no limit of a tenant, or more than the server's.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise QuotasFileError(f"{path}: expected at most {MAX_FILE_BYTES} bytes")
        document = tomllib.loads(content.decode())
    except OSError as error:
        raise QuotasFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise QuotasFileError(f"{path}: expected TOML; {error}") from error
    if unknown := document.keys() - {EVERY_TENANT, TENANTS}:
        raise QuotasFileError(f"{path}: expected {EVERY_TENANT} and {TENANTS} alone; got {sorted(unknown)[0]!r}")
    tenants = document.get(TENANTS, {})
    if not isinstance(tenants, dict):
        raise QuotasFileError(f"{path}: {TENANTS}: expected a table of tenants")
    of_every = _values_of(document.get(EVERY_TENANT, {}), f"{path}: {EVERY_TENANT}", config)
    return of_every, {name: _values_of(table, f"{path}: {TENANTS}.{name}", config) for name, table in tenants.items()}


def _values_of(table: object, where: str, config: ServerConfig) -> Values:
    if not isinstance(table, dict):
        raise QuotasFileError(f"{where}: expected a table of limits; got {table!r}")
    values: dict[str, int | float] = {}
    for name, value in table.items():
        if name not in _KINDS:
            raise QuotasFileError(f"{where}.{name}: expected one of {', '.join(_KINDS)}")
        most = getattr(config, name)
        is_number = isinstance(value, (int, float) if isinstance(most, float) else int) and not isinstance(value, bool)
        if not is_number or value < 0:
            raise QuotasFileError(f"{where}.{name}: expected a number; got {value!r}")
        if most and value > most:
            raise QuotasFileError(f"{where}.{name}: expected at most the server's own limit, {most}; got {value}")
        values[name] = type(most)(value)
    try:
        replace(config, **values)  # type: ignore[arg-type]
    except ValueError as error:
        raise QuotasFileError(f"{where}.{error}") from error
    return values


def _signature_of(path: Path) -> tuple[int, int]:
    """What changes when the file does: its time in nanoseconds, and its size in bytes."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
