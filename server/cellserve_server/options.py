"""From the command line, the environment and files to settings, for every command that takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cellserve_server.config import ServerConfig

ENVIRONMENT_PREFIX = "CELLSERVE_"
FILE_SUFFIX = "_FILE"
# No setting is longer than that.
MAX_SETTING_BYTES = 64 << 10
EPILOG = (
    f"Every option is also an environment variable: --max-sessions is {ENVIRONMENT_PREFIX}MAX_SESSIONS. With "
    f"{FILE_SUFFIX} at its end the variable names a file that has the value: {ENVIRONMENT_PREFIX}STORE{FILE_SUFFIX} "
    "for a URL with a password."
)
PASSWORD_ADVICE = (
    "every user of this machine can read the command line; put the URL into a file and name that in "
    f"{ENVIRONMENT_PREFIX}STORE{FILE_SUFFIX}"
)


class SettingFileError(ValueError):
    """A file with a setting's value cannot be used; the message names the variable, and shows nothing of the file."""


def setting_options() -> list[click.Parameter]:
    """An option for every setting."""
    return [_option(field) for field in fields(ServerConfig)]


def variable_of(setting: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT_PREFIX + setting.upper()


def values_from_files(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings whose values are in files that ``CELLSERVE_..._FILE`` name; a newline at the end is not the value's.

    Raises:
        SettingFileError: a file cannot be read, is too large or no text, or the value is given by another variable too.
    """
    found = {}
    for field in fields(ServerConfig):
        variable = variable_of(field.name)
        path = environment.get(variable + FILE_SUFFIX)
        if not path:
            continue
        if environment.get(variable):
            raise SettingFileError(f"{variable}{FILE_SUFFIX}: expected this variable or {variable} alone; got both")
        found[field.name] = _read(variable + FILE_SUFFIX, Path(path))
    return found


def require_models_folder(context: click.Context, config: ServerConfig) -> None:
    """A folder that was named has to be there; without the default one the server has defined models alone.

    Raises:
        ValueError: it is not.
    """
    is_default = context.get_parameter_source("models") is ParameterSource.DEFAULT
    if not is_default and not os.path.isdir(config.models):
        raise ValueError(f"--models: expected a folder; there is none at {config.models!r}")


def shows_password(context: click.Context, config: ServerConfig) -> bool:
    """Whether the store's password stands in the command line."""
    is_given = context.get_parameter_source("store") is ParameterSource.COMMANDLINE
    return is_given and "//" in config.store and ("@" in config.store or "password=" in config.store)


def _option(field: Any) -> click.Option:
    flag = "--" + field.name.replace("_", "-")
    is_switch = isinstance(field.default, bool)
    return click.Option(
        [f"{flag}/--no-{flag[2:]}" if is_switch else flag],
        type=bool if is_switch else type(field.default),
        default=field.default,
        show_default=True,
        envvar=variable_of(field.name),
        help=field.metadata["help"],
    )


def _read(variable: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SETTING_BYTES + 1)
    except OSError as error:
        raise SettingFileError(f"{variable}: cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_SETTING_BYTES:
        raise SettingFileError(f"{variable}: expected at most {MAX_SETTING_BYTES} bytes; {path} has more")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise SettingFileError(f"{variable}: expected text in UTF-8; {path} has none") from error
