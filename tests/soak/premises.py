"""The server of a soak test, and what it holds: as its metrics say it, and as the system does."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cellserve.cells import BasicLSTMCell
from cellserve.specs import describe
from tests.fuzz.readings import reading_of
from tests.metrics_pages import read_page
from tests.servers import ServerProcess, server_process
from tests.unit.model_samples import FLOAT32, put

RESIDENT, DEPTH = "resident", 3
RESIDENT_MODEL = describe(BasicLSTMCell(32), DEPTH, FLOAT32)
RESIDENT_SEED = 7
# What a server remembers of the past is bounded: so little that it is full when the warm-up is over.
REMEMBERED = 1000
POLL_MODELS_S = 1
# For what has to come about by itself: sessions expire, connections are given up.
# gRPC's own pool lets a thread go that was idle for twenty seconds.
REST_WITHIN_S = 60.0
POLL_S = 0.1
# Longer than the longest ttl of what callers leave behind.
SAME_READINGS = 50
_PAGE = re.compile(r"http://[\w.\-]+:\d+/metrics")


@dataclass(frozen=True)
class Holdings:
    """What a server holds while nothing is under way.

    Attributes:
        files: open files and connections.
        threads: of the process.
        tasks: of its event loop.
        sessions, slab_rows: in memory, and the rows of states that are given out.
        models: that it serves or is about to let go.
    """

    files: int
    threads: int
    tasks: int
    sessions: int
    slab_rows: int
    models: int


class Premises:
    """A server with a folder of models.

    Args:
        process: the server.
        models: its folder.
    """

    def __init__(self, process: ServerProcess, models: Path) -> None:
        self.address = process.address
        self.models = models
        self._process = process
        page = _PAGE.search(process.errors())
        assert page is not None, process.errors()
        self._page = page[0]

    @property
    def rss_bytes(self) -> int:
        """Its memory in RAM."""
        return reading_of(self._process.process.pid).rss_bytes

    def sessions_ended(self) -> int:
        """How many sessions have ended since it began."""
        return int(sum(series.value for series in read_page(self._page)["cellserve_sessions_ended_total"].series))

    def holdings(self) -> Holdings:
        """What it holds now. The connection by which it is asked is not among it, unless it is not closed yet."""
        system = reading_of(self._process.process.pid)
        page = read_page(self._page)

        def gauge(name: str) -> int:
            return int(sum(series.value for series in page[name].series))

        return Holdings(
            files=system.files,
            threads=system.threads,
            tasks=gauge("cellserve_tasks"),
            sessions=gauge("cellserve_sessions"),
            slab_rows=gauge("cellserve_slab_rows"),
            models=gauge("cellserve_models"),
        )

    async def at_rest(self, before: Holdings | None = None) -> Holdings:
        """What it holds when that is as before; or, when it does not come to be, in the end.

        Args:
            before: None: when it stays the same for a while.
        """
        give_up = time.monotonic() + REST_WITHIN_S
        found = [await asyncio.to_thread(self.holdings)]
        while time.monotonic() < give_up:
            await asyncio.sleep(POLL_S)
            found.append(await asyncio.to_thread(self.holdings))
            if found[-1] == before:
                break
            if before is None and len(found) > SAME_READINGS and len(set(found[-SAME_READINGS:])) == 1:
                break
        return found[-1]


def left_behind(before: Holdings, after: Holdings) -> dict[str, int]:
    """How much more there is of each than before."""
    counts = asdict(after)
    return {f"{name}_left": counts[name] - count for name, count in asdict(before).items()}


@contextmanager
def premises(store: str, folder: Path) -> Iterator[Premises]:
    """Runs a server.

    Args:
        store: ``memory`` or ``sqlite``.
        folder: for its files.
    """
    models = folder / "models"
    put(models, RESIDENT, 1, RESIDENT_MODEL, RESIDENT_SEED)
    settings = {
        "--models": str(models),
        "--models-poll-s": str(POLL_MODELS_S),
        "--store": "memory:" if store == "memory" else f"sqlite:{folder / 'sessions.db'}",
        "--http-port": "0",
        "--max-tombstones": str(REMEMBERED),
        "--max-remembered-requests": str(REMEMBERED),
        "--max-defined-models": str(REMEMBERED),
        "--tombstone-ttl-s": "2",
    }
    with server_process([word for item in settings.items() for word in item]) as process:
        yield Premises(process, models)
