"""Whether a load test has passed, and whether the load tester itself was its limit."""

from __future__ import annotations

from cellserve_client.load.document import Client, Totals

# A test without an objective on errors passes with so many failures among its requests.
MAX_FAILED_SHARE = 0.01
# A server that answers nothing for so long before the end, and failures after it, is lost.
LOST_AFTER_S = 2.0
BUSY_CPU_SHARE = 0.85
# In an open loop each request is as late as the event loop; in a closed one it is late, too, when many answers came
# together, which is no harm.
LATE_OPEN_LOOP_MS = 20.0
LATE_CLOSED_LOOP_MS = 100.0
INTERRUPTED = "interrupted before its end"


def failed_share(totals: Totals) -> float:
    """The share of requests that failed, 0 to 1; 0 without any."""
    requests = totals.requests + totals.failed
    return totals.failed / requests if requests else 0.0


def failure_of(
    totals: Totals,
    *,
    end: float,
    last_answer: float | None,
    last_failure: float | None,
    judges_errors: bool,
) -> str | None:
    """Why a test has failed, in words; None: it has not.

    Args:
        end: when it was to end, or was stopped.
        last_answer, last_failure: of any request, warm-up included; None: there was none. In the seconds of ``end``.
        judges_errors: whether an objective says how many may fail.
    """
    is_silent = last_answer is not None and end - last_answer > LOST_AFTER_S
    if is_silent and last_failure is not None and last_answer is not None and last_failure > last_answer:
        return f"the server was lost: nothing was answered in the last {LOST_AFTER_S:g} s"
    if totals.requests == 0:
        return "no request was answered"
    share = failed_share(totals)
    if share > MAX_FAILED_SHARE and not judges_errors:
        return f"{share:.1%} of the requests failed, more than {MAX_FAILED_SHARE:.0%}"
    return None


def client_of(processes: int, busiest_cpu_share: float, loop_lag_p99_ms: float, is_open: bool) -> Client:
    """How the load tester fared.

    Args:
        processes: that sent.
        busiest_cpu_share: of one core, by the one that computed most.
        loop_lag_p99_ms: how late the event loop was in the worst of them.
        is_open: whether requests were due by a schedule.
    """
    found = []
    if busiest_cpu_share > BUSY_CPU_SHARE:
        found.append(f"a process of it computed {busiest_cpu_share:.0%} of the time, of one core")
    if loop_lag_p99_ms > (LATE_OPEN_LOOP_MS if is_open else LATE_CLOSED_LOOP_MS):
        found.append(f"it came {loop_lag_p99_ms:.0f} ms late to what was due (p99), and what it sent with it")
    warning = None
    if found:
        warning = (
            f"the load tester itself is likely to be the limit: {'; '.join(found)}. More --processes, on another "
            "machine than the server's, tell what the server can do"
        )
    return Client(processes, busiest_cpu_share, loop_lag_p99_ms, warning is not None, warning)
