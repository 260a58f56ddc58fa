"""The page about limits says what the settings are."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from cellserve_server.config import OF_ONE, SHARED, ServerConfig

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
# Numbers that limit nothing that a caller can make grow.
NO_LIMITS = {
    "port",
    "http_port",
    "models_poll_s",
    "inline_tick_us",
    "at_once_us",
    "flush_interval_ms",
    "store_timeout_ms",
    "takeover_timeout_ms",
    "tombstone_ttl_s",
    "drain_timeout_s",
}
PARTS = {SHARED: "share", OF_ONE: "each", "": ""}


def test_the_page_has_every_limit_with_its_default_and_a_reason() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\w*) ?\| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = {name: (default, part) for name, default, part, reason in rows if reason}
    expected = {
        item.name: (str(item.default), PARTS[item.metadata["tenant"]])
        for item in fields(ServerConfig)
        if type(item.default) in (int, float) and item.name not in NO_LIMITS
    }
    assert found == expected
    assert len(rows) == len(found), "each once"
