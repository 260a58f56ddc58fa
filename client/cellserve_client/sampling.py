"""The arithmetic of writing text from logits: choosing the next id, and the hypotheses of a beam search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cellserve.errors import FieldInvalidError, ShapeMismatchError

__all__ = ["Extension", "best_extensions", "draw", "log_softmax"]


class Extension(NamedTuple):
    """A hypothesis of a beam search, one id longer.

    Attributes:
        parent: the place of the hypothesis that it extends.
        id: what it extends it by.
        score: its log-probability, in nats.
    """

    parent: int
    id: int
    score: float


def log_softmax(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The log-probabilities, in nats, along the last dimension: ``x - log(sum(exp(x)))``. The shape stays.

    Raises:
        FieldInvalidError: a logit is NaN or positive infinity, or a row has no finite one. Negative infinity is a
            probability of 0.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ShapeMismatchError(f"logits: expected at least one in the last dimension; got shape {values.shape}")
    largest = values.max(axis=-1, keepdims=True)
    # The largest is NaN where one is.
    if not np.isfinite(largest).all():
        raise FieldInvalidError("logits: expected numbers, and a finite one in each row; got NaN or infinity")
    # Less the largest, so that no exponential overflows.
    shifted = values - largest
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def draw(log_probabilities: npt.NDArray[np.float64], temperature: float, generator: np.random.Generator) -> int:
    """Draws an id, each with probability ``p ** (1 / temperature)``, scaled so that they sum to 1.

    Args:
        log_probabilities: ``[ids]``, in nats.
        temperature: 1 draws as the model says, less is bolder, 0 takes the likeliest (of equals the first) and leaves
            the generator as it was.
        generator: where chance comes from: one number a draw.

    Raises:
        FieldInvalidError: the temperature is negative, NaN or infinite.
    """
    if not 0 <= temperature < np.inf:
        raise FieldInvalidError(f"temperature: expected a finite number from 0; got {temperature}")
    likeliest = int(np.argmax(log_probabilities))
    if temperature == 0:
        return likeliest
    # The likeliest is at 0 before the division, so that a tiny temperature makes the others -inf, not all of them.
    with np.errstate(over="ignore"):
        powers = np.exp((log_probabilities - log_probabilities[likeliest]) / temperature)
    bounds = np.cumsum(powers)
    # Right of equal bounds, so that an id of probability 0 is never drawn.
    return int(np.searchsorted(bounds, generator.random() * bounds[-1], side="right"))


def best_extensions(scores: npt.ArrayLike, log_probabilities: npt.NDArray[np.float64], count: int) -> list[Extension]:
    """The most likely hypotheses that are one id longer, the best first; of equals the earlier parent, then id.

    Args:
        scores: ``[hypotheses]``, their log-probabilities so far, in nats.
        log_probabilities: ``[hypotheses, ids]``, of each next id.
        count: how many at most. Those of probability 0 are left out.

    Raises:
        ShapeMismatchError: the two do not fit.
        FieldInvalidError: a count below 1.
    """
    before = np.asarray(scores, dtype=np.float64)
    if before.ndim != 1 or log_probabilities.ndim != 2 or len(before) != len(log_probabilities):
        raise ShapeMismatchError(
            f"log_probabilities: expected [hypotheses, ids] and as many scores; got {log_probabilities.shape} and "
            f"scores {before.shape}"
        )
    if count < 1:
        raise FieldInvalidError(f"count: expected at least 1; got {count}")
    totals = before[:, None] + log_probabilities
    order = np.argsort(-totals, axis=None, kind="stable")[:count]
    parents, ids = np.unravel_index(order, totals.shape)
    return [
        Extension(int(parent), int(id_), float(totals[parent, id_]))
        for parent, id_ in zip(parents, ids, strict=True)
        if np.isfinite(totals[parent, id_])
    ]
