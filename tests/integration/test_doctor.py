"""``cellserve doctor``: what is wrong with settings, ports, stores, TLS, models and the machine, in words."""

from __future__ import annotations

import json
import resource
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
from prometheus_client import CollectorRegistry, Gauge

from cellserve_server.cli import serve
from cellserve_server.config import ServerConfig
from cellserve_server.doctor.command import main
from cellserve_server.doctor.machine import WRITTEN, check_machine
from cellserve_server.http.metrics_page import MetricsPage
from cellserve_server.stores.sqlite_file import SCHEMA_VERSION
from tests.certificates import LONG_AGO, Authority
from tests.stores.redis_servers import RedisServer, redis_server, require_redis
from tests.unit.model_samples import put

SECRET = "sesame"


class Diagnosis(NamedTuple):
    """The exit code, and what was found."""

    code: int
    findings: list[dict[str, str]]

    def states(self, *words: str) -> dict[str, str]:
        """The advice of what was found whose text has these words, by its state."""
        return {each["state"]: each["advice"] for each in self.findings if all(word in each["what"] for word in words)}


Examine: TypeAlias = Callable[..., Diagnosis]


@pytest.fixture
def examine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Examine:
    """Runs the command, on free ports and without models unless the arguments say otherwise."""

    def examine(*arguments: str) -> Diagnosis:
        (tmp_path / "models").mkdir(exist_ok=True)
        places = ("--port", "0", "--http-port", "0", "--models", str(tmp_path / "models"))
        code = main([*places, *arguments, "--json"])
        printed = capsys.readouterr()
        assert SECRET not in printed.out + printed.err
        document: dict[str, Any] = json.loads(printed.out)
        assert document["ok"] is (code == 0)
        return Diagnosis(code, document["findings"])

    return examine


def test_nothing_is_wrong_where_a_server_would_start(examine: Examine) -> None:
    found = examine("--max-state-bytes", "1000000", "--max-queued-bytes", "1000000")
    assert found.code == 0
    areas = {each["area"] for each in found.findings}
    assert areas == {"settings", "ports", "store", "TLS", "identity", "clock", "models", "machine"}
    assert found.states("memory: sessions end with the process") == {"ok": ""}


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "0", "--http-port", "-1", "--store", "sqlite:/no/such/folder/file"]) == 1
    out = capsys.readouterr().out
    assert "there is no folder /no/such/folder" in out
    assert "1 wrong" in out


def test_it_takes_the_options_of_serve_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--no-such-option"]) == 2
    assert main(["--help"]) == 0
    mine = capsys.readouterr().out
    assert serve(["--help"]) == 0
    options = [word for word in capsys.readouterr().out.split() if word.startswith("--")]
    assert options
    assert all(option in mine for option in options)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tls-cert", "a.pem"], "tls_key: expected a file, since tls_cert is given"),
        (["--durability", "often"], "durability: expected sync or async"),
        (["--host", "0.0.0.0"], "is reached by other machines and there is no TLS"),
        (["--host", "0.0.0.0", "--insecure", "--store", "redis://127.0.0.1:1/0"], "--advertise: expected HOST:PORT"),
        (["--models", "/no/such/folder"], "--models: expected a folder"),
        (["--log-level", "loud"], "log_level: expected one of"),
    ],
)
def test_settings_that_do_not_fit(examine: Examine, arguments: Sequence[str], words: str) -> None:
    found = examine(*arguments)
    assert found.code == 1
    assert "wrong" in found.states(words)


