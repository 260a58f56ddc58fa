"""What ``docker compose up`` would use, as far as it can be checked without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.tools import ROOT

COMPOSE_FILE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PROMETHEUS_FILE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
CELLSERVE = Path(sys.executable).parent / "cellserve"


def load(path: Path) -> Any:
    return YAML(typ="safe").load(path)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = load(COMPOSE_FILE)["services"]
    return found


def test_the_compose_file_fits_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    result = subprocess.run([*check, COMPOSE_FILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_it_mounts_and_builds_from_exists(services: dict[str, Any]) -> None:
    mounts = [volume.split(":") for service in services.values() for volume in service.get("volumes", ())]
    from_here = [mount for mount in mounts if mount[0].startswith(".")]
    assert from_here
    for source, _, mode in from_here:
        assert (ROOT / source).exists(), source
        assert mode == "ro", f"{source} is mounted for writing"
    build = services["cellserve"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]) == DOCKERFILE
    assert DOCKERFILE.exists()


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned(services: dict[str, Any]) -> None:
    base_images = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    for image in [*base_images, *(service["image"] for service in services.values())]:
        assert re.search(r":v?\d+\.\d+\.\d+(-[\w-]+)?$", image), image


def test_the_flags_are_those_of_the_server(services: dict[str, Any]) -> None:
    command, *flags = services["cellserve"]["command"]
    assert command == "serve"
    help_text = subprocess.run([CELLSERVE, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"--[a-z][a-z-]+", help_text))
    used = {flag.partition("=")[0] for flag in flags}
    assert used <= known
    assert "--insecure" in used, "an address other than loopback without TLS has to be asked for"


def test_the_server_accepts_the_flags_and_serves_the_models(services: dict[str, Any], tmp_path: Path) -> None:
    """The compose file's own command, with ports of this machine's choice and the folder that it mounts."""
    targets = {mount.split(":")[1]: ROOT / mount.split(":")[0] for mount in services["cellserve"]["volumes"]}
    changes = {"--host": "127.0.0.1", "--port": "0", "--http-host": "127.0.0.1", "--http-port": "0"}
    command = [str(CELLSERVE)]
    for word in services["cellserve"]["command"]:
        name, separator, value = word.partition("=")
        command.append(f"{name}{separator}{changes.get(name, str(targets.get(value, value)))}")
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            address = next(filter(None, map(address_in, server.stdout)), "")
            assert address, (tmp_path / "log").read_text()
            probe = [sys.executable, "-m", "cellserve_server.healthcheck", "--address", address]
            assert subprocess.run(probe, capture_output=True).returncode == 0
        finally:
            server.terminate()
        assert server.wait(timeout=30) == 0


def address_in(line: str) -> str:
    """The address in what the server prints when it is ready."""
    found = re.search(r"127\.0\.0\.1:\d+", line)
    return found[0] if found else ""


def test_the_probe_says_when_nobody_answers() -> None:
    probe = [sys.executable, "-m", "cellserve_server.healthcheck", "--address", "127.0.0.1:1", "--timeout-s", "2"]
    result = subprocess.run(probe, capture_output=True, text=True)
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_image_is_not_run_as_root_and_has_a_health_check() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    last_stage = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!root\b)\w+$", last_stage, re.MULTILINE)
    assert "HEALTHCHECK" in last_stage
    assert "cellserve_server.healthcheck" in last_stage


def test_what_the_image_is_built_from_is_in_the_build_context() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set(re.findall(r"^COPY (\S+) ", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE))
    assert copied == let_in
    assert all((ROOT / path).exists() for path in copied)


def test_prometheus_scrapes_the_servers_metrics(services: dict[str, Any]) -> None:
    (job,) = load(PROMETHEUS_FILE)["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in services
    assert f"--http-port={port}" in services[host]["command"]


def test_prometheus_takes_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert os.environ.get("CI") != "true", "promtool is missing: .ci/run installs Debian's package prometheus"
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    result = subprocess.run([promtool, "check", "config", PROMETHEUS_FILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
