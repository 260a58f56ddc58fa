"""Programs that some tests need and that not every machine has."""

from __future__ import annotations

import os

import pytest

from deploy.fleet.errors import MissingProgramError
from deploy.fleet.programs import find_program

REQUIRE_ALL = "CELLSERVE_REQUIRE_ALL"


def require_program(name: str) -> str:
    """The path of a program. Without it the test is skipped, or fails where ``CELLSERVE_REQUIRE_ALL`` is set."""
    try:
        return find_program(name)
    except MissingProgramError as error:
        if os.environ.get(REQUIRE_ALL):
            pytest.fail(f"{error} ({REQUIRE_ALL} is set)")
        pytest.skip(str(error))
