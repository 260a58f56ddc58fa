"""Generates the Python stubs of ``cellserve/v1/*.proto``: what ``make proto`` runs.

    python proto/generate_stubs.py [FOLDER]

writes ``FOLDER/cellserve/v1/*_pb2*`` and ``FOLDER/cellserve/v1/stubs.sha256``; the folder is ``proto/`` itself unless
another one is given. It needs what ``requirements-stubs.txt`` lists. The digests let a test that has no generator see
that a ``.proto`` file or a stub was changed by hand.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

PROTO = Path(__file__).resolve().parent
PACKAGE = Path("cellserve/v1")
DIGESTS = PACKAGE / "stubs.sha256"


def sources() -> list[Path]:
    """The ``.proto`` files, relative to ``proto/``."""
    return sorted(path.relative_to(PROTO) for path in (PROTO / PACKAGE).glob("*.proto"))


def stubs(folder: Path) -> list[Path]:
    """The generated files in a folder, relative to it."""
    return sorted(path.relative_to(folder) for path in (folder / PACKAGE).glob("*_pb2*.py*"))


def generate(folder: Path) -> None:
    """Writes stubs and digests below ``folder``.

    Raises:
        subprocess.CalledProcessError: a ``.proto`` file has an error; protoc said which.
    """
    (folder / PACKAGE).mkdir(parents=True, exist_ok=True)
    for stale in stubs(folder):
        (folder / stale).unlink()
    _protoc(sources(), f"--python_out={folder}", f"--pyi_out={folder}")
    _protoc([path for path in sources() if path.stem.endswith("_service")], f"--grpc_python_out={folder}")
    (folder / DIGESTS).write_text(digests(folder), encoding="utf-8")


def digests(folder: Path) -> str:
    """The digests of the ``.proto`` files and of a folder's stubs, in the format of ``sha256sum``."""
    lines = [_digest_line(PROTO, sources()), _digest_line(folder, stubs(folder))]
    return "".join(lines)


def _digest_line(root: Path, paths: Iterable[Path]) -> str:
    return "".join(f"{hashlib.sha256((root / path).read_bytes()).hexdigest()}  {path.as_posix()}\n" for path in paths)


def _protoc(paths: Iterable[Path], *options: str) -> None:
    google = sysconfig.get_paths()["purelib"]  # google/rpc/status.proto of googleapis-common-protos
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{google}", *options]
    subprocess.run([*command, *(path.as_posix() for path in paths)], cwd=PROTO, check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PROTO)
