"""Trains the writer of text that ships in ``models/text/1``, or, with ``--select``, compares settings.

Run it from the checkout's root, where ``requirements.txt`` beside this file and the server are installed::

    python -m examples.text.train --select     # measures each candidate on the validation part: prints the table
    python -m examples.text.train              # trains, exports, evaluates on the test part
"""

# PyTorch is for training only and need not be there when the types are checked.
# mypy: disable-error-code="import-not-found, no-untyped-call"

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cellserve_server.cells import build_network
from cellserve_server.importers import ImportedModel
from cellserve_server.models.model_files import CELL_FILE, WEIGHTS_FILE
from examples.text.export import imported_model, write
from examples.text.network import Settings, TextNetwork, bits_per_character, logits_of, train_network
from examples.text.text import Novel, load_novel

HERE = Path(__file__).parent
MAX_ABS_DIFF = 1e-4
# Of the test part, so many characters with PyTorch's logits are kept for the tests of the server.
REFERENCE_CHARACTERS = 512
# Trained shortly and compared on the validation part. What is best there is trained longer.
SELECTION_EPOCHS = 2
CANDIDATES = (
    Settings(rows=32, learning_rate=4e-3),
    Settings(rows=32, learning_rate=8e-3),
    Settings(rows=16, learning_rate=8e-3),
)
CHOSEN = Settings(rows=16, learning_rate=8e-3)


def select(novel: Novel, seed: int) -> None:
    """Prints the table of candidates, each trained for a few epochs and measured on the validation part."""
    print(f"| rows | learning rate | bits a character, validation, after {SELECTION_EPOCHS} epochs |\n|---|---|---|")
    held_out = novel.ids(novel.validation)
    for candidate in CANDIDATES:
        settings = replace(candidate, epochs=SELECTION_EPOCHS)
        network = train_network(novel.ids(novel.train), len(novel.vocabulary), settings, seed)
        bits = bits_per_character(logits_of(network, held_out), held_out)
        print(f"| {settings.rows} | {settings.learning_rate} | {bits:.3f} |", flush=True)


def train(novel: Novel, settings: Settings, seed: int, max_steps: int | None) -> TextNetwork:
    """Trains on the training part, telling after each epoch what the validation part says."""
    held_out = novel.ids(novel.validation)

    def tell(epoch: int, network: TextNetwork) -> None:
        bits = bits_per_character(logits_of(network, held_out), held_out)
        print(f"epoch {epoch} of {settings.epochs}: {bits:.3f} bits a character on the validation part", flush=True)

    return train_network(novel.ids(novel.train), len(novel.vocabulary), settings, seed, tell, max_steps)


def finish(network: TextNetwork, novel: Novel, out: Path, reference: Path) -> None:
    """Writes the model and PyTorch's own logits on the first of the test part; prints what the test part says.

    Raises:
        SystemExit: the exported weights do not give what PyTorch gives.
    """
    ids = novel.ids(novel.test)
    logits = logits_of(network, ids)
    imported = imported_model(network, novel.vocabulary)
    # A model that was there makes place; a folder with anything else in it is refused.
    for file in (CELL_FILE, WEIGHTS_FILE):
        (out / file).unlink(missing_ok=True)
    write(out, imported)
    kept = slice(REFERENCE_CHARACTERS)
    np.savez(reference, ids=ids[kept], logits=logits[kept])
    print(f"test: {bits_per_character(logits, ids):.3f} bits a character, {len(ids)} characters")
    diff = float(np.abs(served_logits(imported, ids) - logits).max())
    print(f"largest difference of the served logits from PyTorch's: {diff:.1e}; the largest logit: {logits.max():.1f}")
    if diff > MAX_ABS_DIFF:
        raise SystemExit(f"expected a difference of at most {MAX_ABS_DIFF}")


def served_logits(imported: ImportedModel, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """What the server's arithmetic gives, id by id: ``[time]`` to ``[time, vocabulary]``."""
    network = build_network(imported.description, imported.weights)
    leaves = [np.zeros((1, size), np.float32) for size in network.leaf_sizes]
    logits = []
    for id_ in ids:
        (row,), leaves = network.step([id_[None]], leaves)
        logits.append(row[0])
    return np.stack(logits)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.text.train", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--select", action="store_true", help="compare candidates on the validation part, write nothing"
    )
    parser.add_argument("--out", type=Path, default=Path("models/text/1"), help="folder of the model (%(default)s)")
    parser.add_argument("--reference", type=Path, default=HERE / "reference.npz", help="file of PyTorch's logits")
    parser.add_argument("--data", type=Path, default=HERE / "data" / "emma.txt", help="the novel")
    parser.add_argument("--seed", type=int, default=0, help="of weights, pieces and dropout (%(default)s)")
    parser.add_argument("--epochs", type=int, default=CHOSEN.epochs, help="passes over the training part (%(default)s)")
    parser.add_argument("--max-steps", type=int, help="stop after so many gradient steps: to try the script out")
    arguments = parser.parse_args()
    # One thread and no choice of algorithm: sums are then always taken in the same order.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    novel = load_novel(arguments.data)
    if arguments.select:
        select(novel, arguments.seed)
        return
    settings = replace(CHOSEN, epochs=arguments.epochs)
    network = train(novel, settings, arguments.seed, arguments.max_steps)
    finish(network, novel, arguments.out, arguments.reference)


if __name__ == "__main__":
    main()
