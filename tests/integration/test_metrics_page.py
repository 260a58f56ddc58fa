"""The metrics page of a server that has done all kinds of things: what is on it, and that it does not grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cellserve.errors import CellServeError
from cellserve_client import Server, connect, rnn
from cellserve_server.config import ServerConfig
from tests.certificates import Authority, with_tls
from tests.metrics_pages import DOCUMENT, Family, documented, read_page
from tests.servers import TEST_CONFIG, RunningApp

UNITS, DEPTH = 4, 3
# Of all ids of sessions here.
PREFIX = "very-own-"
LABELS = {
    *("model", "outcome", "kind", "phase", "reason", "how", "operation", "state", "limit", "store", "durability"),
    *("grpc_type", "grpc_service", "grpc_method", "grpc_code", "version", "python", "grpc", "numpy", "le"),
}
# A server without models of its own, and one model.
MAX_SERIES = 700
Start = Callable[[ServerConfig], RunningApp]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def page_server(start_server: Start, authority: Authority) -> RunningApp:
    """It speaks TLS, of which there are metrics too."""
    return start_server(with_tls(replace(TEST_CONFIG, http_port=0), authority.issue("server")))


def page_of(server: RunningApp) -> dict[str, Family]:
    return read_page(f"http://127.0.0.1:{server.app.http_port}/metrics")


def keep_busy(remote: Server, first: int) -> None:
    """Steps, sequences, sessions that come and go, sessionless calls and errors, under ids of their own."""
    cell = remote.cell(rnn.BasicLSTMCell(UNITS), seed=1, input_size=DEPTH)
    frame = np.zeros(DEPTH, np.float32)
    ids = [f"{PREFIX}{number}" for number in range(first, first + 100)]
    with remote.session_group(cell, ids=ids) as group:
        group.step(np.zeros((len(ids), DEPTH), np.float32))
        remote.session_info(ids[0])
    with remote.session(cell, session_id=f"{PREFIX}one-{first}") as session:
        session.step(frame)
        session.run(np.zeros((40, DEPTH), np.float32))
        session.reset()
        session.fork().close()
    cell.call(np.zeros((2, DEPTH), np.float32), cell.zero_state(2, np.float32))
    with pytest.raises(CellServeError):
        remote.session_info(f"{PREFIX}nobody-{first}")


def test_the_page_and_the_document_have_the_same_metrics(page_server: RunningApp, authority: Authority) -> None:
    with connect(page_server.address, tls=authority.trusted()) as remote:
        keep_busy(remote, 0)
        page = page_of(page_server)
    shown = {name: (family.kind, family.labels) for name, family in page.items()}
    assert shown == documented()


def test_the_documents_words_for_labels_are_those_of_the_server(page_server: RunningApp, authority: Authority) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    with connect(page_server.address, tls=authority.trusted()) as remote:
        keep_busy(remote, 0)
        page = page_of(page_server)
    for label in ("outcome", "kind", "phase", "how", "operation", "state", "limit"):
        for value in {
            value for family in page.values() for series in family.series if (value := series.labels.get(label))
        }:
            assert f"`{value}`" in text, f"{label}={value}"
    ended = {series.labels["reason"] for series in page["cellserve_sessions_ended_total"].series}
    assert all(f"`{reason}`" in text for reason in ended)


def test_labels_are_few_and_sessions_that_come_and_go_add_none(page_server: RunningApp, authority: Authority) -> None:
    with connect(page_server.address, tls=authority.trusted()) as remote:
        keep_busy(remote, 0)
        before = page_of(page_server)
        for round_ in range(1, 4):
            keep_busy(remote, 100 * round_)
        after = page_of(page_server)
    assert {name for family in after.values() for series in family.series for name in series.labels} <= LABELS
    values = {value for family in after.values() for series in family.series for value in series.labels.values()}
    assert not [value for value in values if PREFIX in value or "id-" in value]
    sizes = {name: len(family.series) for name, family in before.items()}
    assert {name: len(family.series) for name, family in after.items()} == sizes
    assert sum(sizes.values()) <= MAX_SERIES
    (created,) = after["cellserve_sessions_created_total"].series
    assert created.value == 4 * 102
