"""``cellserve sessions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from cellserve.states import NestedState
from cellserve_client.cli.common import (
    connection,
    json_option,
    print_fields,
    print_json,
    print_table,
    run,
    server_options,
    time_text,
)
from cellserve_client.session_info import SessionInfo

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000_000


def main(arguments: Sequence[str]) -> int:
    """List, show and delete a server's sessions."""
    return run(sessions, "cellserve sessions", arguments)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def sessions() -> None:
    """List, show and delete a server's sessions.

    With the server's package installed, `cellserve sessions export` and `cellserve sessions import` move sessions from
    store to store.

    \b
    Examples:
      cellserve sessions list --model speaker-id
      cellserve sessions show 3f2a --state --json
      cellserve sessions delete 3f2a 77b0
    """


@sessions.command("list")
@click.option("--model", help="Only those of this model, or of one version of it: speaker-id/versions/1.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="At most so many.",
)
@server_options
@json_option
def list_sessions(model: str | None, limit: int, address: str, timeout_s: float, as_json: bool) -> None:
    """List sessions, ordered by id."""
    with connection(address, timeout_s).connect() as server:
        # One more than asked for tells whether there are more.
        found = server.sessions(model=model, limit=limit + 1)
    shown, more = found[:limit], len(found) > limit
    if as_json:
        print_json([session_document(info) for info in shown])
    else:
        print_table(
            ["id", "model", "rows", "steps", "expires unused"],
            [
                (
                    info.id,
                    info.model.removeprefix("models/"),
                    info.batch_size or "-",
                    info.step_count,
                    time_text(info.expire_time),
                )
                for info in shown
            ],
        )
    if more:
        click.echo(f"These are the first {limit}; there are more (--limit).", err=True)


@sessions.command()
@click.argument("session_id", metavar="ID")
@click.option("--state", "with_state", is_flag=True, help="Show its state too.")
@server_options
@json_option
def show(session_id: str, with_state: bool, address: str, timeout_s: float, as_json: bool) -> None:
    """Show one session. Looking does not renew its expiry."""
    with connection(address, timeout_s).connect() as server:
        document = session_document(server.session_info(session_id))
        if with_state:
            document["state"] = state_document(server.open_session(session_id).state())
    if as_json:
        print_json(document)
        return
    print_fields((name.replace("_", " "), value) for name, value in document.items())


@sessions.command()
@click.argument("session_ids", metavar="ID...", nargs=-1, required=True)
@server_options
@json_option
def delete(session_ids: tuple[str, ...], address: str, timeout_s: float, as_json: bool) -> None:
    """Delete sessions. It stops at the first that is not there."""
    with connection(address, timeout_s).connect() as server:
        for session_id in session_ids:
            server.delete_session(session_id)
    if as_json:
        print_json({"deleted": list(session_ids)})
    else:
        click.echo(f"deleted {len(session_ids)}")


def session_document(info: SessionInfo) -> dict[str, Any]:
    """A session for programs."""
    return {
        "id": info.id,
        "uid": info.uid,
        "model": info.model,
        "batch_size": info.batch_size,
        "step_count": info.step_count,
        "ttl_s": info.ttl_s,
        "create_time": time_text(info.create_time),
        "expire_time": time_text(info.expire_time),
    }


def state_document(state: NestedState) -> Any:
    """A state for programs: arrays as lists, an LSTM's pair as ``[c, h]``, a stack's as a list of its layers'."""
    if isinstance(state, tuple):
        return [state_document(part) for part in state]
    return state.tolist()
