"""What the tests of the contract share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools import STUB_PYTHON


@pytest.fixture
def stub_python() -> Path:
    """The Python that has grpcio, protobuf and the stub generator, and nothing of ours."""
    assert STUB_PYTHON.exists(), "the stub generator is not installed: run `make test-all`, or `make proto` once"
    return STUB_PYTHON
