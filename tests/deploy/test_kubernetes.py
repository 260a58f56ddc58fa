"""The manifests for Kubernetes: they fit its schema, and fit one another and the server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from tests.tools import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
TLS_FOLDER = ROOT / "deploy" / "kubernetes-tls"
# The one that the schemas are of; and the oldest that has what is used here (preStop.sleep).
VERSIONS = ("1.37", "1.30")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(path))


KUSTOMIZATION = documents(FOLDER / "kustomization.yaml")[0]
RESOURCES = [(name, document) for name in KUSTOMIZATION["resources"] for document in documents(FOLDER / name)]


def one(kind: str, name: str = "cellserve") -> dict[str, Any]:
    (found,) = (item for _, item in RESOURCES if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


@pytest.fixture
def pod() -> dict[str, Any]:
    found: dict[str, Any] = one("Deployment")["spec"]["template"]["spec"]
    return found


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("file", "document"), RESOURCES, ids=[f"{name}-{item['kind']}" for name, item in RESOURCES])
def test_they_fit_the_schema(file: str, document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_does_not_fit() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**one("Deployment"), "specs": {}}, VERSIONS[0], strict=True)


def test_the_kustomization_has_every_file() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}
    assert set(KUSTOMIZATION) == {"apiVersion", "kind", "namespace", "resources", "images"}
    assert KUSTOMIZATION["namespace"] == one("Namespace")["metadata"]["name"]
    image = KUSTOMIZATION["images"][0]
    assert (
        f"{image['name']}:{image['newTag']}" == one("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    )


def test_selectors_and_ports_meet_the_pods(container: dict[str, Any]) -> None:
    deployment = one("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for service in (one("Service"), one("Service", "cellserve-replicas")):
        assert service["spec"]["selector"] == labels
        assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])
    assert one("Service", "cellserve-replicas")["spec"]["clusterIP"] == "None"
    assert {f"--port={ports['grpc']}", f"--http-port={ports['metrics']}"} <= set(container["args"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["grpc"]


def test_flags_and_environment_are_those_of_the_server(pod: dict[str, Any], container: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "cellserve", "serve", "--help"]
    known = set(
        re.findall(r"--[a-z][a-z-]+", subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    )
    assert {flag.partition("=")[0] for flag in container["args"][1:]} <= known
    environment = {item["name"]: item for item in container["env"]}
    for name in environment:
        setting = name.removeprefix("CELLSERVE_").removesuffix("_FILE").lower().replace("_", "-")
        assert not name.startswith("CELLSERVE_") or f"--{setting}" in known
    assert environment["POD_IP"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    assert environment["CELLSERVE_ADVERTISE"]["value"] == "$(POD_IP):50051"
    assert list(environment).index("POD_IP") < list(environment).index("CELLSERVE_ADVERTISE")
    # For the Service `cellserve` there would be CELLSERVE_PORT=tcp://..., which is no port.
    assert pod["enableServiceLinks"] is False


def test_the_stores_url_is_a_file_of_the_secret_that_the_servers_group_may_read(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    (path,) = (item["value"] for item in container["env"] if item["name"] == "CELLSERVE_STORE_FILE")
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    folder, _, key = path.rpartition("/")
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mounts[folder])
    assert volume["secret"] == {"secretName": "cellserve-store", "defaultMode": 0o440}
    assert key == "url"
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def test_there_is_time_to_drain(pod: dict[str, Any], container: dict[str, Any]) -> None:
    (drain,) = (float(flag.partition("=")[2]) for flag in container["args"] if flag.startswith("--drain-timeout-s="))
    pre_stop_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pre_stop_s + drain


def test_it_runs_without_privileges(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


def test_who_reaches_the_ports(container: dict[str, Any]) -> None:
    policy = one("NetworkPolicy")["spec"]
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["policyTypes"] == ["Ingress"]
    let_in = {port["port"]: rule["from"] for rule in policy["ingress"] for port in rule["ports"]}
    assert set(let_in) == {port["name"] for port in container["ports"]}
    # Of this namespace alone: no namespaceSelector.
    clients = [{"podSelector": {"matchLabels": found}} for found in ({"cellserve-client": "true"}, labels)]
    assert let_in["grpc"] == clients
    (prometheus,) = let_in["metrics"]
    assert all(prometheus[selector]["matchLabels"] for selector in ("namespaceSelector", "podSelector"))


# --- with TLS and tokens ----------------------------------------------------------------------------------------------


@pytest.fixture
def patch() -> dict[str, Any]:
    found: dict[str, Any] = documents(TLS_FOLDER / "deployment.yaml")[0]["spec"]["template"]["spec"]
    return found


def test_the_flags_are_the_same_and_those_of_tls_and_tokens(patch: dict[str, Any], container: dict[str, Any]) -> None:
    (patched,) = patch["containers"]
    assert patched["name"] == container["name"]
    (tokens,) = (flag for flag in patched["args"] if flag not in container["args"])
    assert patched["args"] == [*container["args"], tokens]
    files = [tokens.removeprefix("--tokens-file="), *(item["value"] for item in patched["env"][:3])]
    assert [item["name"].removeprefix("CELLSERVE_TLS_") for item in patched["env"]] == [
        "CERT",
        "KEY",
        "CA",
        "SERVER_NAME",
    ]
    secrets = {volume["name"]: volume["secret"] for volume in patch["volumes"]}
    folders = {mount["mountPath"]: secrets[mount["name"]] for mount in patched["volumeMounts"]}
    assert {path.rpartition("/")[0] for path in files} == set(folders)
    assert all(secret["defaultMode"] == 0o440 for secret in folders.values())


def test_probes_speak_tls(patch: dict[str, Any], container: dict[str, Any]) -> None:
    (patched,) = patch["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert patched[name]["grpc"] is None
        *command, address = patched[name]["exec"]["command"]
        assert command == ["/opt/cellserve/bin/python", "-m", "cellserve_server.healthcheck"]
        assert address == f"--address=127.0.0.1:{container[name]['grpc']['port']}"
