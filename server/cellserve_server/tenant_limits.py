"""What each tenant may take: the server's settings as they hold for it.

By default a share of what the server takes of all (``tenant_share``), and the server's limits of single messages,
sessions and streams. A file of quotas says otherwise, for every tenant or for one, by the settings' own names:

    [every_tenant]
    max_sessions = 10_000

    [tenants.acme]
    max_steps_per_s = 50_000

Where nobody is asked for an identity all are one tenant, ``default``, which has all of the server unless the file says
otherwise.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from cellserve_server.config import SHARED, ServerConfig
from cellserve_server.security import DEFAULT_TENANT
from cellserve_server.security.watched_file import WatchedFile

EVERY_TENANT, TENANTS = "every_tenant", "tenants"
# A tenant's limits are made once; where callers can name ever new tenants, those that were not used are made anew.
MAX_KNOWN_TENANTS = 10_000
_KINDS: Mapping[str, str] = {
    item.name: item.metadata["tenant"] for item in fields(ServerConfig) if item.metadata["tenant"]
}
_MINIMA: Mapping[str, int] = {item.name: item.metadata["minimum"] for item in fields(ServerConfig)}

Values: TypeAlias = Mapping[str, int | float]


class Quotas(NamedTuple):
    """What the file says.

    Attributes:
        of_every: tenant.
        of_one: by tenant.
    """

    of_every: Values
    of_one: Mapping[str, Values]


class TenantLimits:
    """The limits of tenants.

    Args:
        config: the server's settings; ``quotas_file`` names the file, or is empty.

    Raises:
        StartError: the file cannot be read, or is not of its form.

    Attributes:
        has_rates: whether any steps are counted by time: where none are, nobody need look.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._known: dict[str, ServerConfig] = {}
        self._file: WatchedFile[Quotas] | None = None
        if config.quotas_file:
            parse = partial(read_quotas, config=config)
            self._file = WatchedFile("--quotas-file", config.quotas_file, parse, self._note_reload)
        self._take()

    @property
    def overall(self) -> ServerConfig:
        """The server's own settings."""
        return self._config

    def of(self, tenant: str) -> ServerConfig:
        """The settings as they hold for a tenant."""
        known = self._known.get(tenant)
        if known is None:
            if len(self._known) >= MAX_KNOWN_TENANTS:
                self._known.clear()
            known = self._known[tenant] = self._make(tenant)
        return known

    def refresh(self) -> None:
        """Takes the file up if it has changed; one that cannot be used is logged, and what was known holds on."""
        if self._file is not None:
            self._file.refresh()

    def _note_reload(self, is_usable: bool) -> None:
        if is_usable:
            self._take()

    def _take(self) -> None:
        self._quotas = Quotas({}, {}) if self._file is None else self._file.current
        self._known.clear()
        rates = [values.get("max_steps_per_s") for values in (self._quotas.of_every, *self._quotas.of_one.values())]
        self.has_rates = bool(self._config.max_steps_per_s) or any(rates)

    def _make(self, tenant: str) -> ServerConfig:
        has_all = tenant == DEFAULT_TENANT and not self._config.has_identity
        share = 1.0 if has_all else self._config.tenant_share
        shares: dict[str, Any] = {
            name: max(type(most := getattr(self._config, name))(most * share), _MINIMA[name])
            for name, kind in _KINDS.items()
            if kind == SHARED
        }
        quotas = self._quotas
        return replace(self._config, **{**shares, **quotas.of_every, **quotas.of_one.get(tenant, {})})


def read_quotas(content: bytes, config: ServerConfig) -> Quotas:
    """What a file says of every tenant, and of single ones.

    Raises:
        ValueError: it is not of its form, or names something that is no limit of a tenant, or more than the server's.
    """
    try:
        document = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"expected TOML; {error}") from error
    if unknown := document.keys() - {EVERY_TENANT, TENANTS}:
        raise ValueError(f"expected {EVERY_TENANT} and {TENANTS} alone; got {sorted(unknown)[0]!r}")
    tenants = document.get(TENANTS, {})
    if not isinstance(tenants, dict):
        raise ValueError(f"{TENANTS}: expected a table of tenants")
    of_every = _values_of(document.get(EVERY_TENANT, {}), EVERY_TENANT, config)
    return Quotas(of_every, {name: _values_of(table, f"{TENANTS}.{name}", config) for name, table in tenants.items()})


def _values_of(table: object, where: str, config: ServerConfig) -> Values:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: expected a table of limits; got {table!r}")
    values: dict[str, int | float] = {}
    for name, value in table.items():
        if name not in _KINDS:
            raise ValueError(f"{where}.{name}: expected one of {', '.join(_KINDS)}")
        most = getattr(config, name)
        is_number = isinstance(value, (int, float) if isinstance(most, float) else int) and not isinstance(value, bool)
        if not is_number:
            raise ValueError(f"{where}.{name}: expected a number; got {value!r}")
        if most and value > most:
            raise ValueError(f"{where}.{name}: expected at most the server's own limit, {most}; got {value}")
        values[name] = type(most)(value)
    try:
        replace(config, **values)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error
    return values
