"""Files and records that something has happened to. For longer: ``make fuzz``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cellserve.errors import ModelBrokenError
from cellserve_server.binding import StartError
from cellserve_server.models.model_files import CELL_FILE, read_model
from cellserve_server.security.certificates import read_certificates
from tests.fuzz import files
from tests.servers import TEST_CONFIG
from tests.unit.model_samples import put

CORPUS = Path(__file__).parent / "corpus"
SEEDS = 40


@pytest.mark.parametrize("name", files.TARGETS)
def test_damage_is_told_or_does_no_harm(name: str) -> None:
    wrong = [files.attempt(name, seed)[0] for seed in range(SEEDS)]
    assert [each for each in wrong if each] == []


def test_an_infinity_where_a_whole_number_is_due(tmp_path: Path) -> None:
    path = put(tmp_path, "m", 1) / CELL_FILE
    document = json.loads(path.read_text())
    document["model"]["inputs"][0]["shape"] = [float("inf")]
    path.write_text(json.dumps(document))
    with pytest.raises(ModelBrokenError, match="model"):
        read_model(tmp_path, "m", 1)


@pytest.mark.parametrize("path", sorted((CORPUS / "certificates").iterdir()), ids=lambda path: path.stem)
def test_certificates_that_were_not_found_out(path: Path) -> None:
    config = replace(TEST_CONFIG, tls_cert=str(path), tls_key=str(path))
    with pytest.raises(StartError, match=f"--tls-cert: expected a certificate; that in .*{path.name} is damaged"):
        read_certificates(config)
