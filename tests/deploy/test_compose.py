"""What ``docker compose up`` would use, as far as it can be checked without a container engine."""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from deploy.fleet import ManagedProcess
from deploy.fleet.ports import free_ports
from deploy.fleet.proxies import CONFIGURATIONS
from deploy.fleet.redis_server import answers_ping
from tests.programs import require_program
from tests.tools import ROOT

COMPOSE_FILE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PROMETHEUS_FILE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
REPLICAS = ("replica-1", "replica-2")
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
    for replica in REPLICAS:
        build = services[replica]["build"]
        assert (ROOT / build["context"] / build["dockerfile"]) == DOCKERFILE
    assert DOCKERFILE.exists()


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "proxy": ["127.0.0.1:50051:50051"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_images_are_pinned(services: dict[str, Any]) -> None:
    base_images = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    for image in [*base_images, *(service["image"] for service in services.values())]:
        assert re.search(r":v?\d+\.\d+\.\d+(-[\w-]+)?$", image), image


def test_every_service_is_hardened(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "fleet" in service["networks"], name


def test_the_servers_and_the_store_cannot_use_the_machine_up(services: dict[str, Any]) -> None:
    for name in (*REPLICAS, "redis"):
        assert re.fullmatch("[1-9]g", services[name]["mem_limit"]), name
        assert services[name]["pids_limit"] > 0, name
    _, *words = services["redis"]["command"]
    kept = words[words.index("--maxmemory") + 1]
    assert int(services["redis"]["mem_limit"][:-1]) >= 2 * int(kept.removesuffix("gb"))


def test_each_waits_for_the_health_of_what_it_needs(services: dict[str, Any]) -> None:
    needs = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert set(needs["proxy"]) == set(needs["prometheus"]) == set(REPLICAS)
    assert (set(needs["grafana"]), set(needs["load"])) == ({"prometheus"}, {"proxy"})
    assert all(set(needs[replica]) == {"redis"} for replica in REPLICAS)
    for name, needed in needs.items():
        assert all(item["condition"] == "service_healthy" for item in needed.values()), name
    # The replicas' own is in the image.
    assert all("healthcheck" in services[name] for name in ("redis", "proxy", "prometheus"))


def test_replicas_have_addresses_of_their_own_and_time_to_drain(services: dict[str, Any]) -> None:
    networks = load(COMPOSE_FILE)["networks"]
    subnet = ipaddress.ip_network(networks["fleet"]["ipam"]["config"][0]["subnet"])
    addresses = {ipaddress.ip_address(services[name]["networks"]["fleet"]["ipv4_address"]) for name in REPLICAS}
    assert len(addresses) == len(REPLICAS)
    assert all(address in subnet for address in addresses)
    for name in REPLICAS:
        assert services[name]["environment"]["CELLSERVE_ADVERTISE"] == f"{name}:50051"
        (drain,) = (flag for flag in services[name]["command"] if flag.startswith("--drain-timeout-s="))
        assert float(drain.partition("=")[2]) < float(services[name]["stop_grace_period"].removesuffix("s"))


def test_the_store_appends_and_evicts_nothing(services: dict[str, Any]) -> None:
    (store,) = (flag for flag in services["replica-1"]["command"] if flag.startswith("--store="))
    address = urlsplit(store.partition("=")[2])
    assert (address.scheme, address.hostname, address.port) == ("redis", "redis", 6379)
    _, *words = services["redis"]["command"]
    settings = dict(zip(words[::2], words[1::2], strict=True))
    assert settings["--appendonly"] == "yes"
    assert settings["--maxmemory-policy"] == "noeviction"
    assert services["redis"]["volumes"] == ["redis-data:/data"]


def test_redis_takes_these_settings(services: dict[str, Any], tmp_path: Path) -> None:
    program = require_program("redis-server")
    (port,) = free_ports(1)
    command = [program, *services["redis"]["command"][1:], "--port", str(port), "--dir", str(tmp_path)]
    redis = ManagedProcess("redis", command, tmp_path / "log", lambda _: answers_ping(port))
    redis.start()
    assert redis.stop() == 0


def test_the_proxys_configuration_names_the_replicas(services: dict[str, Any]) -> None:
    (mount,) = services["proxy"]["volumes"]
    assert (ROOT / mount.split(":")[0]) == CONFIGURATIONS["nginx"]
    named = re.findall(r"^ *server (replica-\d+):50051", CONFIGURATIONS["nginx"].read_text("utf-8"), re.MULTILINE)
    assert named == list(REPLICAS)


def test_the_flags_are_those_of_the_server(services: dict[str, Any]) -> None:
    command, *flags = services["replica-1"]["command"]
    assert command == "serve"
    assert services["replica-2"]["command"] == services["replica-1"]["command"]
    help_text = subprocess.run([CELLSERVE, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"--[a-z][a-z-]+", help_text))
    used = {flag.partition("=")[0] for flag in flags}
    assert used <= known
    assert "--insecure" in used, "an address other than loopback without TLS has to be asked for"


def test_load_is_put_on_when_it_is_asked_for_with_flags_that_there_are(services: dict[str, Any]) -> None:
    service = services["load"]
    command, address, *flags = service["command"]
    assert service["profiles"] == ["load"]
    assert all(service[key] == services["replica-1"][key] for key in ("image", "build"))
    assert (command, address) == ("load", "proxy:50051")
    help_text = subprocess.run([CELLSERVE, "load", "--help"], capture_output=True, text=True, check=True).stdout
    assert {flag.partition("=")[0] for flag in flags} <= set(re.findall(r"--[a-z][a-z-]+", help_text))
    (model,) = (flag.partition("=")[2] for flag in flags if flag.startswith("--model="))
    assert (ROOT / "models" / model).is_dir()
    pages = [flag.partition("=")[2] for flag in flags if flag.startswith("--metrics=")]
    assert pages == [f"http://{name}:9464/metrics" for name in REPLICAS]


def test_nobody_can_log_in_to_grafana(services: dict[str, Any]) -> None:
    environment = services["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"


def test_the_server_accepts_the_flags_and_serves_the_models(services: dict[str, Any], tmp_path: Path) -> None:
    """The compose file's own command, with ports of this machine's choice, the folder that it mounts, and no Redis."""
    service = services["replica-1"]
    targets = {mount.split(":")[1]: ROOT / mount.split(":")[0] for mount in service["volumes"]}
    changes = {"--host": "127.0.0.1", "--port": "0", "--http-host": "127.0.0.1", "--http-port": "0"}
    changes["--store"] = "memory:"
    command = [str(CELLSERVE)]
    for word in service["command"]:
        name, separator, value = word.partition("=")
        command.append(f"{name}{separator}{changes.get(name, str(targets.get(value, value)))}")
    environment = {**os.environ, **service["environment"]}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as server,
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


def test_what_the_image_is_built_from_is_in_the_build_context() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set(re.findall(r"^COPY ([^-]\S*) ", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE))
    assert copied == let_in
    assert all((ROOT / path).exists() for path in copied)


def test_the_image_has_the_driver_of_the_store_and_the_command_line_and_can_trace() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert "./server[auth,redis,tracing]" in text
    assert "./client[cli]" in text


def test_prometheus_scrapes_the_replicas_metrics(services: dict[str, Any]) -> None:
    (job,) = load(PROMETHEUS_FILE)["scrape_configs"]
    targets = [target.split(":") for target in job["static_configs"][0]["targets"]]
    assert [host for host, _ in targets] == list(REPLICAS)
    assert all(f"--http-port={port}" in services[host]["command"] for host, port in targets)


def test_prometheus_takes_its_configuration_and_has_the_rules_beside_it(services: dict[str, Any]) -> None:
    promtool = require_program("promtool")
    (folder, *_) = services["prometheus"]["volumes"]
    assert folder == "./deploy/prometheus:/etc/prometheus:ro"
    assert load(PROMETHEUS_FILE)["rule_files"] == ["alerts.yml"]
    result = subprocess.run([promtool, "check", "config", PROMETHEUS_FILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
