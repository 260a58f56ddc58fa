"""The pins are exact, cover what the packages declare, and lie within the ranges that they declare."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.install.environments import CONSTRAINTS, normal, read_pins
from tests.tools import ROOT

LOWEST = Path(__file__).parent / "lowest.txt"
STUB_TOOLS = ROOT / "proto" / "requirements-stubs.txt"
DEVELOPMENT = ROOT / "requirements-dev.txt"
FRAMEWORKS = (
    "requirements-torch.txt",
    "requirements-onnx.txt",
    "requirements-bench.txt",
    "requirements-fuzz.txt",
    "examples/speaker_id/requirements.txt",
    "examples/locust/requirements.txt",
)
PACKAGES = ("proto", "server", "client")


def project(package: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def declared(package: str) -> list[Requirement]:
    """What a package declares, its extras included, our own packages left out."""
    found = project(package)
    texts = [*found["dependencies"], *chain.from_iterable(found.get("optional-dependencies", {}).values())]
    return [requirement for requirement in map(Requirement, texts) if not requirement.name.startswith("cellserve-")]


@pytest.mark.parametrize("path", [CONSTRAINTS, STUB_TOOLS, LOWEST], ids=lambda path: str(path.name))
def test_pins_are_exact_and_have_no_addresses(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    odd = [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert not odd
    assert "://" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_declared_is_pinned_within_its_range(package: str) -> None:
    pins = read_pins(CONSTRAINTS)
    outside = [str(item) for item in declared(package) if pins.get(normal(item.name), "0") not in item.specifier]
    assert not outside


def test_everything_for_development_is_pinned() -> None:
    pins = read_pins(CONSTRAINTS)
    names = [line for line in DEVELOPMENT.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert names
    assert [name for name in names if normal(name) not in pins] == []


@pytest.mark.parametrize("path", FRAMEWORKS)
def test_frameworks_are_pinned_where_they_are_named(path: str) -> None:
    pins = read_pins(CONSTRAINTS)
    lines = [line for line in (ROOT / path).read_text("utf-8").splitlines() if not line.startswith(("#", "-r "))]
    assert lines
    assert [line for line in lines if normal(line) not in pins and not re.fullmatch(r"[\w-]+==[\d.]+", line)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_lowest_pins_are_the_lower_ends(package: str) -> None:
    lowest = read_pins(LOWEST)
    for requirement in declared(package):
        if normal(requirement.name) in lowest:
            version = lowest[normal(requirement.name)]
            assert version in requirement.specifier, f"{requirement} excludes {version}"
            (lower,) = (item.version for item in requirement.specifier if item.operator == ">=")
            assert version == lower or version.startswith(f"{lower}."), f"{requirement}, but {version} is tested"


def test_the_stubs_are_made_with_the_lowest_versions() -> None:
    lowest, tools = read_pins(LOWEST), read_pins(STUB_TOOLS)
    for name in ("grpcio", "protobuf", "googleapis-common-protos"):
        assert tools[name] == lowest[name]
    assert tools["grpcio-tools"] == lowest["grpcio"]


def test_the_packages_share_version_python_and_licence() -> None:
    projects = [project(package) for package in PACKAGES]
    assert len({(item["version"], item["requires-python"], item["license"]) for item in projects}) == 1
