"""The charts of load tests' pages and those of the inspector are drawn by the same library."""

from __future__ import annotations

import pytest

from tests.tools import ROOT


@pytest.mark.parametrize(
    ("in_client", "in_server"),
    [
        ("uPlot.iife.min.js", "uPlot.iife.min.js"),
        ("uPlot.min.css", "uPlot.min.css"),
        ("uPlot.LICENSE", "uPlot.LICENSE.txt"),
    ],
)
def test_both_copies_are_the_same(in_client: str, in_server: str) -> None:
    """Client and server are installed without each other, so that each has its own."""
    client = ROOT / "client" / "cellserve_client" / "load" / "page" / in_client
    server = ROOT / "server" / "cellserve_server" / "inspector" / "static" / in_server
    assert client.read_bytes() == server.read_bytes()
