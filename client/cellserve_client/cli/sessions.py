"""``cellserve sessions``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from operator import attrgetter
from typing import Any

import click

from cellserve.states import NestedState
from cellserve_client.address import each_address
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
from cellserve_client.session_info import MAX_SORTED, SORTS, SessionInfo

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000_000
BY_ID = "id"
# A server that is asked for rates looks at its sessions, and the next time, a second later, it knows them.
RATE_S = 1.0


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
      cellserve sessions list --sort rate --filter card-47
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
@click.option(
    "--sort",
    type=click.Choice([BY_ID, *SORTS]),
    default=BY_ID,
    show_default=True,
    help="By what: steps a second (measured for a second), steps, or when they were used or created, the greatest and "
    f"newest first; but for the id, of those in the server's memory, {MAX_SORTED} at most.",
)
@click.option("--filter", "id_contains", default="", metavar="TEXT", help="Only those with this in their ids.")
@server_options
@json_option
def list_sessions(
    model: str | None, limit: int, sort: str, id_contains: str, address: str, timeout_s: float, as_json: bool
) -> None:
    """List sessions, ordered by id or by activity."""
    if sort == BY_ID:
        with connection(address, timeout_s).connect() as server:
            # One more than asked for tells whether there are more.
            found = server.sessions(model=model, limit=limit + 1, id_contains=id_contains)
    else:
        limit = min(limit, MAX_SORTED - 1)
        found = _most_active(address, timeout_s, SORTS[sort], model, limit + 1, id_contains)
    shown, more = found[:limit], len(found) > limit
    if as_json:
        print_json([session_document(info) for info in shown])
    else:
        print_table(
            ["id", "model", "rows", "steps", "steps/s", "last used", "expires unused"],
            [
                (
                    info.id,
                    info.model.removeprefix("models/"),
                    info.batch_size or "-",
                    info.step_count,
                    f"{info.steps_per_second:.1f}" if sort == "rate" else "-",
                    time_text(info.last_used_time),
                    time_text(info.expire_time),
                )
                for info in shown
            ],
        )
    if more:
        click.echo(f"These are the first {limit}; there are more (--limit).", err=True)


def _most_active(
    address: str, timeout_s: float, field: str, model: str | None, limit: int, id_contains: str
) -> list[SessionInfo]:
    """The first by a field, of all replicas: each tells of those in its own memory."""
    order_by = f"{field} desc"
    with ExitStack() as stack:
        servers = [stack.enter_context(connection(replica, timeout_s).connect()) for replica in each_address(address)]
        if field == SORTS["rate"]:
            for server in servers:
                server.sessions(limit=1, order_by=order_by)
            time.sleep(RATE_S)
        found = [
            info
            for server in servers
            for info in server.sessions(model=model, limit=limit, order_by=order_by, id_contains=id_contains)
        ]
    return sorted(found, key=attrgetter(field), reverse=True)[:limit]


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
        "last_used_time": time_text(info.last_used_time),
        "steps_per_second": info.steps_per_second,
    }


def state_document(state: NestedState) -> Any:
    """A state for programs: arrays as lists, an LSTM's pair as ``[c, h]``, a stack's as a list of its layers'."""
    if isinstance(state, tuple):
        return [state_document(part) for part in state]
    return state.tolist()
