"""By which address other replicas know a server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cellserve_server.binding import StartError, advertised_address
from tests.servers import TEST_CONFIG


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"host": "10.0.0.1"}, "10.0.0.1:5"),
        ({"host": "::1"}, "[::1]:5"),
        ({"host": "0.0.0.0", "advertise": "a:50051"}, "a:50051"),
        ({"host": "0.0.0.0", "store": "sqlite:x.db"}, "127.0.0.1:5"),
        ({"host": "::"}, "127.0.0.1:5"),
        ({"host": "10.0.0.1", "store": "redis://r:6379/0"}, "10.0.0.1:5"),
    ],
)
def test_the_address_that_others_know(settings: dict[str, str], expected: str) -> None:
    assert advertised_address(replace(TEST_CONFIG, **settings), 5) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_all_addresses_are_none(host: str, scheme: str) -> None:
    with pytest.raises(StartError, match="--advertise: expected HOST:PORT"):
        advertised_address(replace(TEST_CONFIG, host=host, store=f"{scheme}://r:6379/0"), 5)
