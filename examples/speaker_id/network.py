"""The speaker classifier as a PyTorch module, and how it is trained.

A frame of 12 coefficients is standardised and goes through one LSTM layer and a dense softmax over 9 speakers. The
softmax is applied at every frame, so the network can be stepped: its output after a frame is its belief so far, and
its answer for an utterance is its belief after the last frame.
"""

# PyTorch is for training only and need not be there when the types are checked.
# mypy: disable-error-code="import-not-found, misc, no-any-return, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from examples.speaker_id.recordings import CHANNELS, SPEAKERS, Recordings

LOSSES = ("all", "ramp", "last")
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Settings:
    """What cross-validation chooses between.

    Attributes:
        num_units: width of the LSTM layer.
        epochs: passes over the training utterances; the learning rate falls to 0 along half a cosine.
        batch_size: utterances in a gradient step.
        learning_rate: AdamW's, at the start.
        weight_decay: AdamW's, on the matrices; the biases have none.
        frame_noise: standard deviation of noise drawn for every coefficient of every frame, in standardised units.
        offset_noise: standard deviation of noise drawn once an utterance and added to all its frames, in standardised
            units: this is how another microphone or another day moves such coefficients.
        loss: where in an utterance the cross-entropy counts: at ``all`` frames alike, in proportion to the place of
            the frame (``ramp``), or at the ``last`` frame only.
        label_smoothing: share of the target that is spread evenly over all speakers.
        input_dropout: share of a frame's coefficients that are set to the mean while training.
        output_dropout: share of the LSTM's outputs that are set to 0 before the dense layer while training.
        crop: largest share of an utterance left out at its start and, drawn separately, at its end while training.
    """

    num_units: int = 64
    epochs: int = 80
    batch_size: int = 30
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    frame_noise: float = 0.0
    offset_noise: float = 0.0
    loss: str = "all"
    label_smoothing: float = 0.0
    input_dropout: float = 0.0
    output_dropout: float = 0.0
    crop: float = 0.0


class SpeakerNetwork(nn.Module):
    """Frames ``[batch, time, 12]`` float32 to logits ``[batch, time, 9]``.

    Args:
        settings: the width and the shares of dropout.
        mean: ``[12]``, of the training frames.
        scale: ``[12]``, their standard deviation; the LSTM sees ``(frame - mean) / scale``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, settings: Settings, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.input_dropout = nn.Dropout(settings.input_dropout)
        self.lstm = nn.LSTM(CHANNELS, settings.num_units, batch_first=True)
        self.output_dropout = nn.Dropout(settings.output_dropout)
        self.dense = nn.Linear(settings.num_units, SPEAKERS)
        with torch.no_grad():
            # A forget gate that starts open remembers the early frames; its rows are the second quarter.
            self.get_parameter("lstm.bias_ih_l0")[settings.num_units : 2 * settings.num_units] += 1.0

    def standardise(self, frames: Tensor) -> Tensor:
        """``(frames - mean) / scale``; the shape stays."""
        return (frames - self.mean) / self.scale

    def logits(self, standardised: Tensor) -> Tensor:
        """Standardised frames ``[batch, time, 12]`` to logits ``[batch, time, 9]``."""
        outputs, _ = self.lstm(self.input_dropout(standardised))
        return self.dense(self.output_dropout(outputs))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``[batch, time, 12]`` to logits ``[batch, time, 9]``."""
        return self.logits(self.standardise(frames))


def train_network(
    recordings: Recordings, settings: Settings, seed: int, on_epoch: Callable[[], None] = lambda: None
) -> SpeakerNetwork:
    """Trains one network on all of ``recordings``. The same arguments give the same weights on the same machine.

    Args:
        recordings: what to learn from; mean and scale are taken from these frames alone.
        settings: the hyperparameters.
        seed: of the initial weights, the order of the utterances, the noise and the dropout.
        on_epoch: called after every pass.

    Returns:
        The network, in evaluation mode.
    """
    torch.manual_seed(seed)
    network = SpeakerNetwork(settings, *_mean_and_scale(recordings))
    utterances = [network.standardise(torch.from_numpy(frames)) for frames in recordings.frames]
    speakers = torch.from_numpy(recordings.speakers)
    optimiser = torch.optim.AdamW(_parameter_groups(network, settings), lr=settings.learning_rate)
    steps = settings.epochs * -(-len(utterances) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    network.train()
    for _ in range(settings.epochs):
        for chosen in torch.randperm(len(utterances)).split(settings.batch_size):
            batch, lengths = _disturb([utterances[i] for i in chosen.tolist()], settings)
            loss = _loss(network.logits(batch), lengths, speakers[chosen], settings)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
            optimiser.step()
            schedule.step()
        on_epoch()
    return network.eval()


def probabilities(network: SpeakerNetwork, frames: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """The network's belief after every frame: ``[time, 12]`` to ``[time, 9]``, both float32, for each utterance.

    Every utterance goes through by itself, so that no result depends on what else was in a batch.
    """
    with torch.no_grad():
        return [torch.softmax(network(torch.from_numpy(one)[None]), dim=-1)[0].numpy() for one in frames]


def _mean_and_scale(recordings: Recordings) -> tuple[Tensor, Tensor]:
    every_frame = np.concatenate(recordings.frames).astype(np.float64)
    mean, scale = every_frame.mean(axis=0), every_frame.std(axis=0)
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scale.astype(np.float32))


def _parameter_groups(network: SpeakerNetwork, settings: Settings) -> list[dict[str, object]]:
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    biases = [parameter for parameter in network.parameters() if parameter.dim() == 1]
    return [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]


def _disturb(utterances: list[Tensor], settings: Settings) -> tuple[Tensor, Tensor]:
    """Crops and adds noise: ``[time, 12]`` each to ``[batch, longest, 12]``, zeros at the end, and their lengths."""
    changed = []
    for frames in utterances:
        start, end = (torch.rand(2) * settings.crop * len(frames)).long().tolist()
        kept = frames[start : len(frames) - end]
        offset = settings.offset_noise * torch.randn(1, CHANNELS)
        changed.append(kept + offset + settings.frame_noise * torch.randn_like(kept))
    return pad_sequence(changed, batch_first=True), torch.tensor([len(frames) for frames in changed])


def _loss(logits: Tensor, lengths: Tensor, speakers: Tensor, settings: Settings) -> Tensor:
    """The mean cross-entropy over the frames that count; ``logits [batch, time, 9]``, the others ``[batch]``."""
    batch, time, _ = logits.shape
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1),
        speakers.repeat_interleave(time),
        reduction="none",
        label_smoothing=settings.label_smoothing,
    ).view(batch, time)
    place = torch.arange(1, time + 1)
    ends = lengths[:, None]
    weights = {"all": place <= ends, "ramp": (place <= ends) * place / ends, "last": place == ends}[settings.loss]
    return (losses * weights).sum() / weights.sum()
