"""Fixtures of the tests of identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.identities import TokenBook


@pytest.fixture
def book(tmp_path: Path) -> TokenBook:
    """A file of tokens, empty yet."""
    return TokenBook.at(tmp_path / "tokens")
