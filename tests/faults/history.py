"""A checker of histories: do the answers that many callers got of one session fit one order of their steps?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellserve.tensors import Array
from tests.faults.check import TOLERANCE
from tests.faults.feed import Alone


@dataclass(frozen=True)
class Step:
    """A step that was acknowledged, or one of which nobody knows.

    Attributes:
        caller: whose.
        number: which of that caller's.
        inputs: ``[DEPTH]``.
        step_count: of the session after it, as answered; 0: it was not answered.
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
        lost: numbers up to the session's step count that no step explains, and acknowledged ones beyond it.
        doubled: acknowledged steps whose number another one has too.
        disordered: steps that come before another one that was answered before they were sent.
        max_abs_diff: the largest difference of an output from that of the same inputs in the same order.
    """

    lost: int
    doubled: int
    disordered: int
    max_abs_diff: float


def judge(steps: Sequence[Step], step_count: int, unsure: Sequence[Step] = ()) -> Verdict:
    """Judges the history of one session that began with zeros.

    Args:
        steps: that were acknowledged, in any order.
        step_count: the session's in the end.
        unsure: steps that may have been applied, once, or not.
    """
    counts = Counter(step.step_count for step in steps)
    doubled = sum(count - 1 for count in counts.values())
    beyond = sum(number > step_count for number in counts)
    ordered = sorted(steps, key=lambda step: (step.step_count, step.ended))
    left, largest = _follow({step.step_count: step for step in reversed(ordered)}, step_count, unsure)
    return Verdict(left + beyond, doubled, _disordered(ordered), largest)


class _Path:
    """One way through a history, as far as it goes: which unsure step is at each number that nobody acknowledged."""

    def __init__(self, leaves: list[Array]) -> None:
        self.leaves = [leaves]  # before each step
        self.largest = [0.0]
        self.chosen: list[int] = []  # for each step the place of the unsure one; -1: it was acknowledged

    def __len__(self) -> int:
        return len(self.chosen)

    def add(self, leaves: list[Array], difference: float, chosen: int) -> None:
        self.leaves.append(leaves)
        self.largest.append(float(np.maximum(self.largest[-1], difference)))
        self.chosen.append(chosen)

    def go_back(self) -> int | None:
        """To the last choice, which is taken back and returned; None: there is none."""
        while self.chosen:
            self.leaves.pop()
            self.largest.pop()
            if (chosen := self.chosen.pop()) >= 0:
                return chosen
        return None


def _follow(known: dict[int, Step], step_count: int, unsure: Sequence[Step]) -> tuple[int, float]:
    """Looks for a way through; how many numbers are left unexplained, and the largest difference on it.

    A wrong choice shows at the next acknowledged step, whose output it does not explain.
    """
    alone = Alone()
    path = _Path(alone.zeros(1))
    first_candidate = 0  # those before it were tried at this number
    while len(path) < step_count:
        step = known.get(len(path) + 1)
        if step is not None:
            output, leaves = alone.step(step.inputs[np.newaxis], path.leaves[-1])
            difference = float(np.abs(output[0] - step.output).max())
            if difference <= TOLERANCE or max(path.chosen, default=-1) == -1:
                path.add(leaves, difference, -1)  # Without a choice that could be another one it is as it is.
                continue
        else:
            free = (place for place in range(first_candidate, len(unsure)) if place not in path.chosen)
            if (candidate := next(free, None)) is not None:
                _, leaves = alone.step(unsure[candidate].inputs[np.newaxis], path.leaves[-1])
                path.add(leaves, 0.0, candidate)
                first_candidate = 0
                continue
        reached = len(path)
        taken_back = path.go_back()
        if taken_back is None:
            return step_count - reached, float("inf")
        first_candidate = taken_back + 1
    return 0, path.largest[-1]


def _disordered(ordered: Sequence[Step]) -> int:
    """How many steps were sent after a step was answered that is later in the order: no such order can have been."""
    found = 0
    earliest_end = float("inf")
    for step in reversed(ordered):
        found += earliest_end < step.began
        earliest_end = min(earliest_end, step.ended)
    return found
