"""What the tests of the repository of models share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellserve_server.config import ServerConfig
from cellserve_server.models.repository import ModelRepository
from tests.clocks import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Stands still until it is moved."""
    return ManualClock()


@pytest.fixture
def models_root(tmp_path: Path) -> Path:
    """A folder of models that does not exist yet."""
    return tmp_path / "models"


@pytest.fixture
def models(models_root: Path, clock: ManualClock) -> ModelRepository:
    """A repository on that folder, nothing loaded."""
    return ModelRepository(models_root, ServerConfig(), clock)
