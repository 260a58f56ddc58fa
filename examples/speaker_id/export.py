"""Writes a trained network as a model folder: ``cell.json`` and ``weights.safetensors``, TensorFlow's names and layout.

Beside it the same computation in numpy, one frame at a time, to check that the exported weights say what PyTorch says.
"""

# PyTorch is for training only and need not be there when the types are checked.
# mypy: disable-error-code="import-not-found, no-untyped-call"

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from examples.speaker_id.network import SpeakerNetwork
from examples.speaker_id.recordings import CHANNELS, SPEAKERS

DESCRIPTION = (
    "Says who of nine speakers pronounces the Japanese vowels /ae/: the belief after every frame of 12 coefficients."
)
# PyTorch stacks an LSTM's gates as i, f, g, o where TensorFlow 1 has i, j, f, o; g and j are both the candidate.
_TF1_FROM_TORCH = (0, 2, 1, 3)

Weights = dict[str, NDArray[np.float32]]


def exported_weights(network: SpeakerNetwork) -> Weights:
    """The network's weights, float32, under TensorFlow 1's names and in its layout.

    Returns:
        ``standardise/mean [12]``, ``standardise/scale [12]``, ``basic_lstm_cell/kernel [12 + units, 4 * units]`` (the
        rows of the inputs first), ``basic_lstm_cell/bias [4 * units]``, ``dense/kernel [units, 9]`` and
        ``dense/bias [9]``.
    """
    torch_weights = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    kernel = np.concatenate([torch_weights["lstm.weight_ih_l0"].T, torch_weights["lstm.weight_hh_l0"].T])
    # PyTorch adds two biases at every step; TensorFlow has one.
    bias = torch_weights["lstm.bias_ih_l0"] + torch_weights["lstm.bias_hh_l0"]
    weights = {
        "standardise/mean": torch_weights["mean"],
        "standardise/scale": torch_weights["scale"],
        "basic_lstm_cell/kernel": _tf1_gates(kernel),
        "basic_lstm_cell/bias": _tf1_gates(bias),
        "dense/kernel": torch_weights["dense.weight"].T,
        "dense/bias": torch_weights["dense.bias"],
    }
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}


def describe(num_units: int) -> dict[str, Any]:
    """The content of ``cell.json``. The forget gate's bias is whole in the weights, hence ``forget_bias`` 0."""
    float32 = "DATA_TYPE_FLOAT32"
    labels = [f"speaker {number}" for number in range(1, SPEAKERS + 1)]
    return {
        "format_version": 1,
        "description": DESCRIPTION,
        "model": {
            "data_type": float32,
            "inputs": [{"name": "frame", "data_type": float32, "shape": [str(CHANNELS)]}],
            "layers": [
                {"standardise": {}},
                {"cell": {"basic_lstm_cell": {"num_units": num_units, "forget_bias": 0.0}}},
                {"dense": {"units": SPEAKERS, "activation": "DENSE_ACTIVATION_SOFTMAX"}},
            ],
            "outputs": [{"name": "speaker", "data_type": float32, "shape": [str(SPEAKERS)], "labels": labels}],
        },
    }


def write_model(folder: Path, weights: Weights) -> None:
    """Writes ``cell.json`` and ``weights.safetensors`` into ``folder``, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    description = json.dumps(describe(len(weights["dense/kernel"])), indent=2)
    (folder / "cell.json").write_text(description + "\n", encoding="utf-8")
    (folder / "weights.safetensors").write_bytes(save(weights))


def numpy_probabilities(weights: Weights, frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the exported weights give for one utterance: ``[time, 12]`` to ``[time, 9]``, stepped frame by frame."""
    kernel, bias = weights["basic_lstm_cell/kernel"], weights["basic_lstm_cell/bias"]
    c = h = np.zeros(len(bias) // 4, dtype=np.float32)
    beliefs = []
    for frame in frames:
        x = (frame - weights["standardise/mean"]) / weights["standardise/scale"]
        i, j, f, o = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(j)
        h = _sigmoid(o) * np.tanh(c)
        logits = h @ weights["dense/kernel"] + weights["dense/bias"]
        exponentials = np.exp(logits - logits.max())
        beliefs.append(exponentials / exponentials.sum())
    return np.stack(beliefs)


def _tf1_gates(array: NDArray[np.float32]) -> NDArray[np.float32]:
    gates = np.split(array, 4, axis=-1)
    return np.concatenate([gates[place] for place in _TF1_FROM_TORCH], axis=-1)


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # By tanh, which cannot overflow.
    tanh: NDArray[np.float32] = np.tanh(np.float32(0.5) * x)
    return np.float32(0.5) * (tanh + np.float32(1.0))
