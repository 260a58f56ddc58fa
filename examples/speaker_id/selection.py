"""Chooses the hyperparameters by cross-validation on the training utterances; the test set plays no part.

The search starts from plain settings and goes through ``AXES`` in their order, changing one thing at a time; the best
alternative of an axis is kept if it betters the score.

The folds are blocks: within each speaker's 30 utterances, which stand in the order of recording, fold n is the n-th
block of six. Neighbours, recorded one after the other, are nearly alike, and random folds would have one of them in
the training part whenever the other is held out.

The score is for a belief that is read while the utterance goes on: the mean negative log-probability of the true
speaker, taken at the middle and at the last frame of every held-out utterance, averaged over both, the folds and the
seeds. Less is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.speaker_id.network import Settings, probabilities, train_network
from examples.speaker_id.recordings import SPEAKERS, Recordings

FOLDS = 5
SEEDS = (0, 1)
AXES: tuple[tuple[dict[str, Any], ...], ...] = (
    (
        {"frame_noise": 0.3, "offset_noise": 0.2},
        {"frame_noise": 0.6, "offset_noise": 0.4},
        {"frame_noise": 0.9, "offset_noise": 0.6},
    ),
    ({"loss": "ramp"}, {"loss": "last"}),
    ({"label_smoothing": 0.05},),
    ({"input_dropout": 0.2},),
    ({"output_dropout": 0.3},),
    ({"crop": 0.2},),
    ({"weight_decay": 0.1},),
    ({"learning_rate": 2.5e-3}, {"learning_rate": 1e-2}),
    ({"num_units": 96}, {"num_units": 128}),
    ({"epochs": 160},),
)


@dataclass(frozen=True)
class Score:
    """How settings did on the held-out utterances, ``middle`` and ``last`` being the frame that was asked.

    Attributes:
        accuracy_middle, accuracy_last: share of utterances whose likeliest speaker is the right one.
        loss_middle, loss_last: mean negative log-probability of the right speaker, in nats.
    """

    accuracy_middle: float
    accuracy_last: float
    loss_middle: float
    loss_last: float

    @property
    def total(self) -> float:
        """What is minimised."""
        return (self.loss_middle + self.loss_last) / 2


def count_runs() -> int:
    """The number of cross-validations that ``select_settings`` does."""
    return 1 + sum(len(axis) for axis in AXES)


def select_settings(recordings: Recordings, on_run: Callable[[str], None]) -> Settings:
    """Searches; calls ``on_run`` with a row of a Markdown table for the heading and for every cross-validation."""
    on_run("| settings | accuracy, middle | accuracy, last | loss, middle | loss, last | score | best so far |")
    on_run("|---|---|---|---|---|---|---|")
    best = Settings()
    best_score = cross_validate(recordings, best)
    on_run(_row("start", best_score, best=True))
    for axis in AXES:
        base = best
        for change in axis:
            settings = replace(base, **change)
            score = cross_validate(recordings, settings)
            better = score.total < best_score.total
            if better:
                best, best_score = settings, score
            on_run(_row(", ".join(f"{name} {value}" for name, value in change.items()), score, best=better))
    return best


def cross_validate(recordings: Recordings, settings: Settings) -> Score:
    """Trains once for every fold and seed on the other folds, and asks about the held-out one."""
    folds = _folds(recordings)
    middle: list[NDArray[np.float32]] = []
    last: list[NDArray[np.float32]] = []
    speakers: list[int] = []
    for seed in SEEDS:
        for fold in range(FOLDS):
            network = train_network(_subset(recordings, folds != fold), settings, seed)
            held_out = _subset(recordings, folds == fold)
            beliefs = probabilities(network, held_out.frames)
            middle += [belief[(len(belief) - 1) // 2] for belief in beliefs]
            last += [belief[-1] for belief in beliefs]
            speakers += held_out.speakers.tolist()
    accuracy_middle, loss_middle = _accuracy_and_loss(np.stack(middle), speakers)
    accuracy_last, loss_last = _accuracy_and_loss(np.stack(last), speakers)
    return Score(accuracy_middle, accuracy_last, loss_middle, loss_last)


def _folds(recordings: Recordings) -> NDArray[np.int64]:
    """The fold of every utterance, ``[utterances]``: blocks in the order of the file, within each speaker."""
    folds = np.empty(len(recordings), dtype=np.int64)
    for speaker in range(SPEAKERS):
        places = np.flatnonzero(recordings.speakers == speaker)
        folds[places] = np.arange(len(places)) * FOLDS // len(places)
    return folds


def _subset(recordings: Recordings, chosen: NDArray[np.bool_]) -> Recordings:
    frames = [frames for frames, wanted in zip(recordings.frames, chosen, strict=True) if wanted]
    return Recordings(frames, recordings.speakers[chosen])


def _accuracy_and_loss(beliefs: NDArray[np.float32], speakers: list[int]) -> tuple[float, float]:
    """For beliefs ``[utterances, 9]`` in the speakers who really spoke."""
    true = beliefs[np.arange(len(speakers)), speakers].astype(np.float64)
    right = beliefs.argmax(axis=1) == speakers
    return float(right.mean()), float(-np.log(np.maximum(true, np.finfo(np.float32).tiny)).mean())


def _row(name: str, score: Score, best: bool) -> str:
    figures = (
        f"{score.accuracy_middle:.1%} | {score.accuracy_last:.1%} | {score.loss_middle:.3f} | {score.loss_last:.3f}"
    )
    return f"| {name} | {figures} | {score.total:.3f} | {'yes' if best else ''} |"
