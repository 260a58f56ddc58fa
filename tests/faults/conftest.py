"""Fixtures of the faults."""

from __future__ import annotations

import pytest

from tests.programs import require_program


@pytest.fixture
def redis_program() -> str:
    """The path of redis-server; the test is skipped without it, or fails where everything has to be there."""
    return require_program("redis-server")


@pytest.fixture
def nginx_program() -> str:
    """The same of nginx."""
    return require_program("nginx")
