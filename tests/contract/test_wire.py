"""The wire format as an independent reader sees it: real servers, ``wire_reader`` and nothing else of ours."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.contract import wire_reader
from tests.contract.wire_reader import WireReader
from tests.tools import ROOT


@pytest.fixture
def reader(server_address: str) -> Iterator[WireReader]:
    with grpc.insecure_channel(server_address) as channel:
        yield WireReader(channel)


def test_a_call_with_its_state(reader: WireReader) -> None:
    reader.check_call()


def test_steps_of_a_session(reader: WireReader) -> None:
    reader.check_steps()


def test_a_sequence(reader: WireReader) -> None:
    reader.check_run()


def test_a_stream(reader: WireReader) -> None:
    reader.check_stream()


def test_the_reader_uses_no_package_of_ours_but_the_stubs() -> None:
    tree = ast.parse(Path(wire_reader.__file__).read_text(encoding="utf-8"))
    ours = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert [name for name in ours if name and name.startswith(("cellserve", "tests", "numpy"))] == ["cellserve.v1"]


@pytest.mark.slow
def test_stubs_made_by_another_from_the_proto_files_alone(
    server_address: str, stub_python: Path, tmp_path: Path
) -> None:
    """In an environment that has grpcio, protobuf and the generator, and nothing of ours."""
    protos = sorted((ROOT / "proto").rglob("cellserve/v1/*.proto"))
    for path in protos:
        copy = tmp_path / path.relative_to(ROOT / "proto")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    site = subprocess.check_output(
        [stub_python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
    ).strip()
    protoc: list[str | Path] = [stub_python, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"-I{site}"]
    outputs = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    subprocess.run([*protoc, *outputs, *tmp_path.rglob("*.proto")], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    subprocess.run([stub_python, wire_reader.__file__, server_address], check=True, env=environment, timeout=60)
