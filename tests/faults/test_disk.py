"""A disk that is full, fails, may not be written, or has forgotten: what a server with a SQLite file says and does."""

from __future__ import annotations

import re
import resource
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell
from cellserve.errors import CellServeError, RecordCorruptError, StoreUnavailableError, from_rpc_error
from cellserve.tensors import Array, array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import session_pb2
from cellserve_server.stores.sqlite import SqliteStore
from cellserve_server.stores.sqlite_file import PAGE_BYTES
from deploy.fleet import FleetError, ManagedProcess
from tests.clocks import ManualClock
from tests.faults.check import TOLERANCE
from tests.faults.feed import CELL, CELL_SEED, DEPTH, uninterrupted
from tests.servers import (
    LISTENING,
    RPC_TIMEOUT_S,
    TEST_CONFIG,
    LoopThread,
    ServerProcess,
    Stubs,
    define_model,
    running_app,
    server_process,
    stubs_for,
)

UNITS_OF_LARGE = 200  # states of which only a few fit into a page
MAX_PAGES = 60
SESSIONS = 60


def create(stubs: Stubs, name: str, model: str) -> None:
    session = session_pb2.Session(model=model)
    request = messages.CreateSessionRequest(session_id=name, session=session)
    stubs.recurrent.CreateSession(request, timeout=RPC_TIMEOUT_S)


def step(stubs: Stubs, name: str, number: int) -> Array:
    """Does step ``number``, from 0, of a session."""
    request = messages.StepRequest(
        name=f"sessions/{name}", inputs=[tensor_from_array(input_of(number))], expected_step=number, run_id=number + 1
    )
    answer: messages.StepResponse = stubs.recurrent.Step(request, timeout=RPC_TIMEOUT_S)
    return array_from_tensor(answer.outputs[0], "outputs[0]")


def input_of(number: int) -> Array:
    return np.random.default_rng(number).standard_normal(DEPTH, np.float32)


def wanted(steps: int) -> list[Array]:
    """The outputs of so many steps."""
    inputs = (input_of(number)[np.newaxis] for number in range(steps))
    return [output[0] for output, _ in uninterrupted(inputs, 1)]


def error_of(stubs: Stubs, name: str, number: int) -> CellServeError | None:
    """How a step fails; None: it does not."""
    try:
        step(stubs, name, number)
    except grpc.RpcError as error:
        return from_rpc_error(error)
    return None


def fill(stubs: Stubs, model: str, made: list[str]) -> CellServeError | None:
    """Makes sessions, and steps each once, until that fails; how. None: it does not."""
    while len(made) < MAX_PAGES * 8:
        try:
            create(stubs, f"s{len(made)}", model)
            made.append(f"s{len(made)}")
            step(stubs, made[-1], 0)
        except grpc.RpcError as error:
            return from_rpc_error(error)
    return None


def events(server: ServerProcess) -> list[str]:
    return re.findall(r'"event": "(\w+)"', server.errors())


def test_a_full_file_takes_no_new_sessions_and_steps_those_that_it_has(
    loop_thread: LoopThread, clock: ManualClock, tmp_path: Path
) -> None:
    store = SqliteStore(str(tmp_path / "sessions.db"), clock, False, timeout_s=2.0, max_pages=MAX_PAGES)
    with running_app(loop_thread, TEST_CONFIG, clock, store) as server:
        model = define_model(server.stubs, BasicLSTMCell(UNITS_OF_LARGE), DEPTH).name
        made: list[str] = []
        error = fill(server.stubs, model, made)
        assert isinstance(error, StoreUnavailableError)
        assert "the disk is full" in error.message
        assert error.retry_after_s
        assert len(made) > 5
        # It may be the second place of the last one for which there was no room.
        for name in made[:-1]:
            step(server.stubs, name, 1)
            step(server.stubs, name, 2)
        for name in made[:4]:
            server.stubs.recurrent.DeleteSession(
                messages.DeleteSessionRequest(name=f"sessions/{name}"), timeout=RPC_TIMEOUT_S
            )
        clock.advance(TEST_CONFIG.tombstone_ttl_s + 1)
        create(server.stubs, "later", model)
        step(server.stubs, "later", 0)


