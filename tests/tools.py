"""Where things are, for tests that run programs of the repository or look at its files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUB_PYTHON = ROOT / ".venv-stubs" / "bin" / "python"
