"""The search for the highest rate, on servers of which it is known; and when a load test counts as failed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from cellserve.errors import FieldInvalidError
from cellserve_client.cli.load_output import print_document
from cellserve_client.load import LoadDocument, LoadPlan
from cellserve_client.load.document import Slo, Stage, Totals, Trial
from cellserve_client.load.find_max import MAX_TRIALS, find_max
from cellserve_client.load.verdict import INTERRUPTED, client_of, failure_of
from tests.load_documents import open_document

PLAN = LoadPlan("localhost:1", slo="p99<20ms", seconds=10.0)


@cache
def some_document() -> LoadDocument:
    """Of which the parts that matter are replaced."""
    return open_document()


class KnownServer:
    """Holds the objective up to a rate.

    Args:
        capacity: requests a second.
        answers: those that it answers at most; None: all, be it late.
    """

    def __init__(self, capacity: float, answers: float | None = None) -> None:
        self.rates: list[float] = []
        self._capacity = capacity
        self._answers = answers

    def run(self, plan: LoadPlan) -> LoadDocument:
        assert plan.rate is not None
        self.rates.append(plan.rate)
        answered = plan.rate if self._answers is None else min(plan.rate, self._answers)
        return replace(
            some_document(),
            totals=Totals(100, 100, 0, answered, answered, plan.rate, 1, 100),
            seconds=plan.seconds * plan.rate / answered,
            stages=plan.parts,
            slo=Slo("p99<20ms", (), plan.rate <= self._capacity),
            failure=None,
        )


def ignore(trial: Trial) -> None:
    """Nobody wants to know."""


@pytest.mark.parametrize("capacity", [2.0, 7.0, 99.0, 100.0, 1234.0, 76_543.0])
def test_the_rate_is_found_to_within_five_per_cent(capacity: float) -> None:
    server = KnownServer(capacity)
    found = find_max(PLAN, ignore, server.run).find_max
    assert found is not None
    assert found.best_rate is not None
    assert capacity / 1.05 <= found.best_rate <= capacity
    assert [trial.rate for trial in found.trials] == server.rates
    assert len(server.rates) <= MAX_TRIALS


def test_a_server_that_holds_nothing_is_told_as_such() -> None:
    found = find_max(PLAN, ignore, KnownServer(0.1).run)
    assert found.find_max is not None
    assert found.find_max.best_rate is None
    assert found.find_max.trials[-1].rate < 2


def test_a_search_without_an_end_ends() -> None:
    server = KnownServer(1e12)
    find_max(PLAN, ignore, server.run)
    assert max(server.rates) <= 1_000_000


def test_a_rate_that_the_server_does_not_keep_up_with_is_not_held() -> None:
    found = find_max(PLAN, ignore, KnownServer(1e12, answers=500).run).find_max
    assert found is not None
    assert found.best_rate is not None
    assert found.best_rate < 600


def test_each_trial_is_told_and_the_document_is_that_of_the_best() -> None:
    told: list[Trial] = []
    document = find_max(replace(PLAN, rate=64.0), told.append, KnownServer(100).run)
    assert document.find_max is not None
    assert tuple(told) == document.find_max.trials
    assert told[0].rate == 64
    assert document.totals.requests_per_second == document.find_max.best_rate


def test_ctrl_c_ends_a_search() -> None:
    document = find_max(PLAN, ignore, lambda plan: replace(some_document(), failure=INTERRUPTED))
    assert document.failure == INTERRUPTED
    assert document.find_max is not None
    assert document.find_max.trials == ()


def test_a_search_needs_an_objective_and_no_stages() -> None:
    with pytest.raises(FieldInvalidError, match="slo: expected an objective"):
        find_max(replace(PLAN, slo=None), ignore)
    with pytest.raises(FieldInvalidError, match="stages: expected none"):
        find_max(replace(PLAN, stages=(Stage(1, None, 5.0),)), ignore)


@pytest.mark.parametrize(
    ("requests", "failed", "silent_s", "failed_after_s", "failure"),
    [
        (990, 10, 0.0, None, None),
        (989, 11, 0.0, None, "1.1% of the requests failed, more than 1%"),
        (0, 0, None, None, "no request was answered"),
        (1000, 0, 1.9, 1.0, None),
        (1000, 1, 2.1, 1.0, "the server was lost: nothing was answered in the last 2 s"),
        # Nothing was asked for so long: a low rate, or much time to think.
        (1000, 1, 2.1, 3.0, None),
        (1000, 0, 2.1, None, None),
    ],
)
def test_when_a_load_has_failed(
    requests: int, failed: int, silent_s: float | None, failed_after_s: float | None, failure: str | None
) -> None:
    totals = Totals(requests, requests, failed, 1.0, 1.0, None, 1, requests)
    assert failure == failure_of(
        totals,
        end=100.0,
        last_answer=None if silent_s is None else 100.0 - silent_s,
        last_failure=None if failed_after_s is None else 100.0 - failed_after_s,
        judges_errors=False,
    )


def test_an_objective_on_errors_says_how_many_may_fail() -> None:
    totals = Totals(50, 50, 50, 1.0, 1.0, None, 1, 50)
    assert failure_of(totals, end=1.0, last_answer=1.0, last_failure=1.0, judges_errors=True) is None


@pytest.mark.parametrize(
    ("cpu_share", "lag_ms", "is_open", "words"),
    [
        (0.5, 5.0, True, None),
        (0.95, 5.0, False, "computed 95% of the time"),
        (0.5, 30.0, True, "came 30 ms late"),
        (0.5, 30.0, False, None),
        (0.5, 300.0, False, "came 300 ms late"),
    ],
)
def test_the_load_tester_says_when_it_is_the_limit(
    cpu_share: float, lag_ms: float, is_open: bool, words: str | None
) -> None:
    client = client_of(2, cpu_share, lag_ms, is_open)
    assert client.is_limit == (words is not None)
    assert words is None or words in (client.warning or "")


def test_a_search_says_when_the_load_tester_was_why_no_higher_rate_was_held(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def limited_above(rate: float) -> LoadDocument:
        def run(plan: LoadPlan) -> LoadDocument:
            assert plan.rate is not None
            client = client_of(1, 0.95 if plan.rate > rate else 0.1, 0.0, is_open=True)
            return replace(KnownServer(150.0).run(plan), client=client)

        return find_max(PLAN, ignore, run)

    print_document(limited_above(150.0))
    assert "the server may hold more" in " ".join(capsys.readouterr().out.split())
    # The rates far above the highest that is held do not matter.
    print_document(limited_above(350.0))
    assert "the server may hold more" not in " ".join(capsys.readouterr().out.split())
