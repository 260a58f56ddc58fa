"""The client in an environment of its own: it brings the contract, grpcio, protobuf and numpy, and nothing more."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.install.environments import Environment

pytestmark = pytest.mark.slow

NEEDED = {
    "cellserve-client",
    "cellserve-proto",
    "grpcio",
    "protobuf",
    "numpy",
    "googleapis-common-protos",
    "typing-extensions",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("client") / "environment")
    made.install(["proto", "client"])
    return made


def test_nothing_else_is_installed(environment: Environment) -> None:
    assert set(environment.installed()) == NEEDED


def test_it_imports_and_describes_cells(environment: Environment) -> None:
    program = (
        "from cellserve_client import connect, rnn\n"
        "import cellserve_client.aio\n"
        "print(rnn.MultiRNNCell([rnn.BasicLSTMCell(128), rnn.BasicRNNCell(64)]).state_size)"
    )
    assert environment.run("-W", "error", "-c", program).stdout == "(LSTMStateTuple(c=128, h=128), 64)\n"


def test_every_module_but_the_command_line_imports(environment: Environment) -> None:
    program = (
        "import importlib, pkgutil, cellserve, cellserve_client\n"
        "for package in (cellserve, cellserve_client):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if module.name.split('.')[1:2] not in (['cli'], ['load'], ['server_metrics'], ['top'], ['tracing']):\n"
        "            importlib.import_module(module.name)\n"
        "            print(module.name)\n"
    )
    assert "cellserve.v1.stream_pb2" in environment.run("-W", "error", "-c", program).stdout.split()


def test_types_the_contract_and_the_page_of_load_tests_come_with_it(environment: Environment) -> None:
    program = (
        "import importlib.resources as r\n"
        "v1 = r.files('cellserve') / 'v1'\n"
        "parts = [r.files('cellserve') / 'py.typed', r.files('cellserve_client') / 'py.typed',\n"
        "         v1 / 'stream.proto', v1 / 'stream_pb2.pyi']\n"
        "page = r.files('cellserve_client') / 'load' / 'page'\n"
        "parts += [page / 'report.html', page / 'page.js', page / 'uPlot.LICENSE']\n"
        "print(all(part.is_file() for part in parts))"
    )
    assert environment.run("-c", program).stdout == "True\n"


def test_the_command_says_what_to_install(environment: Environment) -> None:
    command: list[str | Path] = [environment.folder / "bin" / "cellserve", "load", "localhost:1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "pip install 'cellserve-client[cli]'" in result.stderr
    assert "Traceback" not in result.stderr
