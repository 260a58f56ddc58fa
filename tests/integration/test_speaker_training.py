"""The training script of speaker-id, and what PyTorch itself says about the weights that ship."""

# PyTorch is installed for these tests alone and need not be there when the types are checked.
# mypy: disable-error-code="import-not-found, no-untyped-call"

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cellserve_client import connect
from examples.speaker_id.recordings import CHANNELS, SPEAKERS, load_recordings
from tests.servers import server_process
from tests.tools import ROOT

pytestmark = pytest.mark.torch

EXAMPLE = ROOT / "examples" / "speaker_id"
TEST_SET = EXAMPLE / "data" / "JapaneseVowels_TEST.ts"
SHIPPED = ROOT / "models" / "speaker-id" / "1"
TOLERANCE = 1e-5


def test_the_script_trains_a_model_that_the_server_serves_as_pytorch_computes_it(tmp_path: Path) -> None:
    models, reference = tmp_path / "models", tmp_path / "reference.npz"
    command = [sys.executable, "-m", "examples.speaker_id.train", "--epochs", "2"]
    command += ["--out", str(models / "tried" / "1"), "--reference", str(reference)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    expected = np.load(reference)
    starts = np.cumsum(expected["lengths"]) - expected["lengths"]
    recordings = load_recordings(TEST_SET)
    with server_process(["--models", str(models)]) as process, connect(process.address) as server:
        for index in (0, 100, len(recordings) - 1):
            frames = recordings.frames[index]
            with server.session("tried") as session:
                beliefs = session.run(frames)
            assert beliefs is not None
            begin = starts[index]
            np.testing.assert_allclose(beliefs, expected["probabilities"][begin : begin + len(frames)], atol=TOLERANCE)


def test_pytorch_gives_the_shipped_reference_for_the_shipped_weights() -> None:
    import torch

    weights = load_file(SHIPPED / "weights.safetensors")
    kernel, bias = weights["basic_lstm_cell/kernel"], weights["basic_lstm_cell/bias"]
    units = len(bias) // 4
    # TensorFlow's gates i, j, f, o in PyTorch's order i, f, g, o.
    order = np.concatenate([np.arange(units) + gate * units for gate in (0, 2, 1, 3)])
    lstm, dense = torch.nn.LSTM(CHANNELS, units, batch_first=True), torch.nn.Linear(units, SPEAKERS)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.from_numpy(kernel[:CHANNELS, order].T.copy()))
        lstm.weight_hh_l0.copy_(torch.from_numpy(kernel[CHANNELS:, order].T.copy()))
        lstm.bias_ih_l0.copy_(torch.from_numpy(bias[order]))
        lstm.bias_hh_l0.zero_()
        dense.weight.copy_(torch.from_numpy(weights["dense/kernel"].T.copy()))
        dense.bias.copy_(torch.from_numpy(weights["dense/bias"]))
        beliefs = []
        for frames in load_recordings(TEST_SET).frames:
            standardised = (frames - weights["standardise/mean"]) / weights["standardise/scale"]
            outputs, _ = lstm(torch.from_numpy(standardised)[None])
            beliefs.append(torch.softmax(dense(outputs), dim=-1)[0].numpy())
    reference = np.load(EXAMPLE / "reference.npz")
    np.testing.assert_allclose(np.concatenate(beliefs), reference["probabilities"], atol=TOLERANCE)
