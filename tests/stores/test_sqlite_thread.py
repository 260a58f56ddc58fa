"""The thread of SQLite's connection: nobody else uses that while the thread is at work."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest

from cellserve_server.stores.sqlite_thread import SqliteThread

PATIENCE_S = 10.0


def connect() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def test_a_job_that_nobody_waits_for_has_the_connection_to_its_end() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def slow(_: sqlite3.Connection) -> None:
        begun.set()
        assert goes_on.wait(PATIENCE_S)

    async def test() -> None:
        thread = SqliteThread("sqlite-test", "sqlite:test", connect)
        await thread.run(lambda _: None)
        assert thread.run_here(lambda _: 1) == 1
        waiting = asyncio.create_task(thread.run(slow))
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert thread.run_here(lambda _: 1) is None
        goes_on.set()
        await thread.run(lambda _: None)
        assert thread.run_here(lambda _: 1) == 1
        await thread.close()

    asyncio.run(test())
