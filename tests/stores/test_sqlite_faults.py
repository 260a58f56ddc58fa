"""The SQLite store when its file, its disk or its neighbours are not as they should be."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cellserve.errors import StoreUnavailableError
from cellserve_server.binding import StartError
from cellserve_server.stores import sqlite, sqlite_file
from cellserve_server.stores.base import Burial, Held
from cellserve_server.stores.sqlite import SqliteStore
from tests.clocks import START_S, ManualClock
from tests.stores.samples import FIRST, OTHER, SMALL, TENANT, TTL_S, Run, draft, key, make, states_of, write

IDS = [f"s{index:04d}" for index in range(500)]
FEW_PAGES = 120
# As large as epochs are, so that rows keep their size: a row that grows may need a page beside its own.
EPOCH = 1 << 51


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def open_sqlite(run: Run, clock: ManualClock, path: Path) -> Iterator[Callable[..., SqliteStore]]:
    """Opens a store on the file; it is closed with the test."""
    stores: list[SqliteStore] = []

    def open_one(timeout_s: float = 2.0, max_pages: int | None = None) -> SqliteStore:
        store = SqliteStore(str(path), clock, timeout_s=timeout_s, max_pages=max_pages)
        stores.append(store)
        run(store.open())
        return store

    yield open_one
    for store in stores:
        run(store.close())


OpenSqlite = Callable[..., SqliteStore]


def start_error(open_sqlite: OpenSqlite) -> str:
    with pytest.raises(StartError) as caught:
        open_sqlite()
    return str(caught.value)


def test_a_missing_folder_is_named(run: Run, clock: ManualClock, tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "no" / "sessions.db"), clock)
    with pytest.raises(StartError, match=r"--store: sqlite:.*no/sessions\.db: the file cannot be opened"):
        run(store.open())
    run(store.close())


def test_a_folder_is_no_file(open_sqlite: OpenSqlite, path: Path) -> None:
    path.mkdir()
    assert "cannot be opened" in start_error(open_sqlite)


@pytest.mark.parametrize("content", [b"short", b"some text, long enough to be taken for a header\n" * 100])
def test_another_file_is_left_alone(open_sqlite: OpenSqlite, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "no SQLite database" in start_error(open_sqlite)
    assert path.read_bytes() == content


def test_another_database_is_left_alone(open_sqlite: OpenSqlite, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (id)")
    assert "a database of something else" in start_error(open_sqlite)


def test_a_newer_schema_is_refused(open_sqlite: OpenSqlite, run: Run, path: Path) -> None:
    run(open_sqlite().close())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {sqlite_file.SCHEMA_VERSION + 1}")
    message = start_error(open_sqlite)
    assert "written by a newer CellServe" in message
    assert str(path) in message


def test_a_file_that_becomes_read_only_and_writable_again(open_sqlite: OpenSqlite, run: Run) -> None:
    store = open_sqlite()
    (held,) = run(make(store, "a"))
    run(store._writer.run(lambda connection: connection.execute("PRAGMA query_only = ON")))
    with pytest.raises(StoreUnavailableError, match="the file cannot be written") as caught:
        run(store.write([write(held)]))
    assert caught.value.retry_after_s is not None
    assert not isinstance(caught.value, sqlite3.Error)
    assert run(store.count(TENANT)) == 1
    # The connection was made anew meanwhile, as after every error that may come from the connection itself.
    assert run(store.write([write(held)])) == [True]


def test_a_full_disk_and_room_again(open_sqlite: OpenSqlite, run: Run, clock: ManualClock) -> None:
    store = open_sqlite(max_pages=FEW_PAGES)
    big = (SMALL * 3, SMALL * 3)

    async def fill_up() -> None:
        for number in range(FEW_PAGES):
            await make(store, f"s{number}", states=big)

    with pytest.raises(StoreUnavailableError, match="the disk is full") as caught:
        run(fill_up())
    assert caught.value.retry_after_s is not None
    made = run(store.count(TENANT))
    assert 10 < made < FEW_PAGES
    assert run(store.look([key(f"s{made}")])) == [None], "half of a record is there"
    (record,) = run(store.claim([(key("s0"), FIRST)], OTHER))
    assert record is not None
    assert record.states == big
    clock.advance(TTL_S)
    assert run(store.sweep(1000)) == made
    run(make(store, "again", states=big, expire_time=clock() + TTL_S))


def test_a_lock_of_another_process_is_waited_for_only_so_long(open_sqlite: OpenSqlite, run: Run, path: Path) -> None:
    store = open_sqlite(timeout_s=0.05)
    (held,) = run(make(store, "a"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="another process has kept the file locked"):
            run(store.write([write(held)]))
        assert len(run(store.list_after(TENANT, "", 10))) == 1, "reading needs no lock"
        other.execute("COMMIT")
    assert run(store.write([write(held)])) == [True]


def test_a_closed_store_says_so(open_sqlite: OpenSqlite, run: Run) -> None:
    store = open_sqlite()
    run(store.close())
    with pytest.raises(StoreUnavailableError, match="closed"):
        run(store.look([key("a")]))


def test_the_log_is_brought_in_beside_the_writing(
    open_sqlite: OpenSqlite, run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 200)
    monkeypatch.setattr(sqlite, "MAX_LOG_PAGES", 400)
    store = open_sqlite()
    held = run(make(store, *IDS[:100]))
    for number in range(100):
        run(store.write([write(item, b"%d" % number * 500) for item in held]))
    assert Path(f"{path}-wal").stat().st_size < 3000 * sqlite_file.PAGE_BYTES
    assert {states[1] for states in run(states_of(store, IDS)).values()} == {b"99" * 500}


# Damage


def damage(path: Path, marker: bytes) -> None:
    """Overwrites the head of the page that has these bytes."""
    content = bytearray(path.read_bytes())
    start = content.index(marker) // sqlite_file.PAGE_BYTES * sqlite_file.PAGE_BYTES
    assert start > 0
    content[start : start + 64] = b"\xa5" * 64
    path.write_bytes(content)


def marker_of(id_: str, place: int) -> bytes:
    return b"<%s:%d>" % (id_.encode(), place)


def fill(open_sqlite: OpenSqlite, run: Run) -> None:
    """Makes the file with records whose parts can be found in it."""
    store = open_sqlite()
    drafts = [
        draft(
            id_,
            epoch=EPOCH,
            meta=b"[%s]" % id_.encode(),
            states=(marker_of(id_, 0) + SMALL, marker_of(id_, 1) + SMALL),
        )
        for id_ in IDS
    ]
    assert None not in run(store.create(drafts))
    run(store.close())


def test_a_damaged_state_fails_alone(open_sqlite: OpenSqlite, run: Run, path: Path, clock: ManualClock) -> None:
    fill(open_sqlite, run)
    damage(path, marker_of("s0250", 1))
    with capture_logs() as logs:
        store = open_sqlite()
    assert [line["event"] for line in logs] == ["store_damaged"]
    listed = {record.key.id: record for record in run(store.list_after(TENANT, "", 1000))}
    assert list(listed) == IDS
    broken = {id_ for id_, record in listed.items() if not record.meta}
    assert "s0250" in broken
    assert len(broken) < 10, "a page has only so many states"

    claimed = run(store.claim([(key(id_), EPOCH) for id_ in IDS], OTHER))
    records = [record for record in claimed if record is not None]
    assert [record.key.id for record in records] == IDS
    assert {record.key.id for record in records if not record.meta} == broken
    assert {record.epoch for record in records} == {EPOCH + 1}
    writes = [write(Held(record.ref, record.epoch), b"new", place=1) for record in records]
    assert run(store.write(writes)) == [id_ not in broken for id_ in IDS]
    sound = [write(Held(record.ref, record.epoch), b"new", place=0) for record in records if record.meta]
    assert run(store.write(sound)) == [True] * len(sound)

    aside = [Burial(record.ref, record.epoch, b"corrupt", clock() + 60) for record in records if not record.meta]
    assert run(store.set_aside(aside)) == [True] * len(broken)
    found = run(store.look([key(id_) for id_ in IDS]))
    assert {id_ for id_, item in zip(IDS, found, strict=True) if item and item.tombstone} == broken
    clock.advance(2 * TTL_S)
    for _ in range(10):
        run(store.sweep(1000))
    assert run(store.look([key(id_) for id_ in IDS if id_ not in broken])) == [None] * (len(IDS) - len(broken))


def test_a_damaged_record_fails_alone(open_sqlite: OpenSqlite, run: Run, path: Path) -> None:
    fill(open_sqlite, run)
    damage(path, b"[s0250]")
    store = open_sqlite()
    keys = [key(id_) for id_ in IDS]
    found = run(store.look(keys))
    assert None not in found
    claimed = run(
        store.claim([(item, is_found.epoch) for item, is_found in zip(keys, found, strict=True) if is_found], OTHER)
    )
    broken = {record.key.id for record in claimed if record is not None and not record.meta}
    assert "s0250" in broken
    assert len(broken) < 100
    assert sum(record is not None and bool(record.meta) for record in claimed) == len(IDS) - len(broken)
    lost = next(record for record in claimed if record is not None and record.key.id == "s0250")
    burial = Burial(lost.ref, lost.epoch, b"corrupt", START_S + 60)
    assert run(store.set_aside([burial])) == [False]
    again, new = run(store.create([draft("s0250", epoch=EPOCH + 9), draft("new")]))
    assert again is None
    assert new is not None


def test_damage_where_names_are_found(open_sqlite: OpenSqlite, run: Run, path: Path) -> None:
    fill(open_sqlite, run)
    damage(path, b"defaults0250")
    store = open_sqlite()
    claimed = run(store.claim([(key(id_), EPOCH) for id_ in IDS], OTHER))
    assert None not in claimed
    sound = [record for record in claimed if record is not None and record.meta]
    assert 0 < len(sound) < len(IDS)


def test_a_file_that_was_cut_off(open_sqlite: OpenSqlite, run: Run, path: Path) -> None:
    fill(open_sqlite, run)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3 // 4096 * 4096])
    message = start_error(open_sqlite)
    assert "the file is damaged" in message
    assert "restore it from a copy" in message


def test_a_file_without_its_first_page_is_refused(open_sqlite: OpenSqlite, run: Run, path: Path) -> None:
    fill(open_sqlite, run)
    content = path.read_bytes()
    path.write_bytes(b"\0" * 4096 + content[4096:])
    assert "no SQLite database" in start_error(open_sqlite)


def test_large_files_are_not_looked_through(open_sqlite: OpenSqlite, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(open_sqlite, run)
    monkeypatch.setattr(sqlite_file, "MAX_CHECKED_BYTES", 1000)
    with capture_logs() as logs:
        open_sqlite()
    assert [line["event"] for line in logs] == ["store_not_checked"]


WRITER = """
import asyncio, sys
from cellserve_server.stores.sqlite import SqliteStore
from tests.clocks import ManualClock
from tests.stores.samples import FIRST, make, write

async def main():
    store = SqliteStore(sys.argv[1], ManualClock())
    await store.open()
    held = await make(store, "a", "b")
    number = 0
    while True:
        await store.write([write(item, b"%d" % number, place=0) for item in held])
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


def test_what_was_written_survives_the_process(open_sqlite: OpenSqlite, run: Run, path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 50:
                process.kill()
                break
        last = int(([line, *process.stdout])[-1])
    states = run(states_of(open_sqlite(), ["a", "b"]))
    assert states["a"] == states["b"], "a transaction was done by half"
    assert int(states["a"][0]) in (last, last + 1)
