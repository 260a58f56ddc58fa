"""Fresh virtual environments with our packages in them, installed as a user would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.tools import ROOT

CONSTRAINTS = ROOT / "constraints.txt"


def read_pins(path: Path) -> dict[str, str]:
    """The versions in a file of ``name==version`` lines, by name in lower case with hyphens."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def normal(name: str) -> str:
    """A distribution's name as pip compares it."""
    return name.lower().replace("_", "-").replace(".", "-")


def write_pins(path: Path, pins: dict[str, str]) -> Path:
    path.write_text("".join(f"{name}=={version}\n" for name, version in sorted(pins.items())), encoding="utf-8")
    return path


class Environment:
    """A virtual environment in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.python = folder / "bin" / "python"

    def install(self, packages: Sequence[str], requirements: Sequence[str] = (), *, pins: Path = CONSTRAINTS) -> None:
        """Installs packages of ours, not editable, and requirements by name.

        Args:
            packages: folders below the top of the repository, with extras: ``client[cli]``.
            requirements: names of other distributions.
            pins: the constraints that hold for everything.
        """
        targets = []
        for package in packages:
            name, bracket, extras = package.partition("[")
            # Built from a copy, because setuptools builds beside the sources, and old builds must not get in.
            copy = self.folder / "sources" / name
            shutil.copytree(ROOT / name, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
            targets.append(f"{copy}{bracket}{extras}")
        self.run("-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", pins, *targets, *requirements)

    def installed(self) -> dict[str, str]:
        """What is installed beside pip and setuptools: versions by name."""
        listed = json.loads(self.run("-m", "pip", "list", "--format=json", "--disable-pip-version-check").stdout)
        found = {normal(item["name"]): str(item["version"]) for item in listed}
        return {name: version for name, version in found.items() if name not in {"pip", "setuptools"}}

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs Python with these arguments and gives what it printed; a failure fails the test with all of it."""
        command: list[str | Path] = [self.python, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=cwd or self.folder, timeout=900)
        assert result.returncode == 0, result.stdout + result.stderr
        return result
