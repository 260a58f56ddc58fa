"""``cellserve doctor``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from cellserve_server.config import ServerConfig
from cellserve_server.doctor import settings as settings_part
from cellserve_server.doctor.findings import Finding, State
from cellserve_server.doctor.identity import check_identity
from cellserve_server.doctor.machine import check_machine
from cellserve_server.doctor.models import check_models
from cellserve_server.doctor.ports import check_ports
from cellserve_server.doctor.settings import check_settings
from cellserve_server.doctor.stores import check_store
from cellserve_server.doctor.tls import check_tls
from cellserve_server.options import (
    EPILOG,
    SettingFileError,
    require_models_folder,
    setting_options,
    shows_password,
    values_from_files,
)

NAME = "cellserve doctor"
FAILED = 1
USAGE_ERROR = 2
# For files and pipes, where no terminal says how wide a line may be.
WIDTH_WITHOUT_TERMINAL = 240
STYLES = {State.OK: "", State.WARNING: "yellow", State.WRONG: "bold red"}


def main(arguments: Sequence[str]) -> int:
    """Say in words what would keep a server from serving, with the settings of `cellserve serve`."""
    try:
        given = values_from_files(os.environ)
    except SettingFileError as error:
        return _tell([Finding(settings_part.AREA, State.WRONG, str(error))], "--json" in arguments)
    context_settings = {"help_option_names": ["-h", "--help"], "default_map": given}
    options = [*setting_options(), click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for programs.")]
    command = click.Command("doctor", params=options, help=HELP, epilog=EPILOG, context_settings=context_settings)
    try:
        with command.make_context(NAME, list(arguments)) as context:
            as_json = bool(context.params.pop("as_json"))
            return _tell(_examine(context), as_json)
    except click.exceptions.Exit as done:  # --help was answered.
        return done.exit_code
    except click.ClickException as error:
        print(f"{NAME}: {error.format_message()}", file=sys.stderr)
        return USAGE_ERROR


HELP = """Say in words what would keep a server from serving.

It takes the settings of `cellserve serve`, from the command line, the environment and files, and starts no server. What
is looked at: the settings, the ports, the store, TLS, who is let in, the clock, the models, the limits of the machine.
Nothing is changed. The exit code is 0 when nothing is wrong, warnings or none, else 1.
"""


def _examine(context: click.Context) -> list[Finding]:
    params: dict[str, Any] = context.params
    try:
        config = ServerConfig(**params)
        require_models_folder(context, config)
    except ValueError as error:
        # The rest depends on them.
        return [Finding(settings_part.AREA, State.WRONG, str(error), "set it right, and look again for the rest")]
    now = datetime.fromtimestamp(time.time(), UTC)
    return [
        *check_settings(config, os.environ, shows_password=shows_password(context, config)),
        *check_ports(config),
        *asyncio.run(check_store(config)),
        *check_tls(config, now),
        *check_identity(config, now),
        *check_models(config),
        *check_machine(config, now),
    ]


def _tell(findings: Sequence[Finding], as_json: bool) -> int:
    wrong = sum(finding.state is State.WRONG for finding in findings)
    warnings = sum(finding.state is State.WARNING for finding in findings)
    if as_json:
        document = {"ok": not wrong, "findings": [finding._asdict() for finding in findings]}
        click.echo(json.dumps(document, indent=2))
        return FAILED if wrong else 0
    console = Console(
        width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, markup=False, highlight=False, emoji=False
    )
    table = Table("", "", "what", "what to do", box=box.SIMPLE_HEAD, pad_edge=False)
    for finding in findings:
        table.add_row(*finding, style=STYLES[finding.state])
    console.print(table)
    console.print(f"{wrong} wrong, {warnings} warnings")
    return FAILED if wrong else 0
