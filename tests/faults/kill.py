"""``python -m tests.faults.kill``: kills servers under load; no acknowledged step may be lost or applied twice."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np

from cellserve_client import aio
from deploy.fleet import Fleet
from tests.faults.callers import Callers, LoadPlan, Tally
from tests.faults.check import TOLERANCE, Comparison, compare
from tests.faults.killer import Killer, Moments
from tests.faults.reporting import end_with, failures_told, progress

REPLICAS = 3
# What a run may take: so long whatever happens, and so long for every kill besides.
FIXED_S, PER_KILL_S = 60.0, 10.0
# The clock of who kills and who is answered is one, but an answer is noted a moment after it came.
SLACK_S = 0.25


@dataclass(frozen=True)
class KillPlan:
    """One run.

    Attributes:
        store: ``sqlite`` (one server, one file) or ``redis`` (three replicas).
        kills: how many.
        durability: ``sync`` or ``async``.
        flush_interval_ms: with ``async``: how often what has changed is written.
        max_sessions: how many sessions a server has in memory at most; 0: as many as there are.
        load: what the callers do.
        moments: when kills happen.
    """

    store: str
    kills: int
    durability: str = "sync"
    flush_interval_ms: int = 200
    max_sessions: int = 0
    load: LoadPlan = field(default_factory=LoadPlan)
    moments: Moments = field(default_factory=Moments)


@dataclass(frozen=True)
class KillReport:
    """What came of it.

    Attributes:
        kills: that happened.
        steps: that were acknowledged.
        lost, doubled, max_abs_diff: as of ``Comparison``; ``lost`` are those of which no caller was told.
        longest_pause_ms: the longest that one call took.
        errors: that callers saw.
        rollbacks, rolled_back: losses that callers were told of, and the steps in them (``async`` alone).
        longest_loss_ms: the longest time before a kill from which a step was lost.
        seconds: that the load took.
    """

    kills: int
    steps: int
    lost: int
    doubled: int
    max_abs_diff: float
    longest_pause_ms: int
    errors: int
    rollbacks: int
    rolled_back: int
    longest_loss_ms: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether all was as it has to be."""
        return self.lost == 0 and self.doubled == 0 and self.max_abs_diff <= TOLERANCE and self.errors == 0


def make_fleet(plan: KillPlan, folder: Path) -> Fleet:
    """The servers of a run, with their logs and files in a folder; nothing runs yet."""
    arguments = ["--log-level", "info", "--flush-interval-ms", str(plan.flush_interval_ms)]
    if plan.max_sessions:
        arguments += ["--max-sessions", str(plan.max_sessions)]
    if plan.store == "redis":
        return Fleet(REPLICAS, folder=folder, durability=plan.durability, proxy=None, arguments=arguments)
    store = f"sqlite:{folder / 'sessions.db'}"
    return Fleet(1, folder=folder, store=store, durability=plan.durability, proxy=None, arguments=arguments)


async def run(plan: KillPlan, fleet: Fleet, note: Callable[[int, str], None]) -> tuple[KillReport, list[str]]:
    """Steps sessions of a fleet that runs, and kills its replicas meanwhile.

    Returns:
        The report, and what callers saw as errors.

    Raises:
        TimeoutError: it does not come to an end.
    """
    address = ",".join(fleet.addresses)
    async with asyncio.timeout(FIXED_S + PER_KILL_S * plan.kills):
        async with aio.connect(address) as server:
            callers = Callers(server, plan.load)
            await callers.open()
            began = time.monotonic()
            callers.start()
            killer = Killer(
                fleet,
                plan.load.seed,
                plan.moments,
                callers.require_running,
                callers.until_steps_go_on,
                lambda kills: note(kills, f"{callers.tally.steps:,} steps"),
            )
            try:
                await killer.kill(plan.kills)
            finally:
                await callers.finish()
            seconds = time.monotonic() - began
        async with aio.connect(address) as server:
            comparison = await compare(server, callers.ids, callers.answers, callers.feed)
    tally = callers.tally
    errors = tally.errors
    longest_loss_s = _longest_loss_s(tally, killer.killed_at)
    if plan.durability == "async" and longest_loss_s > 2 * plan.flush_interval_ms / 1000 + SLACK_S:
        errors.append(f"steps were lost that were answered {longest_loss_s:.3f} s before the kill")
    return _report(len(killer.killed_at), tally, comparison, longest_loss_s, seconds), errors


