"""The training script of the text model, and what PyTorch itself says about the weights that ship."""

# PyTorch is installed for these tests alone and need not be there when the types are checked.
# mypy: disable-error-code="import-not-found, no-untyped-call"

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellserve_client import connect
from cellserve_server.models.model_files import read_model
from tests.servers import server_process
from tests.tools import ROOT

pytestmark = pytest.mark.torch

REFERENCE = ROOT / "examples" / "text" / "reference.npz"
TOLERANCE = 1e-4


def test_the_script_trains_a_model_that_the_server_serves_as_pytorch_computes_it(tmp_path: Path) -> None:
    models, reference = tmp_path / "models", tmp_path / "reference.npz"
    command = [sys.executable, "-m", "examples.text.train", "--max-steps", "3"]
    command += ["--out", str(models / "tried" / "1"), "--reference", str(reference)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    expected = np.load(reference)
    with server_process(["--models", str(models)]) as process, connect(process.address) as server:
        with server.session("tried") as session:
            logits = session.run(expected["ids"])
        np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=TOLERANCE)


def test_pytorch_gives_the_shipped_reference_for_the_shipped_weights() -> None:
    import torch

    weights = read_model(ROOT / "models", "text", 1).weights
    table, reference = torch.from_numpy(weights["embedding/embeddings"].copy()), np.load(REFERENCE)
    with torch.no_grad():
        values = table[torch.from_numpy(reference["ids"].astype(np.int64))][None]
        for layer in range(2):
            scope = f"multi_rnn_cell/cell_{layer}/basic_lstm_cell"
            values = _lstm(weights[f"{scope}/kernel"], weights[f"{scope}/bias"], values.shape[-1])(values)[0]
        logits = values[0].numpy() @ weights["dense/kernel"] + weights["dense/bias"]
    np.testing.assert_allclose(logits, reference["logits"], rtol=0, atol=TOLERANCE)


def _lstm(kernel: np.ndarray, bias: np.ndarray, depth: int) -> Any:
    """PyTorch's layer with TensorFlow's weights."""
    import torch

    units = len(bias) // 4
    # TensorFlow's gates i, j, f, o in PyTorch's order i, f, g, o.
    order = np.concatenate([np.arange(units) + gate * units for gate in (0, 2, 1, 3)])
    lstm = torch.nn.LSTM(depth, units, batch_first=True)
    lstm.weight_ih_l0.copy_(torch.from_numpy(kernel[:depth, order].T.copy()))
    lstm.weight_hh_l0.copy_(torch.from_numpy(kernel[depth:, order].T.copy()))
    lstm.bias_ih_l0.copy_(torch.from_numpy(bias[order]))
    lstm.bias_hh_l0.zero_()
    return lstm
