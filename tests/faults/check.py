"""Compares what callers got, and what the servers have in the end, with an uninterrupted run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cellserve.states import flatten
from cellserve.tensors import Array
from cellserve_client import aio
from tests.faults.callers import Answers
from tests.faults.feed import BLOCK, Feed, uninterrupted

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """What is wrong in the end.

    Attributes:
        lost: steps that were acknowledged and are not in the sessions' counts.
        doubled: steps beyond those that were acknowledged.
        max_abs_diff: the largest difference of an output or of a final state from the uninterrupted run's.
    """

    lost: int
    doubled: int
    max_abs_diff: float

    @property
    def is_good(self) -> bool:
        """Whether nothing is. A number that is none is wrong too."""
        return self.lost == 0 and self.doubled == 0 and self.max_abs_diff <= TOLERANCE


async def compare(server: aio.Server, ids: Sequence[str], answers: Sequence[Answers], feed: Feed) -> Comparison:
    """Reads every session and compares.

    Args:
        server: a connection that has not stepped these sessions.
        ids: the sessions'.
        answers: that each of them got.
        feed: what they were fed.
    """
    sessions = await asyncio.gather(*(server.open_session(id_) for id_ in ids))
    counts = [session.step_count for session in sessions]
    nested = await asyncio.gather(*(session.state() for session in sessions))
    states: list[Array] = [
        np.concatenate(flatten(session.model.state_size, state), axis=1)[0]
        for session, state in zip(sessions, nested, strict=True)
    ]
    lost = sum(max(len(got) - count, 0) for got, count in zip(answers, counts, strict=True))
    doubled = sum(max(count - len(got), 0) for got, count in zip(answers, counts, strict=True))
    return Comparison(lost, doubled, _largest_difference(answers, counts, states, feed))


def _largest_difference(
    answers: Sequence[Answers], counts: Sequence[int], states: Sequence[Array], feed: Feed
) -> float:
    rows = len(answers)
    largest = 0.0
    for state, count in zip(states, counts, strict=True):
        if count == 0:
            largest = _larger(largest, state)
    last = max(*counts, *(len(got) for got in answers), 0)
    wanted = uninterrupted(_inputs(feed, rows, last), rows)
    for start in range(0, last, BLOCK):
        block = list(itertools.islice(wanted, BLOCK))
        outputs = np.stack([output for output, _ in block], axis=1)
        for index, got in enumerate(answers):
            part = got.outputs[start : start + BLOCK]
            largest = _larger(largest, outputs[index, : len(part)] - part)
            if start < counts[index] <= start + BLOCK:
                largest = _larger(largest, block[counts[index] - start - 1][1][index] - states[index])
    return largest


def _larger(largest: float, difference: Array) -> float:
    """The larger one; what is no number counts as larger than any."""
    return float(np.maximum(largest, np.abs(difference).max(initial=0.0)))


def _inputs(feed: Feed, rows: int, last: int) -> Iterator[Array]:
    """``[rows, DEPTH]`` for each step, so many of them."""
    for start in range(0, last, BLOCK):
        block = np.stack([feed.of(index, start, start + BLOCK) for index in range(rows)], axis=1)
        yield from block[: last - start]
