"""A checker of histories: do the answers that many callers got of one session fit one order of their steps?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellserve.tensors import Array
from tests.faults.feed import uninterrupted


@dataclass(frozen=True)
class Step:
    """A step that was acknowledged.

    Attributes:
        caller: whose.
        number: which of that caller's.
        inputs: ``[DEPTH]``.
        step_count: of the session after it, as answered.
        output: ``[UNITS]``, as answered.
        began, ended: when it was sent and answered, by one clock.
    """

    caller: int
    number: int
    inputs: Array
    step_count: int
    output: Array
    began: float
    ended: float


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a history.

    Attributes:
        lost: numbers up to the session's step count that no acknowledged step has.
        doubled: acknowledged steps whose number another one has too.
        disordered: steps that come before another one that was answered before they were sent.
        max_abs_diff: the largest difference of an output from that of the same inputs in the same order.
    """

    lost: int
    doubled: int
    disordered: int
    max_abs_diff: float


def judge(steps: Sequence[Step], step_count: int) -> Verdict:
    """Judges the history of one session that began with zeros, and all of whose steps were acknowledged.

    Args:
        steps: in any order.
        step_count: the session's in the end.
    """
    counts = Counter(step.step_count for step in steps)
    doubled = sum(count - 1 for count in counts.values())
    lost = sum(number not in counts for number in range(1, step_count + 1))
    beyond = sum(number > step_count for number in counts)
    ordered = sorted(steps, key=lambda step: (step.step_count, step.ended))
    wanted = uninterrupted((step.inputs[np.newaxis] for step in ordered), 1)
    largest = 0.0
    for step, (output, _) in zip(ordered, wanted, strict=True):
        largest = float(np.maximum(largest, np.abs(output[0] - step.output).max()))
    return Verdict(lost + beyond, doubled, _disordered(ordered), largest)


def _disordered(ordered: Sequence[Step]) -> int:
    """How many steps were sent after a step was answered that is later in the order: no such order can have been."""
    found = 0
    earliest_end = float("inf")
    for step in reversed(ordered):
        found += earliest_end < step.began
        earliest_end = min(earliest_end, step.ended)
    return found
