"""The writer of characters as a PyTorch module, how it is trained, and how it is measured.

An id goes through an embedding, two LSTM layers and a dense layer; what comes out are the logits of the next id.
"""

# PyTorch is for training only and need not be there when the types are checked.
# mypy: disable-error-code="import-not-found, misc, no-any-return, no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LAYERS = 2
MAX_GRADIENT_NORM = 1.0
_MEASURED_STEPS = 1000

LSTMState = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Settings:
    """The hyperparameters.

    Attributes:
        depth: width of the embedding.
        num_units: width of both LSTM layers.
        epochs: passes over the training text; the learning rate rises over the first twentieth of all gradient steps
            and falls to 0 along half a cosine.
        rows: pieces of the text that are read side by side in a gradient step.
        steps: characters of each piece in a gradient step; the state goes on from step to step, the gradient does not.
        learning_rate: AdamW's, at its highest.
        weight_decay: AdamW's, on the matrices; the biases have none.
        dropout: share of the embedding's and of both layers' outputs that are set to 0 while training.
    """

    depth: int = 64
    num_units: int = 256
    epochs: int = 6
    rows: int = 16
    steps: int = 64
    learning_rate: float = 8e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1


class TextNetwork(nn.Module):
    """Ids ``[batch, time]`` to the logits of what follows each, ``[batch, time, vocabulary]``.

    Args:
        vocabulary_size: how many ids there are.
        settings: the widths and the share of dropout.
    """

    def __init__(self, vocabulary_size: int, settings: Settings) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, settings.depth)
        self.dropout = nn.Dropout(settings.dropout)
        self.lstm = nn.LSTM(
            settings.depth, settings.num_units, num_layers=LAYERS, dropout=settings.dropout, batch_first=True
        )
        self.dense = nn.Linear(settings.num_units, vocabulary_size)
        with torch.no_grad():
            # A forget gate that starts open remembers; its rows are the second quarter.
            for layer in range(LAYERS):
                self.get_parameter(f"lstm.bias_ih_l{layer}")[settings.num_units : 2 * settings.num_units] += 1.0

    def forward(self, ids: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """One piece of the sequence: the logits, and the state for the next piece. None: zeros."""
        outputs, state = self.lstm(self.dropout(self.embedding(ids)), state)
        return self.dense(self.dropout(outputs)), state


def train_network(
    ids: NDArray[np.int32],
    vocabulary_size: int,
    settings: Settings,
    seed: int,
    on_epoch: Callable[[int, TextNetwork], None] = lambda epoch, network: None,
    max_steps: int | None = None,
) -> TextNetwork:
    """Trains one network. The same arguments give the same weights on the same machine.

    Args:
        ids: the training text.
        vocabulary_size: how many ids there are.
        settings: the hyperparameters.
        seed: of the initial weights, the beginnings of the pieces and the dropout.
        on_epoch: called after every pass with its number, from 1, and the network in evaluation mode.
        max_steps: gradient steps at most; None: all epochs.

    Returns:
        The network, in evaluation mode.
    """
    torch.manual_seed(seed)
    network = TextNetwork(vocabulary_size, settings)
    text = torch.from_numpy(ids.astype(np.int64))
    optimiser = torch.optim.AdamW(_parameter_groups(network, settings), lr=settings.learning_rate)
    piece = settings.rows * settings.steps
    # Every epoch begins up to one gradient step later than the last would, so that pieces are cut elsewhere.
    per_epoch = (len(ids) - 1) // piece - 1
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _learning_curve(settings.epochs * per_epoch))
    done = 0
    for epoch in range(1, settings.epochs + 1):
        network.train()
        state = None
        begin = int(torch.randint(piece, (1,)))
        streams = text[begin : begin + per_epoch * piece].view(settings.rows, -1)
        targets = text[begin + 1 : begin + 1 + per_epoch * piece].view(settings.rows, -1)
        for inputs, following in zip(streams.split(settings.steps, 1), targets.split(settings.steps, 1), strict=True):
            logits, (h, c) = network(inputs, state)
            state = h.detach(), c.detach()
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
            optimiser.step()
            schedule.step()
            done += 1
            if done == max_steps:
                return network.eval()
        on_epoch(epoch, network.eval())
    return network.eval()


def logits_of(network: TextNetwork, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """The logits after each id, read from a state of zeros: ``[time]`` to ``[time, vocabulary]``."""
    pieces = []
    state = None
    with torch.no_grad():
        for piece in torch.from_numpy(ids.astype(np.int64)).split(_MEASURED_STEPS):
            logits, state = network(piece[None], state)
            pieces.append(logits[0].numpy())
    return np.concatenate(pieces)


def bits_per_character(logits: NDArray[np.float32], ids: NDArray[np.int32]) -> float:
    """The mean of ``-log2`` of what each id's predecessor gave it; the first id, which has none, is left out.

    Args:
        logits: ``[time, vocabulary]``, after each id.
        ids: ``[time]``.
    """
    ahead = logits[:-1].astype(np.float64)
    largest = ahead.max(axis=1)
    totals = largest + np.log(np.exp(ahead - largest[:, None]).sum(axis=1))
    return float((totals - ahead[np.arange(len(ahead)), ids[1:]]).mean() / math.log(2))


def _learning_curve(steps: int) -> Callable[[int], float]:
    rising = max(steps // 20, 1)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min((step - rising) / max(steps - rising, 1), 1.0)))

    return factor


def _parameter_groups(network: TextNetwork, settings: Settings) -> list[dict[str, object]]:
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    biases = [parameter for parameter in network.parameters() if parameter.dim() == 1]
    return [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]
