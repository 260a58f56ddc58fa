"""Whether the models of the folder can be served."""

from __future__ import annotations

import time
from pathlib import Path

from cellserve_server.config import ServerConfig
from cellserve_server.doctor.findings import Finding, State, heard
from cellserve_server.models.loaded_model import BrokenModel
from cellserve_server.models.model_folder import ModelFolder

AREA = "models"


def check_models(config: ServerConfig) -> list[Finding]:
    """Loads every version of every model, as a server does at its start."""
    folder = ModelFolder(Path(config.models), time.time, lambda _: None)
    with heard(AREA) as said:
        try:
            folder.load_all()
        except OSError as error:
            what = f"--models: cannot read the folder {config.models}: {error.strerror}"
            return [Finding(AREA, State.WRONG, what, "give a folder that this user may read")]
    found = []
    for entry in folder:
        if isinstance(entry, BrokenModel):
            found.append(Finding(AREA, State.WRONG, f"{entry.name}/{entry.version}: {entry.error}"))
        else:
            sizes = f"{entry.parameter_count:,} parameters, {entry.state_bytes_per_row:,} bytes of state a row"
            found.append(Finding(AREA, State.OK, f"{entry.name}/{entry.version}: {sizes}"))
    said = [finding for finding in said if finding.state is State.WARNING]  # What is broken is told above.
    return [*found, *said] or [Finding(AREA, State.OK, f"{config.models} has none: clients define theirs")]
