"""Writes a trained network as a model folder, by way of the importer of PyTorch's state dicts.

What a state dict does not say is added here: what the input is called, and which characters the ids stand for.
"""

# PyTorch is for training only and need not be there when the types are checked.
# mypy: disable-error-code="import-not-found, no-untyped-call"

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from cellserve_server.importers import ImportedModel, Settings, pytorch
from cellserve_server.models.model_files import write_model
from examples.text.network import TextNetwork

DESCRIPTION = "Writes like Jane Austen's Emma: takes a character's id and gives the logits of the next character."


def imported_model(network: TextNetwork, vocabulary: Sequence[str]) -> ImportedModel:
    """The network as the server computes it: weights under TensorFlow's names and in its layout.

    Args:
        network: the trained network.
        vocabulary: the character of each id; they become the labels of the logits.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "text.safetensors"
        save_file(network.state_dict(), source)
        imported = pytorch.read(source, Settings({}))
    description = imported.description
    (inputs,), (outputs,) = description.inputs, description.outputs
    named = replace(
        description,
        inputs=(replace(inputs, name="character"),),
        outputs=(replace(outputs, name="logits", labels=tuple(vocabulary)),),
    )
    return replace(imported, description=named)


def write(folder: Path, imported: ImportedModel) -> None:
    """Writes ``cell.json`` and ``weights.safetensors`` into ``folder``, which is made and has to be empty."""
    assumptions = [
        {"option": note.option, "value": note.value, "because": note.because} for note in imported.assumptions
    ]
    origin = {"framework": imported.framework, "source": "examples/text/train.py", "assumptions": assumptions}
    write_model(folder, DESCRIPTION, imported.description, imported.weights, origin)
