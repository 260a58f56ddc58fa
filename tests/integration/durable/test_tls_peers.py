"""Replicas that ask each other for sessions over TLS, and show each other their certificates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import generate_latest

from tests.certificates import Authority, with_tls
from tests.integration.durable.replicas import SYNC, Replicas, output_of, step, uninterrupted
from tests.servers import RunningApp


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def claims(server: RunningApp) -> dict[str, float]:
    """How often a replica took sessions from the store, by how."""
    lines = generate_latest(server.app.metrics.registry).decode().splitlines()
    found = (line.split() for line in lines if line.startswith("cellserve_sessions_claimed_total{"))
    return {name.partition('"')[2].partition('"')[0]: float(value) for name, value in found}


@pytest.mark.parametrize("open_store", ["memory"], indirect=True)
def test_a_session_is_let_go_by_its_owner_and_goes_on_at_another(replicas: Replicas, authority: Authority) -> None:
    pairs = [authority.issue(f"replica-{number}") for number in range(2)]
    first, second = (replicas.start(with_tls(SYNC, pair, authority), credentials=seen(authority)) for pair in pairs)
    replicas.create(first)
    expected = uninterrupted(replicas, first, 2)
    for number, server in enumerate((first, second)):
        np.testing.assert_allclose(output_of(step(server, number)), expected[number], atol=1e-5)
    assert claims(second) == {"free": 0, "released": 1, "fenced": 0}


@pytest.mark.parametrize("open_store", ["memory"], indirect=True)
def test_replicas_connect_with_the_files_of_now(replicas: Replicas, authority: Authority, tmp_path: Path) -> None:
    pairs = [authority.issue(f"replica-{number}") for number in range(2)]
    configs = [with_tls(SYNC, pair, authority) for pair in pairs]
    first, second = (replicas.start(config, credentials=seen(authority)) for config in configs)
    replicas.create(first)
    step(second, 0)
    # All move to another authority, and the first one is started anew: what trusts the old one cannot reach it.
    successor = Authority(tmp_path / "successor")
    for pair in pairs:
        pair.replace_with(successor.issue("successor"))
    authority.file.write_bytes(successor.file.read_bytes())
    first.loop.run(first.app.stop())
    again = replicas.start(replace(configs[0], port=first.app.port), credentials=seen(successor))
    replicas.create(again, "t")
    step(second, 0, "t")
    assert claims(second) == {"free": 0, "released": 2, "fenced": 0}


def seen(authority: Authority) -> grpc.ChannelCredentials:
    """How a test's stubs see servers of an authority."""
    return authority.trusted(authority.issue("test")).credentials()


@pytest.mark.parametrize("open_store", ["memory"], indirect=True)
@pytest.mark.parametrize(("name", "how"), [("cells.example", "released"), ("other.example", "fenced")])
def test_the_name_that_other_replicas_certificates_are_for(
    replicas: Replicas, authority: Authority, name: str, how: str
) -> None:
    pair = authority.issue("replica", "127.0.0.1", "cells.example")
    config = replace(with_tls(SYNC, pair, authority), tls_server_name=name)
    first, second = (replicas.start(config, credentials=seen(authority)) for _ in range(2))
    replicas.create(first)
    step(second, 0)
    assert claims(second)[how] == 1
