"""Whether settings fit each other and the place, and whether what looks like one is one."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import fields

from cellserve_server import logs
from cellserve_server.binding import StartError, advertised_address, require_private_or_insecure
from cellserve_server.config import ServerConfig
from cellserve_server.doctor.findings import Finding, State
from cellserve_server.options import ENVIRONMENT_PREFIX, FILE_SUFFIX, PASSWORD_ADVICE, variable_of

AREA = "settings"
# Of the client, which may have the same environment.
CLIENTS_VARIABLES = frozenset(ENVIRONMENT_PREFIX + name for name in ("ADDRESS", "TLS", "TOKEN_FILE"))
OTHERS = stat.S_IRWXO | stat.S_IWGRP


def check_settings(config: ServerConfig, environment: Mapping[str, str], *, shows_password: bool) -> list[Finding]:
    """Looks at the settings, and at the environment that some of them are from.

    Args:
        shows_password: whether the store's password stands in the command line.
    """
    found = [*_unknown(environment), *_open_files(environment)]
    try:
        require_private_or_insecure(config)
        advertised_address(config, config.port)
        logs.require_known(config.log_level, config.log_format)
    except (StartError, ValueError) as error:
        found.append(Finding(AREA, State.WRONG, str(error)))
    if config.insecure:
        found.append(
            Finding(
                AREA,
                State.WARNING,
                "--insecure: what is sent to other addresses than loopback can be read and changed on its way",
                "give --tls-cert and --tls-key, unless the network is trusted",
            )
        )
    if shows_password:
        found.append(
            Finding(
                AREA,
                State.WARNING,
                "--store: the password stands in the command line",
                PASSWORD_ADVICE,
            )
        )
    return found or [Finding(AREA, State.OK, "they fit each other")]


def _unknown(environment: Mapping[str, str]) -> Iterable[Finding]:
    """Variables that look like settings and are none: misspelled, as a rule."""
    known = {variable_of(field.name) for field in fields(ServerConfig)}
    known |= {name + FILE_SUFFIX for name in known} | CLIENTS_VARIABLES
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]}?" if near else "it does nothing here"
            yield Finding(AREA, State.WARNING, f"{name} is no setting", advice)


def _open_files(environment: Mapping[str, str]) -> Iterable[Finding]:
    """Files with settings that others may read or change; a secret is in a file to be one."""
    for field in fields(ServerConfig):
        name = variable_of(field.name) + FILE_SUFFIX
        path = environment.get(name)
        if path and (mode := stat.S_IMODE(os.stat(path).st_mode)) & OTHERS:
            what = f"{name}: {path} may be read or changed by others (mode {mode:04o})"
            yield Finding(AREA, State.WARNING, what, f"chmod 0600 {path}")
