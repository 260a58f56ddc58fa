"""Both ends of the version ranges: the oldest and newest grpcio, protobuf and numpy, each in a fresh environment."""

from __future__ import annotations

import sys

import pytest

from tests.install.environments import CONSTRAINTS, Environment, read_pins, write_pins
from tests.install.test_pins import LOWEST
from tests.tools import ROOT

pytestmark = pytest.mark.slow


def pins_of(end: str) -> dict[str, str]:
    """The pins of one end: the newest are those that we develop with."""
    return read_pins(CONSTRAINTS) | (read_pins(LOWEST) if end == "lowest" else {})


@pytest.fixture(scope="module", params=["lowest", "newest"])
def end(request: pytest.FixtureRequest) -> str:
    if request.param == "lowest" and sys.version_info >= (3, 13):
        pytest.skip("numpy 1.26 has no build for this Python")
    return str(request.param)


@pytest.fixture(scope="module")
def environment(end: str, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp(end)
    made = Environment(folder / "environment")
    made.install(
        ["proto", "server", "client[cli]"],
        ["pytest", "hypothesis"],
        pins=write_pins(folder / "pins.txt", pins_of(end)),
    )
    return made


def test_the_versions_are_those_of_this_end(environment: Environment, end: str) -> None:
    installed, pins = environment.installed(), pins_of(end)
    ours = {"grpcio", "grpcio-health-checking", "grpcio-reflection", "protobuf", "numpy", "googleapis-common-protos"}
    assert {name: installed[name] for name in ours} == {name: pins[name] for name in ours}
    environment.run("-m", "pip", "check")


def test_a_server_serves_a_client(environment: Environment) -> None:
    result = environment.run("-W", "error", "-m", "tests.install.smoke", ROOT / "models", cwd=ROOT)
    assert result.stdout.endswith("served\n")


def test_the_contracts_tests_pass(environment: Environment) -> None:
    options = ("-q", "-p", "no:cacheprovider", "-m", "not slow and not torch and not onnxruntime")
    result = environment.run("-m", "pytest", *options, "tests/contract", cwd=ROOT)
    assert " passed" in result.stdout
    assert "no tests ran" not in result.stdout