def test_a_misspelled_variable_is_told(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLSERVE_MAX_SESSION", "10")
    monkeypatch.setenv("CELLSERVE_ADDRESS", "of a client:1")
    found = examine()
    assert found.code == 0
    assert found.states("CELLSERVE_MAX_SESSION is no setting") == {"warning": "did you mean CELLSERVE_MAX_SESSIONS?"}
    assert found.states("CELLSERVE_ADDRESS") == {}


def test_a_file_with_a_setting(examine: Examine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "store"
    monkeypatch.setenv("CELLSERVE_STORE_FILE", str(file))
    assert "wrong" in examine().states("CELLSERVE_STORE_FILE: cannot read")
    file.write_text(f"redis://user:{SECRET}@127.0.0.1:1/0")
    file.chmod(0o644)
    found = examine()
    assert found.states("may be read or changed by others (mode 0644)") == {"warning": f"chmod 0600 {file}"}
    assert "wrong" in found.states("redis://user:***@127.0.0.1:1/0", "it cannot be reached")


def test_a_password_in_the_command_line(examine: Examine) -> None:
    found = examine("--store", f"redis://user:{SECRET}@127.0.0.1:1/0")
    assert "warning" in found.states("the password stands in the command line")


# --- ports ------------------------------------------------------------------------------------------------------------


def test_a_port_that_a_server_has(examine: Examine, server_address: str) -> None:
    found = examine("--port", server_address.rpartition(":")[2])
    assert found.code == 1
    assert "wrong" in found.states(f"--port: {server_address} is taken by a gRPC server whose health is SERVING")


@pytest.mark.slow
def test_ports_that_others_have(examine: Examine) -> None:
    registry = CollectorRegistry()
    Gauge("cellserve_serving", "Whether.", registry=registry)
    page = MetricsPage(registry, "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as other, closing(page):
        taken = other.getsockname()[1]
        found = examine("--port", str(taken), "--http-port", str(page.port))
    assert "wrong" in found.states(f"--port: 127.0.0.1:{taken} is taken by another program")
    assert "wrong" in found.states(f"--http-port: 127.0.0.1:{page.port} is taken by the metrics page of a CellServe")


def test_a_port_where_something_else_is_said(examine: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        greeter = threading.Thread(target=greet)
        greeter.start()
        port = listener.getsockname()[1]
        found = examine("--http-port", str(port))
        greeter.join()
    assert "wrong" in found.states(f"--http-port: 127.0.0.1:{port} is taken by another program")


def test_an_address_of_another_machine(examine: Examine) -> None:
    found = examine("--host", "192.0.2.1", "--insecure", "--port", "50051")
    assert "wrong" in found.states("cannot listen on 192.0.2.1:50051")


# --- stores -----------------------------------------------------------------------------------------------------------


def _database(path: Path, *statements: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return f"sqlite:{path}"


def test_a_file_that_is_not_there_yet_is_not_made(examine: Examine, tmp_path: Path) -> None:
    found = examine("--store", f"sqlite:{tmp_path / 'sessions.db'}")
    assert found.code == 0
    assert "ok" in found.states("sessions.db: will be made")
    assert not list(tmp_path.glob("sessions.db*"))


def test_files_that_are_none_of_ours(examine: Examine, tmp_path: Path) -> None:
    newer = _database(tmp_path / "newer.db", f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    other = _database(tmp_path / "other.db", "CREATE TABLE songs (title TEXT)")
    (tmp_path / "text.db").write_text("no database at all" * 100)
    assert "wrong" in examine("--store", newer).states("a newer CellServe wrote it")
    assert "wrong" in examine("--store", other).states("it is a database of something else")
    assert "wrong" in examine("--store", f"sqlite:{tmp_path / 'text.db'}").states("is no SQLite database")


def test_a_file_that_another_has_locked(examine: Examine, tmp_path: Path) -> None:
    schema = "CREATE TABLE sessions (id INTEGER)"
    url = _database(tmp_path / "sessions.db", schema, f"PRAGMA user_version = {SCHEMA_VERSION}")
    assert "ok" in examine("--store", url).states("can be read and written; 0 records")
    with closing(sqlite3.connect(tmp_path / "sessions.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        found = examine("--store", url, "--store-timeout-ms", "10")
    assert "wrong" in found.states("another process has kept the file locked")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    require_redis()
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder, "--appendonly", "yes") as server:
        yield server


def test_a_redis_that_is_well(examine: Examine, redis: RedisServer) -> None:
    found = examine("--store", redis.url)
    assert found.code == 0
    assert "ok" in found.states(redis.url, "answers; version ")
    assert "ok" in found.states("its clock is 0.0", "this machine's")
    assert not [each for each in found.findings if each["area"] == "store" and each["state"] != "ok"]


def test_a_redis_that_loses_sessions(examine: Examine, redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "appendonly", "no", "maxmemory", "2mb", "maxmemory-policy", "allkeys-lru")
    found = examine("--store", redis.url)
    assert found.code == 0
    assert found.states("sessions vanish when its memory is full") == {"warning": "set maxmemory-policy to noeviction"}
    assert found.states("every session is lost when it restarts") == {"warning": "set appendonly to yes"}


def test_a_redis_whose_user_may_do_what_a_server_needs_and_no_more(examine: Examine, redis: RedisServer) -> None:
    redis.command(
        "ACL", "SETUSER", "cells", "on", f">{SECRET}", "~cellserve:*", "+info", "+eval", "+evalsha", "+@hash", "+@read"
    )
    url = redis.url.replace("//", f"//cells:{SECRET}@")
    found = examine("--store", url)
    assert found.code == 0
    assert "ok" in found.states("its user may not ask for its clock")
    redis.command("ACL", "SETUSER", "cells", "-eval", "-evalsha")
    found = examine("--store", url)
    assert found.code == 1
    assert "wrong" in found.states("the URL's user may not do what the store needs")


def test_a_redis_that_takes_nobody_in(examine: Examine, redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "requirepass", "another")
    found = examine("--store", redis.url.replace("//", f"//:{SECRET}@"))
    assert found.code == 1
    assert "wrong" in found.states("it does not take the URL's user and password")


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_certificates_and_their_ends(examine: Examine, authority: Authority) -> None:
    good = authority.issue("good")
    soon = authority.issue("soon", until=datetime.now(UTC) + timedelta(days=3, hours=1))
    over = authority.issue("over", until=LONG_AGO + timedelta(days=1))
    assert "ok" in examine("--tls-cert", str(good.cert), "--tls-key", str(good.key)).states("good.pem", "is good until")
    found = examine("--tls-cert", str(soon.cert), "--tls-key", str(soon.key))
    assert found.states("soon.pem (localhost, 127.0.0.1) is good for 3 more days") == {"warning": "renew it"}
    found = examine("--tls-cert", str(over.cert), "--tls-key", str(over.key))
    assert "wrong" in found.states("over.pem", "was good until 2001-01-02T00:00Z")
    found = examine("--tls-cert", str(good.cert), "--tls-key", str(soon.key))
    assert "wrong" in found.states("--tls-key: expected the key of the certificate")


def test_a_key_that_others_may_read(examine: Examine, authority: Authority) -> None:
    pair = authority.issue("open")
    pair.key.chmod(0o644)
    found = examine("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-client-ca", str(authority.file))
    assert found.states("tls key open to others") == {"warning": f"chmod 0600 {pair.key}"}
    assert "ok" in found.states("--tls-client-ca", "is good until")


# --- models and the machine -------------------------------------------------------------------------------------------


def test_models_that_can_and_cannot_be_served(examine: Examine, tmp_path: Path) -> None:
    put(tmp_path / "models", "good", 1)
    (put(tmp_path / "models", "broken", 2) / "weights.safetensors").write_bytes(b"none")
    put(tmp_path / "models", "no name!", 1)
    found = examine()
    assert found.code == 1
    assert "ok" in found.states("good/1: ", "parameters")
    assert "wrong" in found.states("broken/2: ")
    assert "warning" in found.states("model name not allowed", "no name!")


def test_the_machines_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        found = check_machine(ServerConfig(max_state_bytes=1 << 50), WRITTEN - timedelta(days=1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [finding.state for finding in found] == ["warning", "warning", "wrong"]
    assert "a process may have 1,024" in found[0].what
    assert "would be ended by the system" in found[1].what
