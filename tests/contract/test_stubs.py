"""The committed stubs belong to the .proto files beside them."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.tools import ROOT

PROTO = ROOT / "proto"
STUBS = PROTO / "cellserve" / "v1"


def committed_digests() -> dict[str, str]:
    """The digests that `make proto` wrote, by path below ``proto/``."""
    lines = (STUBS / "stubs.sha256").read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, path in (line.split("  ") for line in lines)}


def test_no_proto_file_or_stub_changed_since_make_proto() -> None:
    now = {
        path.relative_to(PROTO).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("*.proto", "*_pb2*.py*")
        for path in STUBS.glob(pattern)
    }
    committed = committed_digests()
    changed = sorted(path for path in now.keys() | committed.keys() if now.get(path) != committed.get(path))
    assert not changed, f"run `make proto`: these changed since it last ran: {', '.join(changed)}"


@pytest.mark.slow
def test_stubs_are_what_the_generator_makes(tmp_path: Path, stub_python: Path) -> None:
    subprocess.run([stub_python, PROTO / "generate_stubs.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in (tmp_path / "cellserve" / "v1").iterdir()}
    committed = {
        path.name: path.read_bytes()
        for path in STUBS.iterdir()
        if path.is_file() and path.suffix != ".proto" and path.name != "__init__.py"
    }
    assert sorted(made) == sorted(committed)
    stale = [name for name in sorted(made) if made[name] != committed[name]]
    assert not stale, f"run `make proto`: these are not what it makes: {', '.join(stale)}"
