"""The image: who runs in it, and what it needs there: no shell, no other program, no file system to write to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cellserve.cells import BasicLSTMCell
from tests.deploy.watched_server import MARK
from tests.servers import LISTENING, define_model, stubs_for
from tests.tools import ROOT

LAST_STAGE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
STOP_WITHIN_S = 30.0


def _instructions(name: str) -> list[str]:
    joined = LAST_STAGE.replace("\\\n", " ")
    return [line.removeprefix(name).strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_it_is_not_run_as_root_and_says_so_by_number() -> None:
    (user,) = _instructions("USER")
    assert re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", user)


def test_no_shell_is_needed_to_build_start_or_probe_it() -> None:
    assert _instructions("RUN") == []
    commands = [*_instructions("ENTRYPOINT"), *_instructions("CMD")]
    (probe,) = _instructions("HEALTHCHECK")
    commands.append(probe.partition("CMD ")[2])
    assert all(re.fullmatch(r'\[("[^"$]+"(, )?)+\]', command) for command in commands)
    assert "cellserve_server.healthcheck" in probe


def test_what_installs_is_not_left_in_it() -> None:
    whole = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert "uninstall --yes pip setuptools" in whole
    assert _instructions("COPY") == ["--from=build /opt/cellserve /opt/cellserve"]


def test_what_it_is_built_with_is_pinned_too() -> None:
    stage = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").partition("\nFROM ")[2].partition("\nFROM ")[0]
    before, _, install = stage.partition(" install ")
    for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
        assert re.search(rf"^ENV .*\b{name}=/build/constraints.txt", before, re.MULTILINE)
    pinned = set(re.findall(r"^RUN echo ([a-z]+)==[0-9.]+ >> constraints.txt$", before, re.MULTILINE))
    for package in re.findall(r"\./(\w+)", install):
        needed = tomllib.loads((ROOT / package / "pyproject.toml").read_text(encoding="utf-8"))["build-system"][
            "requires"
        ]
        assert {re.split("[^a-z]", item)[0] for item in needed} <= pinned, package


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("--tracing", "console")], ids=["bare", "tracing"])
def test_the_server_starts_no_program_and_writes_no_file(tmp_path: Path, extra: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "tests.deploy.watched_server", "serve", "--port", "0", "--http-port", "0"]
    # No program can be found, no home and no folder for temporary files is there.
    nowhere = str(tmp_path / "nowhere")
    environment = {**os.environ, "PATH": "", "HOME": nowhere, "TMPDIR": nowhere, "PYTHONDONTWRITEBYTECODE": "1"}
    command += ["--models", str(ROOT / "models"), *extra]
    with (
        (tmp_path / "log").open("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=ROOT) as server,
    ):
        try:
            assert server.stdout is not None
            line = server.stdout.readline().strip()
            assert line.startswith(LISTENING), (tmp_path / "log").read_text()
            with stubs_for(line.removeprefix(LISTENING)) as stubs:
                define_model(stubs, BasicLSTMCell(4), 3)
        finally:
            server.terminate()
        assert server.wait(STOP_WITHIN_S) == 0
    told = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith(MARK)]
    assert told == []


def test_what_is_written_would_be_told(tmp_path: Path) -> None:
    code = (
        "import sys, subprocess; from tests.deploy.watched_server import watch; sys.addaudithook(watch);"
        f"open({str(tmp_path / 'file')!r}, 'w').close(); subprocess.run([sys.executable, '-c', ''])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert f"{MARK}open" in result.stderr
    assert f"{MARK}subprocess.Popen" in result.stderr