def test_a_disk_that_fails_refuses_steps_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with server_process(["--store", f"sqlite:{path}"]) as server, stubs_for(server.address) as stubs:
        model = define_model(stubs, CELL, DEPTH, seed=CELL_SEED).name
        create(stubs, "s", model)
        outputs = [step(stubs, "s", number) for number in range(3)]
        limit = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        # As if the disk took hardly a byte more.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (PAGE_BYTES, limit[1]))
        for _ in range(2):
            error = error_of(stubs, "s", 3)
            assert isinstance(error, StoreUnavailableError)
            assert "disk" in error.message
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
        outputs += [step(stubs, "s", number) for number in range(3, 6)]
        np.testing.assert_allclose(outputs, wanted(6), TOLERANCE, TOLERANCE)
        assert "store_write_failed" in events(server)
        server.process.kill()
        server.wait()
    with server_process(["--store", f"sqlite:{path}"]) as server, stubs_for(server.address) as stubs:
        np.testing.assert_allclose(step(stubs, "s", 6), wanted(7)[6], TOLERANCE, TOLERANCE)


@pytest.mark.slow
def test_a_file_damaged_in_its_middle_loses_what_was_there_alone(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    names = [f"s{number}" for number in range(SESSIONS)]
    with server_process(["--store", f"sqlite:{path}"]) as server, stubs_for(server.address) as stubs:
        model = define_model(stubs, CELL, DEPTH, seed=CELL_SEED).name
        for name in names:
            create(stubs, name, model)
            step(stubs, name, 0)
        server.process.terminate()
        assert server.wait() == 0
    damage_page_of(path, names[SESSIONS // 2])
    with server_process(["--store", f"sqlite:{path}"]) as server, stubs_for(server.address) as stubs:
        assert "store_damaged" in events(server)
        assert "sessions in damaged places fail with DATA_LOSS; the others live" in server.errors()
        errors = {name: error_of(stubs, name, 1) for name in names}
        lost = [name for name, error in errors.items() if error is not None]
        assert names[SESSIONS // 2] in lost
        assert len(lost) < SESSIONS / 2
        assert any(isinstance(error, RecordCorruptError) for error in errors.values())
        for name in lost:  # Of some only the place to which the next state would go is damaged.
            error = errors[name]
            assert isinstance(error, RecordCorruptError | StoreUnavailableError)
            assert "damaged" in error.message
        living = [name for name in names if name not in lost]
        np.testing.assert_allclose([step(stubs, name, 2) for name in living], [wanted(3)[2]] * len(living), atol=1e-5)
        create(stubs, "new", model)
        step(stubs, "new", 0)


def damage_page_of(path: Path, name: str) -> None:
    """Writes over the page of the file that has a session's last state, after its first step."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT state FROM place_1 WHERE id = (SELECT id FROM sessions WHERE name = ?)"
        (state,) = connection.execute(query, (name,)).fetchone()
    content = bytearray(path.read_bytes())
    start = content.index(state) // PAGE_BYTES * PAGE_BYTES
    content[start : start + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(content)


@contextmanager
def served(path: Path, *prefix: str) -> Iterator[ManagedProcess]:
    """A server on a file, which is not started yet."""
    command = [*prefix, sys.executable, "-m", "cellserve", "serve", "--port", "0", "--http-port", "-1"]
    command += ["--models", str(path.parent), "--store", f"sqlite:{path}"]
    process = ManagedProcess("server", command, path.parent / "server.log", lambda text: LISTENING in text)
    try:
        yield process
    finally:
        if process.started:
            process.stop()


@pytest.mark.slow
def test_a_file_that_may_not_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed: who may write everything cannot be kept from it")
    # Root too asks the file's mode then.
    rights = [setpriv, "--bounding-set", "-dac_override"]
    path = tmp_path / "sessions.db"
    with served(path) as server:
        server.start()
    path.chmod(0o444)
    tmp_path.chmod(0o755)
    with served(path, *rights) as server:
        with pytest.raises(FleetError) as caught:
            server.start()
        assert server.exit_code not in (0, None)
    assert f"sqlite:{path}" in str(caught.value)
    assert "the file cannot be written" in str(caught.value)
    for file in tmp_path.glob("sessions.db*"):  # SQLite has made the others as this one was.
        file.chmod(0o644)
    with served(path, *rights) as server:
        server.start()


def test_what_is_no_database_is_told_at_the_start_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    path.write_bytes(b"something else" * 1000)
    with served(path) as server, pytest.raises(FleetError, match=r"the file is no SQLite database"):
        server.start()
    assert path.read_bytes() == b"something else" * 1000
