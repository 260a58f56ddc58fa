"""Moves sessions out of a store into a file, and out of a file into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from cellserve.errors import RecordCorruptError
from cellserve.v1 import record_pb2
from cellserve_server.engine.state_writer import GRACE_S
from cellserve_server.keeping.session_files import SessionFileError, read_entries, write_entry, write_header
from cellserve_server.keys import SessionKey
from cellserve_server.sessions.records import decode_meta, newest_numbers
from cellserve_server.stores.base import Draft, Store, Stored

RECORDS_AT_ONCE = 500
PLACES = (0, 1)


@dataclass
class Moved:
    """What was moved, and what was not.

    Attributes:
        sessions, models: moved.
        damaged: ids of sessions whose records cannot be read; they were left.
        taken: ids of sessions that the store has already; they were left.
        expired: sessions whose time was over; they were left.
    """

    sessions: int = 0
    models: int = 0
    damaged: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    expired: int = 0


async def export_sessions(
    store: Store, file: BinaryIO, now: float, *, model: str = "", on_progress: Callable[[int], None] = lambda _: None
) -> Moved:
    """Writes the sessions of a store, of all tenants, into a file. What servers hold is written as the store has it.

    Args:
        now: unix seconds.
        model: only sessions of this model, ``models/{model}`` or with a version; empty: all.
        on_progress: called with the number of records that were looked at since the last call.

    Raises:
        StoreUnavailableError, OSError: the file is not whole.
    """
    moved = Moved()
    models: set[tuple[str, str]] = set()
    write_header(file)
    for tenant in await store.tenants():
        after = ""
        while records := await store.list_after(tenant, after, RECORDS_AT_ONCE):
            for stored in records:
                await _export(store, file, stored, now, model, models, moved)
            on_progress(len(records))
            after = records[-1].key.id
    end = record_pb2.ExportEnd(session_count=moved.sessions, model_count=moved.models)
    write_entry(file, record_pb2.ExportEntry(end=end))
    return moved


async def _export(
    store: Store,
    file: BinaryIO,
    stored: Stored,
    now: float,
    model: str,
    models: set[tuple[str, str]],
    moved: Moved,
) -> None:
    key = stored.key
    try:
        meta = decode_meta(stored.meta)
        expire_time = newest_numbers(stored.states).expire_time
    except RecordCorruptError:
        moved.damaged.append(key.id)
        return
    if model and not f"{meta.model}/".startswith(f"{model}/"):
        return
    if expire_time <= now:
        moved.expired += 1
        return
    name = meta.model.split("/")[1]
    if meta.model_defined and (key.tenant, name) not in models:
        content = await store.get_model(key.tenant, name)
        if content is not None:  # Without it the session is of use where its client defines the model again.
            exported = record_pb2.ExportedModel(tenant=key.tenant, name=name, content=content)
            write_entry(file, record_pb2.ExportEntry(model=exported))
            moved.models += 1
        models.add((key.tenant, name))
    session = record_pb2.ExportedSession(tenant=key.tenant, id=key.id, record=stored.meta, states=stored.states)
    write_entry(file, record_pb2.ExportEntry(session=session))
    moved.sessions += 1


async def import_sessions(
    store: Store,
    file: BinaryIO,
    now: float,
    *,
    model_ttl_s: float,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Moved:
    """Puts the sessions of a file into a store, where any server that shares it finds them.

    Args:
        now: unix seconds.
        model_ttl_s: how long models are kept that no server renews, in seconds.
        on_progress: called with the number of entries that were taken since the last call.

    Raises:
        SessionFileError: the file is not whole; what came before is in the store, and may be imported again.
        StoreUnavailableError: likewise.
    """
    moved = Moved()
    drafts: list[Draft] = []
    for entry in _checked(read_entries(file), moved):
        if entry.WhichOneof("kind") == "model":
            exported = entry.model
            await store.put_model(exported.tenant, exported.name, exported.content, now + model_ttl_s)
            moved.models += 1
        else:
            draft = _draft_of(entry.session, now, moved)
            if draft is not None:
                drafts.append(draft)
        if len(drafts) == RECORDS_AT_ONCE:
            await _create(store, drafts, moved)
            drafts = []
        on_progress(1)
    await _create(store, drafts, moved)
    return moved


def _checked(entries: Iterator[record_pb2.ExportEntry], moved: Moved) -> Iterator[record_pb2.ExportEntry]:
    """The entries but the end, whose counts have to be right."""
    sessions = models = 0
    for entry in entries:
        kind = entry.WhichOneof("kind")
        if kind == "end":
            if (entry.end.session_count, entry.end.model_count) != (sessions, models):
                raise SessionFileError("the file does not have as many entries as its end says")
            return
        if kind is None:
            raise SessionFileError(f"entry {sessions + models}: expected a session or a model; it is of a later format")
        sessions += kind == "session"
        models += kind == "model"
        yield entry


def _draft_of(session: record_pb2.ExportedSession, now: float, moved: Moved) -> Draft | None:
    states = tuple(session.states)
    try:
        decode_meta(session.record)
        if len(states) != len(PLACES):
            raise RecordCorruptError("the session's record has no two places for its state")
        expire_time = newest_numbers(states).expire_time
    except RecordCorruptError:
        moved.damaged.append(session.id)
        return None
    if expire_time <= now:
        moved.expired += 1
        return None
    first, second = states
    key = SessionKey(session.tenant, session.id)
    # Nobody holds it: whichever server is asked for it claims it.
    return Draft(key, int(now * 1e6), "", session.record, (first, second), expire_time + GRACE_S)


async def _create(store: Store, drafts: list[Draft], moved: Moved) -> None:
    if not drafts:
        return
    for draft, held in zip(drafts, await store.create(drafts), strict=True):
        if held is None:
            moved.taken.append(draft.key.id)
        else:
            moved.sessions += 1
