"""How a load test counts: what each process records, and what comes of all of them together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from cellserve.errors import ModelNotFoundError, UnavailableError
from cellserve_client.load.clock import LoadClock
from cellserve_client.load.collector import Collector
from cellserve_client.load.latencies import HIGHEST_US, LOWEST_US, SIGNIFICANT_DIGITS, Latencies, Sample
from cellserve_client.load.recorder import Recorder


@dataclass
class Members:
    """Two processes of a test whose measuring begins at 100."""

    recorders: list[Recorder]

    def __init__(self, is_open: bool = False) -> None:
        clock = LoadClock(before_s=10.0, measured_s=2.0)
        clock.begin(90.0)
        self.recorders = [Recorder(clock, is_open) for _ in range(2)]
        for recorder in self.recorders:
            recorder.take(-1, 100.0, 0.0)


def test_a_sample_keeps_of_each_number_what_a_histogram_keeps() -> None:
    latencies_s = [*np.random.default_rng(3).lognormal(-5, 3, 5000).tolist(), 0.0, 1e-6, 2.047e-3, 2.048e-3, 1e9]
    histogram = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
    for latency_s in latencies_s:
        histogram.record_value(min(max(round(latency_s * 1e6), LOWEST_US), HIGHEST_US))
    parts = [Sample.of(latencies_s[start : start + 500]) for start in range(0, len(latencies_s), 500)]
    latencies = Latencies()
    latencies.add(Sample.merged(parts))
    assert latencies.encoded() == histogram.encode().decode()
    for percentile in (0, 1, 50, 99, 99.9, 100):
        assert Sample.merged(parts).at_ms(percentile) == pytest.approx(latencies.at_ms(percentile), rel=1e-3)


def test_an_empty_sample_has_no_percentiles() -> None:
    assert Sample.merged([]).at_ms(50) is None
    assert Sample.merged([Sample.of(()), Sample.of([0.5])]).at_ms(50) == pytest.approx(500, rel=1e-3)


def test_requests_that_are_due_in_the_warm_up_count_among_all_steps_alone() -> None:
    recorder = Members().recorders[0]
    recorder.answered("step", 1, due=99.0, sent=99.0, at=100.5)
    recorder.answered("step", 1, due=100.1, sent=100.1, at=100.2)
    recorder.failed("step", "UNAVAILABLE", due=99.9, at=100.3)
    interval = recorder.take(0, 100.5, 0.0)
    assert interval.all_steps == 2
    assert interval.kinds["step"].requests == 1
    assert interval.kinds["step"].failed == 0
    assert interval.errors == {"UNAVAILABLE": 1}
    assert interval.last_measured == 100.2


def test_what_was_taken_is_not_taken_again() -> None:
    recorder = Members().recorders[0]
    recorder.opened()
    recorder.answered("step", 1, due=100.1, sent=100.1, at=100.2)
    recorder.take(0, 100.5, 0.25)
    interval = recorder.take(1, 101.0, 0.5)
    assert (interval.all_steps, interval.kinds, interval.opened, interval.sessions) == (0, {}, 0, 1)
    assert (interval.wall_s, interval.cpu_s) == (0.5, 0.25)


def test_a_failure_is_counted_under_its_reason_or_its_code() -> None:
    recorder = Members().recorders[0]
    recorder.trouble(ModelNotFoundError("gone"), 100.0)
    recorder.trouble(UnavailableError("away"), 100.0)
    assert set(recorder.take(0, 100.5, 0.0).errors) == {"MODEL_NOT_FOUND", "UNAVAILABLE"}


@pytest.mark.parametrize(("is_open", "failed"), [(False, 1), (True, 0)])
def test_a_session_that_cannot_be_opened_is_a_request_that_is_not_sent_in_a_closed_loop(
    is_open: bool, failed: int
) -> None:
    recorder = Members(is_open=is_open).recorders[0]
    recorder.not_opened("step", "QUOTA_EXCEEDED", at=99.9)
    recorder.not_opened("step", "QUOTA_EXCEEDED", at=100.1)
    interval = recorder.take(0, 100.5, 0.0)
    assert interval.errors == {"QUOTA_EXCEEDED": 2}
    assert sum(counts.failed for counts in interval.kinds.values()) == failed


def test_the_processes_are_added_up_second_by_second() -> None:
    collector = Collector(measured_s=2.0, parts=2)
    for part, recorder in enumerate(Members(is_open=True).recorders):
        for number in range(5):
            now = 100 + number * 0.5
            recorder.offered(now)
            recorder.answered("step", 1, due=now, sent=now + 0.1, at=now + 0.2)
            recorder.answered("sequence", 10, due=now, sent=now, at=now + 0.4)
            if number == 3:
                recorder.failed("sequence", "UNAVAILABLE", due=now, at=now + 0.1, steps_applied=4)
            recorder.sessions = 3 + part
            collector.add(part, recorder.take(number, now + 0.5, 0.1 * (part + 1) * (number + 1)))
    totals = collector.totals(seconds=2.5, schedule_s=2.0)
    assert (totals.requests, totals.steps, totals.failed) == (20, 110, 2)
    assert totals.steps_with_warmup == 118
    assert (totals.steps_per_second, totals.requests_per_second, totals.offered_per_second) == (44.0, 8.0, 5.0)
    seconds = collector.timeline(is_open=True, seconds=2.5)
    assert [second.steps for second in seconds] == [44, 44, 22]
    assert [second.errors for second in seconds] == [0, 2, 0]
    assert [second.offered_per_second for second in seconds] == [4, 4, 2]
    assert {second.sessions for second in seconds} == {7}
    assert seconds[0].p50_ms == pytest.approx(200, rel=1e-3)
    assert seconds[0].max_ms == pytest.approx(400, rel=1e-3)
    kinds = collector.by_kind()
    assert kinds["step"].latency_ms.p50 == pytest.approx(200, rel=1e-3)
    assert kinds["sequence"].failed == 2
    assert collector.services().summary().min == pytest.approx(100, rel=1e-3)
    assert collector.latencies().summary().min == pytest.approx(200, rel=1e-3)
    assert collector.busiest_cpu_share() == pytest.approx(0.4)


def test_a_second_without_any_answer_is_in_the_timeline() -> None:
    collector = Collector(measured_s=2.0)
    recorder = Members().recorders[0]
    collector.add(0, recorder.take(0, 100.5, 0.0))
    seconds = collector.timeline(is_open=False, seconds=2.0)
    assert [(second.second, second.requests, second.p50_ms) for second in seconds] == [(0, 0, None), (1, 0, None)]
    # It was stopped before the end that was planned.
    assert len(collector.timeline(is_open=False, seconds=0.4)) == 1
    assert collector.totals(2.0, None).offered_per_second is None


def test_the_seconds_of_a_long_test_are_kept_as_figures_once_all_processes_have_told_of_them() -> None:
    collector = Collector(measured_s=60.0, parts=2)
    recorders = Members().recorders
    # The second process is behind by three seconds.
    for part, numbers in ((0, range(100)), (1, range(94))):
        for number in numbers:
            now = 100 + number * 0.5
            for thousandth in range(100):
                recorders[part].answered("step", 1, due=now, sent=now, at=now + (1 + thousandth + 100 * part) / 1e3)
            collector.add(part, recorders[part].take(number, now + 0.5, 0.0))
    assert sum(second.latencies.count for second in collector._seconds.values()) == 400 + 3 * 200
    seconds = collector.timeline(is_open=False, seconds=50.0)
    assert {second.requests for second in seconds[:47]} == {400}
    assert all(second.p50_ms == pytest.approx(100, rel=1e-3) for second in seconds[:47])
    assert all(second.max_ms == pytest.approx(200, rel=1e-3) for second in seconds[:47])
    assert [second.max_ms for second in seconds[47:]] == [pytest.approx(100, rel=1e-3)] * 3


def test_progress_tells_of_the_last_interval() -> None:
    collector = Collector(measured_s=2.0)
    recorder = Members().recorders[0]
    for number, latency_s in enumerate((0.1, 0.3)):
        now = 100 + number * 0.5
        recorder.answered("step", 1, due=now, sent=now, at=now + latency_s)
        collector.add(0, recorder.take(number, now + 0.5, 0.0))
    progress = collector.progress(11.0, 12.0, True)
    assert progress.steps_per_second == pytest.approx(2, rel=0.3)
    assert progress.p50_ms == pytest.approx(300, rel=1e-3)
