"""``cellserve token new``: makes a token, and the line by which a server knows it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from cellserve_server.security.identity import ADMIN, METRICS
from cellserve_server.security.tokens import line_of, new_token

FAILED = 1
USAGE_ERROR = 2
# Who makes the file owns it, and nobody else has to read it.
FILE_MODE = 0o600


def new_main(arguments: Sequence[str]) -> int:
    """Make a token for a tenant, and its line of the tokens' file."""
    try:
        new_command.main(list(arguments), prog_name="cellserve token new", standalone_mode=False)
    except click.exceptions.Exit as done:  # --help was answered.
        return done.exit_code
    except click.ClickException as error:
        print(f"cellserve token new: {error.format_message()}", file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        print(f"cellserve token new: {error.filename}: {error.strerror}", file=sys.stderr)
        return FAILED
    return 0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--tenant", required=True, help="Whose token it is: it sees this tenant's sessions and models.")
@click.option("--admin", "is_admin", is_flag=True, help="It may load and unload models, and read the metrics.")
@click.option("--metrics", "reads_metrics", is_flag=True, help="It may read the metrics, and look at the inspector.")
@click.option("--days", type=click.IntRange(1, 36_500), help="How long it is good.  [default: until its line goes]")
@click.option("--note", default="", help="For people: whose it is, or for what.")
@click.option("--append", "file", type=click.Path(path_type=Path, dir_okay=False), help="Put the line into this file.")
def new_command(
    tenant: str, is_admin: bool, reads_metrics: bool, days: int | None, note: str, file: Path | None
) -> None:
    """Make a token for a tenant, and its line of the file that --tokens-file of `cellserve serve` names.

    The token is printed once and kept nowhere: the line has its digest alone. Without --append the line is printed
    after it. A server that runs finds the line within a second or two.

    \b
    Example:
      cellserve token new --tenant clinic --append tokens > clinic.token
      cellserve serve --tokens-file tokens
      cellserve sessions list --token-file clinic.token
    """
    token = new_token()
    rights = frozenset(right for right, is_given in ((ADMIN, is_admin), (METRICS, reads_metrics)) if is_given)
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    try:
        line = line_of(token, tenant, rights, expires, note)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error
    if file is not None:
        _append(file, line)
    click.echo(token)
    if file is None:
        click.echo(line)


def _append(file: Path, line: str) -> None:
    """In one write, so that a server that looks meanwhile finds no half of it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
    with open(descriptor, "r+b", buffering=0) as opened:
        ends = opened.seek(0, os.SEEK_END)
        opened.seek(max(ends - 1, 0))
        is_open = ends > 0 and opened.read(1) != b"\n"
        opened.write(("\n" if is_open else "").encode() + f"{line}\n".encode())
