"""Envoy's configuration, which nothing here can run: that it parses, and says what the other proxies' say."""

from __future__ import annotations

from typing import Any

import pytest
from ruamel.yaml import YAML

from cellserve.buckets import BUCKET_KEY
from tests.tools import ROOT


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(ROOT / "deploy" / "envoy.yaml")
    assert set(found) == {"static_resources"}, "no admin page is opened"
    return dict(found["static_resources"])


def test_it_hashes_the_bucket_onto_a_ring(resources: dict[str, Any]) -> None:
    (listener,) = resources["listeners"]
    (connection_filter,) = listener["filter_chains"][0]["filters"]
    (host,) = connection_filter["typed_config"]["route_config"]["virtual_hosts"]
    peers, everything = host["routes"]
    assert peers["match"]["prefix"] == "/cellserve.v1.PeerService/"
    assert peers["direct_response"]["status"] == 403
    route = everything["route"]
    assert route["hash_policy"] == [{"header": {"header_name": BUCKET_KEY}}]
    assert route["timeout"] == "0s"
    (cluster,) = resources["clusters"]
    assert (cluster["name"], cluster["lb_policy"]) == (route["cluster"], "RING_HASH")


def test_it_asks_the_replicas_for_their_health(resources: dict[str, Any]) -> None:
    (cluster,) = resources["clusters"]
    assert cluster["health_checks"][0]["grpc_health_check"] == {}
    assert cluster["outlier_detection"]["max_ejection_percent"] == 100
    (options,) = cluster["typed_extension_protocol_options"].values()
    assert "http2_protocol_options" in options["explicit_http_config"]
    endpoints = [
        item["endpoint"]["address"]["socket_address"]
        for item in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ]
    assert [item["address"] for item in endpoints] == ["replica-1", "replica-2"]
    assert {item["port_value"] for item in endpoints} == {50051}
