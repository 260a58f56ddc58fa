"""``cellserve sessions export`` and ``import``: sessions that go from one store to another by way of a file."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import structlog

from cellserve.__main__ import main
from cellserve.v1 import record_pb2
from cellserve_server.keeping.session_files import SessionFileError, read_entries, write_entry, write_header
from cellserve_server.stores.sqlite import SqliteStore
from tests.clocks import ManualClock
from tests.integration.durable.replicas import Replicas, output_of, step, uninterrupted
from tests.servers import LoopThread
from tests.stores.redis_servers import RedisServer

TOLERANCE = 1e-5


@pytest.fixture
def clock() -> ManualClock:
    """The commands go by the real time."""
    return ManualClock(time.time())


@pytest.fixture
def url(request: pytest.FixtureRequest, replicas: Replicas, tmp_path: Path) -> str:
    """The store of ``replicas`` as ``--store`` takes it."""
    kind = request.node.callspec.params["open_store"]
    if kind == "sqlite":
        return f"sqlite:{tmp_path / 'sessions.db'}"
    server: RedisServer = request.getfixturevalue("shared_redis")
    return server.url


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main(["sessions", *arguments])
    finally:
        structlog.reset_defaults()  # The command has logs go to a standard error that ends with the test.
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("open_store", ["sqlite", "redis"], indirect=True)
def test_sessions_go_on_where_they_were_moved_to(
    replicas: Replicas,
    url: str,
    tmp_path: Path,
    loop_thread: LoopThread,
    clock: ManualClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = replicas.start()
    outputs = {}
    for seed, name in enumerate(("a", "b")):
        replicas.create(first, name)
        outputs[name] = [output_of(step(first, number, name, seed)) for number in range(3)]
    expected = [uninterrupted(replicas, first, 5, seed) for seed in range(2)]
    first.loop.run(first.app.drain())
    file, target = tmp_path / "sessions.csx", tmp_path / "other.db"
    assert run(capsys, "export", "--store", url, str(file))[:2] == (0, "exported 2 sessions and 1 models\n")
    other = f"sqlite:{target}"
    code, out, _ = run(capsys, "import", "--store", other, str(file), "--json")
    assert code == 0
    assert json.loads(out) == {"sessions": 2, "models": 1, "damaged": [], "taken": [], "expired": 0}
    code, _, err = run(capsys, "import", "--store", other, str(file))
    assert code == 1
    assert err == "2 are in the store already and were left: a, b\n"
    with ExitStack() as stack:
        elsewhere = Replicas(loop_thread, clock, lambda: SqliteStore(str(target), clock), stack)
        elsewhere.model = replicas.model
        second = elsewhere.start()
        for seed, name in enumerate(("a", "b")):
            assert step(second, 2, name, seed).replayed
            outputs[name] += [output_of(step(second, number, name, seed)) for number in range(3, 5)]
            np.testing.assert_allclose(outputs[name], expected[seed], atol=TOLERANCE)


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sessions.csx"
    file.write_text("dear")
    store = f"sqlite:{tmp_path / 'empty.db'}"
    code, _, err = run(capsys, "export", "--store", store, str(file))
    assert code == 2
    assert "--overwrite replaces it" in err
    assert file.read_text() == "dear"
    assert run(capsys, "export", "--store", store, str(file), "--overwrite")[0] == 0
    assert run(capsys, "import", "--store", store, str(file))[:2] == (0, "imported 0 sessions and 0 models\n")


@pytest.mark.parametrize("store", ["memory:", "sqlite:no-such-folder/x.db", "nonsense"])
def test_a_store_that_cannot_be_is_one_line(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "export", "--store", store, str(tmp_path / "x.csx"))
    assert code == 1
    assert err.startswith("cellserve sessions export: --store: ")
    assert not list(tmp_path.glob("*.csx*"))


def whole_file(path: Path) -> bytes:
    with path.open("wb") as file:
        write_header(file)
        model = record_pb2.ExportedModel(tenant="default", name="defined-1", content=b"abc")
        write_entry(file, record_pb2.ExportEntry(model=model))
        write_entry(file, record_pb2.ExportEntry(end=record_pb2.ExportEnd(model_count=1)))
    return path.read_bytes()


def test_every_cut_and_every_changed_byte_of_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.csx"
    data = whole_file(path)
    broken = [data[:size] for size in range(len(data))]
    broken += [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in range(len(data))]
    for content in broken:
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(SessionFileError):
            list(read_entries(file))
