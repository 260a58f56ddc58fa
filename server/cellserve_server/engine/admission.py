"""Whether a run may begin: checked when its turn comes, not when it arrives.

What comes in faster than it can be done waits longer and longer. First come, first served, all of it would be computed
just before its deadline or just after: the server would be busy, and nobody would have an answer in time. So what has
waited for most of its time is refused, and what comes behind it is done with time to spare.
"""

from __future__ import annotations

from cellserve.errors import DeadlineExceededError, QueueFullError, StateRolledBackError, StepOutOfOrderError
from cellserve_server.engine.runs import Run
from cellserve_server.sessions.session import LastRun, Session

# So much of what it has waited work has to have left when it is computed, for the answer has to be sent and read.
SPARE_SHARE = 0.5
# How far it is believed how long a tick will take: so many times what the work has waited. What has hardly waited is
# done whatever is predicted, or a wrong prediction would never be mended.
BELIEF = 4.0
# A longer run that begins makes all others slower, and later ones will do the same to it.
SLOWER_LATER = 3.0


def check_alive(run: Run, now: float) -> None:
    """Checks that somebody still waits for the run.

    Raises:
        CellServeError: the run was taken back, or refused while it waited.
        DeadlineExceededError: its deadline has passed.
    """
    if run.refusal is not None:
        raise run.refusal
    if run.deadline is not None and run.deadline <= now:
        raise too_late_error()


def too_late_error() -> DeadlineExceededError:
    """What a run is told whose deadline has passed."""
    return DeadlineExceededError("the deadline passed before the run was done; nothing was applied")


def spare_s(waited_s: float, tick_s: float) -> float:
    """How much of its time work has to have left, or it is not begun, in seconds.

    Args:
        waited_s: how long it was ready and waited for its tick.
        tick_s: how long that tick is predicted to take.
    """
    return SPARE_SHARE * waited_s + min(tick_s, BELIEF * waited_s)


def rest_s(run: Run, now: float, chunk_s: float, chunk_steps: int) -> float:
    """How much of its time a longer run has to have left where many share the ticks, in seconds: as much for each step
    as it took until now; and if it has not begun, as much for each chunk as it has waited for the first, and some more.

    They go on in turns, so that too many of them become slower and slower, until none is done in time. Who comes last
    sees it first, and has cost nothing yet.

    Args:
        chunk_s: how long a chunk is predicted to take.
        chunk_steps: its steps.
    """
    if run.position:
        return (now - run.begun) / run.position * (run.steps - run.position)
    waited_s = now - run.ready
    return SLOWER_LATER * max(waited_s, min(chunk_s, BELIEF * waited_s)) / chunk_steps * run.steps


def overload_error(waited_s: float, left_s: float) -> QueueFullError:
    """What work is told that could not be done in time.

    To try again before the same deadline is in vain, as it is sooner than it has waited: RetryInfo says the longer.
    """
    return QueueFullError(
        f"the server is overloaded: after {waited_s:.3g} s too little time was left to be done before the deadline; "
        "nothing was applied",
        retry_after_s=max(waited_s, left_s),
    )


def is_repeat(run: Run, session: Session) -> bool:
    """Whether the run is the session's last one again; if it is not, checks that it was made for this step.

    A repeat has the run_id, the first step, the length and the inputs of the last run.

    Raises:
        StepOutOfOrderError: the run expected another step count, or its run_id is that of a different run.
        StateRolledBackError: the run expected steps that a crash has lost.
    """
    last = session.last_run
    same_id = last is not None and run.run_id != 0 and run.run_id == last.run_id
    if last is not None and same_id:
        first_step = last.first_step if run.expected_step is None else run.expected_step
        if last == LastRun(run.run_id, first_step, run.steps, run.input_digest):
            return True
    elif run.expected_step is None or run.expected_step == session.step_count:
        return False
    if _is_ahead(run, session):
        raise StateRolledBackError(
            f"sessions/{session.key.id}: steps that were answered were not in the store when the server that had it "
            f"went; it is back at step {session.step_count} and the run expected {run.expected_step}: feed it again "
            "from there",
            metadata={
                "session": session.key.id,
                "expected_step": str(run.expected_step),
                "step_count": str(session.step_count),
            },
        )
    expected = "any" if run.expected_step is None else str(run.expected_step)
    note = "; its run_id is that of the last run, with another first step, length or inputs" if same_id else ""
    raise StepOutOfOrderError(
        f"expected_step: sessions/{session.key.id} has applied {session.step_count} steps; "
        f"the run expected {expected}{note}",
        metadata={"session": session.key.id, "expected_step": expected, "step_count": str(session.step_count)},
    )


def _is_ahead(run: Run, session: Session) -> bool:
    """Whether a run knows of steps that were answered and lost: nothing was applied since the session was recovered."""
    recovered_at = -1 if session.kept is None else session.kept.recovered_at
    return run.expected_step is not None and run.expected_step > session.step_count == recovered_at
