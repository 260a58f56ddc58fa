"""Settings from files, and passwords, which nothing shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellserve_server.binding import StartError
from cellserve_server.config import ServerConfig
from cellserve_server.options import MAX_SETTING_BYTES, SettingFileError, values_from_files
from cellserve_server.stores.opening import make_store

SECRET = "open sesame"
URL = "redis://user:open%20sesame@localhost:6379/0"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.write_text(f"{URL}\n")
    return path


def test_a_variable_may_name_a_file_that_has_the_value(file: Path, tmp_path: Path) -> None:
    port = tmp_path / "port"
    port.write_text("1234\r\n")
    environment = {"CELLSERVE_STORE_FILE": str(file), "CELLSERVE_PORT_FILE": str(port), "CELLSERVE_HOST_FILE": ""}
    assert values_from_files(environment) == {"store": URL, "port": "1234"}
    assert values_from_files({}) == {}


def test_a_value_is_given_once(file: Path) -> None:
    environment = {"CELLSERVE_STORE_FILE": str(file), "CELLSERVE_STORE": URL}
    with pytest.raises(SettingFileError, match="expected this variable or CELLSERVE_STORE alone; got both") as told:
        values_from_files(environment)
    assert "sesame" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read .*: No such file"),
        (b"\xff sesame", "expected text in UTF-8"),
        (b"s" * (MAX_SETTING_BYTES + 1), "expected at most 65536"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "store"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingFileError, match=f"^CELLSERVE_STORE_FILE: {words}") as told:
        values_from_files({"CELLSERVE_STORE_FILE": str(path)})
    assert "sesame" not in str(told.value)


@pytest.mark.slow
def test_the_other_commands_read_the_stores_file_too(file: Path, tmp_path: Path) -> None:
    file.write_text("memory:\n")
    command = [sys.executable, "-m", "cellserve", "sessions", "export", str(tmp_path / "sessions.csx")]

    def export() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CELLSERVE_STORE_FILE": str(file)}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    result = export()
    assert result.returncode == 1
    assert "what is in memory has no store" in result.stderr
    file.unlink()
    result = export()
    assert result.returncode == 2
    assert "CELLSERVE_STORE_FILE: cannot read" in result.stderr


def test_settings_do_not_show_the_store() -> None:
    assert "sesame" not in repr(ServerConfig(store=URL))


@pytest.mark.parametrize(
    "url",
    [
        f"redis:user:{SECRET}@host",
        f"redis:/user:{SECRET}@host:1/0",
        f"mysql://user:{SECRET}@host/0",
        f"redis:localhost?password={SECRET}",
        f"user:{SECRET}@host",
    ],
)
def test_a_url_that_is_none_is_told_without_its_password(url: str) -> None:
    with pytest.raises(StartError, match=r"^--store: expected memory:") as told:
        make_store(url, lambda: 0.0, fsync=False, timeout_s=1.0)
    assert SECRET not in str(told.value)
