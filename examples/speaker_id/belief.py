"""A picture, in characters, of how a classifier's belief sharpens over the frames of an utterance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.text import Text

LEVELS = " ▁▂▃▄▅▆▇█"
RIVALS = 2
EXAMPLES = 3


def interesting_utterances(
    beliefs: Sequence[npt.NDArray[np.float32]], speakers: npt.NDArray[np.int64], count: int = EXAMPLES
) -> list[int]:
    """The utterances, of different speakers, whose right answer was least believed at first and believed at last.

    Args:
        beliefs: for each utterance ``[time, speakers]``.
        speakers: who spoke each, ``[utterances]``.
        count: how many are wanted.
    """
    early = [
        float(belief[: max(len(belief) // 3, 1), who].mean()) for belief, who in zip(beliefs, speakers, strict=True)
    ]
    right = [index for index, belief in enumerate(beliefs) if belief[-1].argmax() == speakers[index]]
    chosen: dict[int, int] = {}
    for index in sorted(right, key=lambda candidate: early[candidate]):
        chosen.setdefault(int(speakers[index]), index)
    return list(chosen.values())[:count]


def belief_picture(index: int, belief: npt.NDArray[np.float32], speaker: int) -> Text:
    """One utterance: a line for the right speaker and for each of the rivals who were believed most on the way.

    Args:
        index: the utterance's number, for the headline.
        belief: ``[time, speakers]``, each row sums to 1.
        speaker: who spoke.
    """
    rivals = [int(who) for who in np.argsort(-belief.sum(axis=0)) if who != speaker][:RIVALS]
    picture = Text(f"\nutterance {index + 1}, {len(belief)} frames, spoken by speaker {speaker + 1}\n")
    for who in [speaker, *rivals]:
        bars = "".join(LEVELS[round(float(value) * (len(LEVELS) - 1))] for value in belief[:, who])
        style = "green" if who == speaker else "dim"
        picture.append(f"  speaker {who + 1} │{bars}│ {belief[-1, who]:5.1%}\n", style=style)
    return picture
