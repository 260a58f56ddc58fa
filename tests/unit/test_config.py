"""The server's settings: the bounds of each."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from cellserve_server.config import ServerConfig

BEYOND = [
    ("port", 65_536, "at most 65535"),
    ("http_port", 65_536, "at most 65535"),
    ("http_port", -2, "at least -1"),
    ("max_message_bytes", (1 << 30) + 1, "at most 1073741824"),
    ("max_ttl_s", 3651 * 86_400.0, "at most 315360000.0"),
    ("default_ttl_s", 8 * 86_400.0, "at most max_ttl_s, 604800.0"),
    ("drain_timeout_s", 1e300, "at most 86400.0"),
    ("define_idle_timeout_s", 0.0, "at least 0.001"),
]


@pytest.mark.parametrize(("setting", "value", "words"), BEYOND)
def test_a_value_beyond_its_bounds(setting: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{setting}: expected {words}; got "):
        replace(ServerConfig(), **{setting: value})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls_cert": "a.pem"}, "^tls_key: expected a file, since tls_cert is given"),
        ({"tls_key": "a.key"}, "^tls_cert: expected a file, since tls_key is given"),
        ({"tls_client_ca": "ca.pem"}, "^tls_client_ca: expected tls_cert and tls_key with it"),
    ],
)
def test_the_files_of_tls_go_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(ServerConfig(), **settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("setting", [item.name for item in fields(ServerConfig) if isinstance(item.default, float)])
def test_no_number_of_seconds_is_endless(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{setting}: expected a finite number; got "):
        replace(ServerConfig(), **{setting: value})  # type: ignore[arg-type]
