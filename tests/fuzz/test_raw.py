"""Broken and ill-willed clients at the ports of a server process. For longer: ``make fuzz``."""

from __future__ import annotations

import pytest

from tests.fuzz import http2_attacks, http_attacks, raw
from tests.fuzz.reports import Report
from tests.fuzz.victim import victim


@pytest.mark.slow
def test_bytes_that_are_no_protocol_harm_nobody() -> None:
    report = Report("a few")
    with victim() as target:
        few = (http2_attacks.random_bytes, http2_attacks.random_frames, http2_attacks.bad_frame_sizes)
        raw.attack(target, target.port, few, report, seed=3)
        raw.attack(target, target.page_port, (http_attacks.random_bytes, http_attacks.odd_requests), report, seed=3)
        target.complete(report)
    assert report.passed, report.line()
