"""Settings that cannot be: a word that names the flag, and never a traceback."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from cellserve_server import cli
from cellserve_server.app import App
from cellserve_server.binding import StartError
from cellserve_server.config import ServerConfig
from tests.servers import TEST_CONFIG

NO_NUMBERS = (
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "1e999",
    "0x10",
    "\uff11\uff12",
    "9" * 5000,
    "\0",
    "a" * 5000,
    "None",
    "1_0",
    "\ud800",
)
NO_ADDRESSES = (
    "é" * 100,
    "a" * 300,
    "999.999.999.999",
    "::zz",
    "[::1]",
    "localhost:80",
    "\0",
    "\ud800",
    "../..",
    "%00",
)
NO_STORES = (
    " ", "sqlite:", "sqlite:/", "sqlite:/nope/x", "redis://", "redis://[", "redis://127.0.0.1:99999999/0", "foo:bar",
    "redis://127.0.0.1:x/0", "redis://127.0.0.1:1/xyz", "redis://:p@\0", "memory:x", "rediss://127.0.0.1:1?ssl_cert_reqs=z",
    "redis://127.0.0.1:1?timeout=zz", "redis://127.0.0.1:1?foo=bar",
)  # fmt: skip


@pytest.mark.parametrize("field", fields(ServerConfig), ids=lambda field: field.name)
def test_no_flag_takes_what_it_cannot_be(field: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flag = "--" + field.name.replace("_", "-")
    # The folder of models is looked at last: what is wrong with the others is told, or else that it is not there.
    models = ["--models", str(tmp_path / "nope")] if field.name != "models" else []
    switch = isinstance(field.default, bool)
    for value in NO_NUMBERS if field.name != "models" else ["\0", "\ud800", "a" * 5000, str(tmp_path / "nope")]:
        assert cli.serve([f"{flag}={value}" if switch else flag, *([] if switch else [value]), *models]) == 2
        assert capsys.readouterr().err.startswith("cellserve serve: ")


def start_error(config: ServerConfig) -> str:
    async def start() -> None:
        async with App(config):
            pass

    with pytest.raises(StartError) as caught:
        asyncio.run(start())
    return str(caught.value)


@pytest.mark.parametrize("host", NO_ADDRESSES, ids=lambda host: ascii(host[:20]))
def test_hosts_that_are_none(host: str) -> None:
    assert "--port: cannot listen on" in start_error(replace(TEST_CONFIG, host=host, insecure=True))
    assert "--http-port" in start_error(replace(TEST_CONFIG, http_host=host, http_port=0, insecure=True))


@pytest.mark.parametrize("url", NO_STORES, ids=lambda url: ascii(url[:30]))
def test_stores_that_are_none(url: str) -> None:
    assert "--store" in start_error(replace(TEST_CONFIG, store=url, store_timeout_ms=50))


@pytest.mark.parametrize(
    "address", [" ", "host", "host:", ":1", "h:999999", "h:-1", "h:1:2", "http://x:1", "[::1]", "a b:1"]
)
def test_advertised_addresses_that_are_none(address: str) -> None:
    assert start_error(replace(TEST_CONFIG, advertise=address)).startswith("--advertise: expected HOST:PORT")
