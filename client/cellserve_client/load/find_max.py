"""The search for the highest rate that holds an objective: doubled until it does not, then halved in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cellserve.errors import FieldInvalidError
from cellserve_client.load.document import FindMax, LoadDocument, Trial
from cellserve_client.load.plan import MAX_RATE, LoadPlan
from cellserve_client.load.runner import run_load
from cellserve_client.load.verdict import INTERRUPTED, failed_share

FIRST_RATE = 100.0
LOWEST_RATE = 1.0
MAX_TRIALS = 24
# The search ends when the lowest rate that did not hold is so close to the best one.
CLOSE_ENOUGH = 1.05
# A server that is further behind than this at the end of a trial does not hold the rate, whatever the objective says.
MAX_BEHIND_SHARE = 0.1
MAX_BEHIND_S = 0.5


@dataclass
class RateSearch:
    """Which rate to try next.

    Attributes:
        best: the highest that held; None: none did.
        lowest_failed: the lowest that did not; None: all did.
        next: to be tried; None: the search is over.
    """

    next: float | None
    best: float | None = None
    lowest_failed: float | None = None

    def note(self, held: bool) -> None:
        """What became of ``next``."""
        rate = self.next
        assert rate is not None, "the search is under way"
        if held:
            self.best = rate
        else:
            self.lowest_failed = rate
        if self.lowest_failed is None:
            self.next = rate * 2 if rate * 2 <= MAX_RATE else None
        elif self.best is None:
            self.next = rate / 2 if rate / 2 >= LOWEST_RATE else None
        elif self.lowest_failed / self.best <= CLOSE_ENOUGH:
            self.next = None
        else:
            self.next = (self.best + self.lowest_failed) / 2


def find_max(
    plan: LoadPlan,
    on_trial: Callable[[Trial], None],
    run: Callable[[LoadPlan], LoadDocument] = run_load,
) -> LoadDocument:
    """Makes trials at different rates, each a test of its own. Ctrl-C ends the search.

    Args:
        plan: of one trial, with an objective; its rate is the first that is tried, 100 a second without one.
        on_trial: told of each trial when it is over.
        run: runs a trial.

    Returns:
        The document of the best trial, else of the last one, with all trials.

    Raises:
        FieldInvalidError: the plan has no objective, or stages.
        CellServeError: as of ``run_load``.
    """
    if plan.slo is None:
        raise FieldInvalidError("slo: expected an objective, such as p99<20ms, which the rate is to hold; got none")
    if plan.stages:
        raise FieldInvalidError("stages: expected none: a search finds its rates itself")
    search = RateSearch(plan.rate or FIRST_RATE)
    trials: list[Trial] = []
    best: LoadDocument | None = None
    document: LoadDocument | None = None
    while search.next is not None and len(trials) < MAX_TRIALS:
        rate = search.next
        document = run(replace(plan, rate=rate))
        if document.failure == INTERRUPTED:
            break
        held = _holds(document)
        search.note(held)
        if held:
            best = document
        totals = document.totals
        trials.append(
            Trial(
                rate=rate,
                held=held,
                steps_per_second=totals.steps_per_second,
                latency_ms=document.latency_ms,
                errors_share=failed_share(totals),
                client_is_limit=document.client.is_limit,
            )
        )
        on_trial(trials[-1])
    assert document is not None, "there was a first trial"
    shown = best if best is not None and document.failure != INTERRUPTED else document
    return replace(shown, find_max=FindMax(search.best, tuple(trials)))


def _holds(document: LoadDocument) -> bool:
    assert document.slo is not None, "the plan has an objective"
    planned_s = sum(stage.seconds for stage in document.stages)
    keeps_up = document.seconds - planned_s <= max(MAX_BEHIND_S, MAX_BEHIND_SHARE * planned_s)
    return document.slo.held and document.failure is None and keeps_up
