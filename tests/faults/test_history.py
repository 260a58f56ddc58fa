"""The checker of histories finds what is wrong with them, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.faults.check import TOLERANCE
from tests.faults.feed import Feed, uninterrupted
from tests.faults.history import Step, judge

CALLERS = 3


def history(count: int) -> list[Step]:
    """What callers see who take turns."""
    feed = Feed(1)
    inputs = [feed.at(number % CALLERS, number) for number in range(count)]
    outputs = uninterrupted((given[np.newaxis] for given in inputs), 1)
    return [
        Step(number % CALLERS, number, inputs[number], number + 1, output[0], float(number), number + 0.5)
        for number, (output, _) in enumerate(outputs)
    ]


def test_a_history_that_is_one_is_good_in_any_order() -> None:
    verdict = judge(history(20)[::-1], 20)
    assert (verdict.lost, verdict.doubled, verdict.disordered) == (0, 0, 0)
    assert verdict.max_abs_diff <= TOLERANCE


def test_a_step_that_was_answered_and_is_not_there_is_lost() -> None:
    steps = history(20)
    assert judge(steps, 19).lost == 1
    assert judge(steps[:-1], 20).lost == 1
    assert judge(steps[:7] + steps[8:], 20).lost > 0


def test_a_number_that_was_given_twice_is_told() -> None:
    steps = history(20)
    assert judge([*steps, replace(steps[5], caller=9, began=5.0, ended=5.6)], 20).doubled == 1


def test_a_step_that_was_applied_twice_shows_in_the_outputs() -> None:
    steps = history(20)
    twice = [steps[0], *(replace(step, step_count=step.step_count) for step in steps[1:])]
    twice[10] = replace(twice[10], inputs=twice[9].inputs)
    assert judge(twice, 20).max_abs_diff > TOLERANCE


def test_an_order_that_time_forbids_is_told() -> None:
    steps = history(20)
    steps[4] = replace(steps[4], began=30.0, ended=30.5)
    assert judge(steps, 20).disordered == 1


def test_steps_of_unknown_outcome_fill_the_gaps_that_they_explain() -> None:
    steps = history(30)
    unsure = [replace(steps[place], step_count=0) for place in (7, 8, 20)]
    never = [replace(step, inputs=step.inputs + 1, step_count=0) for step in steps[:4]]
    known = [step for step in steps if step.number not in (7, 8, 20)]
    verdict = judge(known, 30, [*never, *unsure[::-1]])
    assert verdict.lost == 0
    assert verdict.max_abs_diff <= TOLERANCE
    assert judge(known, 30, never).lost > 0