def _longest_loss_s(tally: Tally, killed_at: list[float]) -> float:
    """How long before the kill that lost it a step was acknowledged, at most.

    That was the first one after its acknowledgement at the earliest: later kills have not lost it, once it was stored.
    """
    longest = 0.0
    for rollback in tally.rollbacks:
        kills = np.array([moment for moment in killed_at if moment <= rollback.told_at])
        following = np.searchsorted(kills, rollback.acknowledged_at - SLACK_S)
        if len(following) and following.max() >= len(kills):
            return float("inf")  # Steps were lost without a kill.
        longest = max(longest, float((kills[following] - rollback.acknowledged_at).max(initial=0.0)))
    return longest


def _report(kills: int, tally: Tally, comparison: Comparison, longest_loss_s: float, seconds: float) -> KillReport:
    return KillReport(
        kills=kills,
        steps=tally.steps,
        lost=comparison.lost,
        doubled=comparison.doubled,
        max_abs_diff=comparison.max_abs_diff,
        longest_pause_ms=round(tally.longest_pause_s * 1000),
        errors=len(tally.errors),
        rollbacks=len(tally.rollbacks),
        rolled_back=sum(len(rollback.acknowledged_at) for rollback in tally.rollbacks),
        longest_loss_ms=round(min(longest_loss_s, 1e6) * 1000),
        seconds=round(seconds, 1),
    )


@click.command(context_settings={"show_default": True})
@click.option("--store", type=click.Choice(["sqlite", "redis"]), required=True, help="One server; or three replicas.")
@click.option("--kills", type=click.IntRange(1, 10_000), default=10, help="How many.")
@click.option("--sessions", type=click.IntRange(1, 4096), default=64, help="Stepped at once, each by its caller.")
@click.option("--durability", type=click.Choice(["sync", "async"]), default="sync")
@click.option("--flush-interval-ms", type=click.IntRange(10, 60_000), default=200, help="With async.")
@click.option("--max-sessions", type=click.IntRange(0), default=0, help="In a server's memory; 0: all of them.")
@click.option("--pause-ms", type=click.FloatRange(0.0), default=20.0, help="Between two calls of a caller, on average.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of inputs, of moments and of who is hit.")
@click.option("--folder", type=click.Path(path_type=Path), help="For logs and files, which stay; else a temporary one.")
def main(
    store: str,
    kills: int,
    sessions: int,
    durability: str,
    flush_interval_ms: int,
    max_sessions: int,
    pause_ms: float,
    seed: int,
    folder: Path | None,
) -> None:
    """Kills servers (SIGKILL) at random moments while callers step sessions, and starts them again.

    In the end every output and every final state has to be that of an uninterrupted run, and every acknowledged step
    to be there once. With async a caller may be told that steps were lost, of the last two intervals at most, and
    feeds them again. The last line is one JSON object; the exit code is 0 only if all was as it has to be.
    """
    load = LoadPlan(sessions, seed, pause_ms / 1000, handles_rollbacks=durability == "async")
    plan = KillPlan(store, kills, durability, flush_interval_ms, max_sessions, load)
    with tempfile.TemporaryDirectory(prefix="cellserve-kill-") as temporary:
        where = folder or Path(temporary)
        where.mkdir(parents=True, exist_ok=True)
        with failures_told(), make_fleet(plan, where) as fleet, progress("kills", kills) as note:
            report, errors = asyncio.run(run(plan, fleet, note))
    end_with(asdict(report), errors, passed=report.passed)


if __name__ == "__main__":
    main(prog_name="python -m tests.faults.kill")
