"""Trains the speaker classifier that ships in ``models/speaker-id/1``, or, with ``--select``, chooses its settings.

Run it from the checkout's root, where ``requirements.txt`` beside this file is installed::

    python -m examples.speaker_id.train --select     # cross-validation on the training set: prints the table
    python -m examples.speaker_id.train              # trains, exports, evaluates on the test set
"""

# PyTorch is for training only and need not be there when the types are checked.
# mypy: disable-error-code="import-not-found, no-untyped-call"

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from examples.speaker_id.export import exported_weights, numpy_probabilities, write_model
from examples.speaker_id.network import Settings, probabilities, train_network
from examples.speaker_id.recordings import load_recordings
from examples.speaker_id.selection import count_runs, select_settings

HERE = Path(__file__).parent
MAX_ABS_DIFF = 1e-5
# What --select prints last.
CHOSEN = Settings(
    num_units=128,
    learning_rate=1e-2,
    frame_noise=0.6,
    offset_noise=0.4,
    loss="ramp",
    input_dropout=0.2,
)


def select(data: Path) -> None:
    """Prints the table of cross-validations and the settings that they choose."""
    recordings = load_recordings(data / "JapaneseVowels_TRAIN.ts")
    with _progress() as progress:
        bar = progress.add_task("cross-validating", total=count_runs())

        def show(row: str) -> None:
            print(row, flush=True)
            # Two rows are the table's heading.
            progress.update(bar, advance=0 if row.startswith(("| settings", "|---")) else 1)

        chosen = select_settings(recordings, show)
    print(f"\n{chosen}")


def train(data: Path, out: Path, reference: Path, seed: int, epochs: int | None) -> None:
    """Trains on all training utterances, writes the model, then PyTorch's own beliefs on the test set.

    Raises:
        SystemExit: the exported weights do not give what PyTorch gives.
    """
    settings = CHOSEN if epochs is None else replace(CHOSEN, epochs=epochs)
    with _progress() as progress:
        bar = progress.add_task("training", total=settings.epochs)
        recordings = load_recordings(data / "JapaneseVowels_TRAIN.ts")
        network = train_network(recordings, settings, seed, lambda: progress.advance(bar))
    weights = exported_weights(network)
    write_model(out, weights)

    test = load_recordings(data / "JapaneseVowels_TEST.ts")
    beliefs = probabilities(network, test.frames)
    lengths = np.array([len(belief) for belief in beliefs], dtype=np.int64)
    np.savez(reference, probabilities=np.concatenate(beliefs), lengths=lengths, speakers=test.speakers)
    for name, places in (("middle", (lengths - 1) // 2), ("last", lengths - 1)):
        answers = [belief[place].argmax() for belief, place in zip(beliefs, places, strict=True)]
        right = int(np.sum(answers == test.speakers))
        print(f"test accuracy after the {name} frame: {right / len(test):.4f} ({right} of {len(test)})")
    diff = max(
        float(np.abs(numpy_probabilities(weights, frames) - belief).max())
        for frames, belief in zip(test.frames, beliefs, strict=True)
    )
    print(f"largest difference of the exported weights, in numpy, from PyTorch: {diff:.1e}")
    if diff > MAX_ABS_DIFF:
        raise SystemExit(f"expected a difference of at most {MAX_ABS_DIFF}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.speaker_id.train", description=__doc__.split("\n")[0])
    parser.add_argument("--select", action="store_true", help="choose settings on the training set, write nothing")
    parser.add_argument(
        "--out", type=Path, default=Path("models/speaker-id/1"), help="folder of the model (%(default)s)"
    )
    parser.add_argument("--reference", type=Path, default=HERE / "reference.npz", help="file of PyTorch's beliefs")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of the recordings")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, noise and dropout (%(default)s)")
    parser.add_argument("--epochs", type=int, help=f"passes over the training set ({CHOSEN.epochs})")
    arguments = parser.parse_args()
    # One thread and no choice of algorithm: sums are then always taken in the same order.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if arguments.select:
        select(arguments.data)
    else:
        train(arguments.data, arguments.out, arguments.reference, arguments.seed, arguments.epochs)


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())


if __name__ == "__main__":
    main()
