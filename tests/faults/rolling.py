"""``python -m tests.faults.rolling``: restarts the replicas of a fleet in turn, under load; callers see no error."""

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
from deploy.fleet import PROXIES, Fleet
from tests.faults.callers import Callers, LoadPlan
from tests.faults.check import TOLERANCE, compare
from tests.faults.reporting import end_with, failures_told, progress

FIXED_S, PER_RESTART_S = 60.0, 60.0


@dataclass(frozen=True)
class RollingPlan:
    """One run.

    Attributes:
        rounds: how often every replica is restarted.
        replicas: how many there are.
        durability: ``sync`` or ``async``.
        proxy: what stands before the replicas; None: callers know all of them.
        between_s: how long after one restart the next one comes, drawn evenly between the two, in seconds.
        load: what the callers do.
    """

    rounds: int
    replicas: int = 3
    durability: str = "sync"
    proxy: str | None = None
    between_s: tuple[float, float] = (0.2, 1.0)
    load: LoadPlan = field(default_factory=LoadPlan)


@dataclass(frozen=True)
class RollingReport:
    """What came of it.

    Attributes:
        restarts: that happened.
        steps: that were acknowledged.
        lost, doubled, max_abs_diff: as of ``Comparison``.
        errors: that callers saw.
        bad_exits: replicas whose exit code was not 0.
        longest_pause_ms: the longest that one call took.
        longest_stop_ms: the longest from SIGTERM to the end of a replica.
    """

    restarts: int
    steps: int
    lost: int
    doubled: int
    max_abs_diff: float
    errors: int
    bad_exits: int
    longest_pause_ms: int
    longest_stop_ms: int

    @property
    def passed(self) -> bool:
        """Whether all was as it has to be."""
        return not (self.lost or self.doubled or self.errors or self.bad_exits) and self.max_abs_diff <= TOLERANCE


def make_fleet(plan: RollingPlan, folder: Path) -> Fleet:
    """The fleet of a run, with its logs and files in a folder; nothing runs yet."""
    arguments = ["--log-level", "info", "--flush-interval-ms", "200"]
    return Fleet(plan.replicas, folder=folder, durability=plan.durability, proxy=plan.proxy, arguments=arguments)


async def run(plan: RollingPlan, fleet: Fleet, note: Callable[[int, str], None]) -> tuple[RollingReport, list[str]]:
    """Steps sessions of a fleet that runs, and restarts its replicas meanwhile.

    Returns:
        The report, and what callers saw as errors.

    Raises:
        TimeoutError: it does not come to an end.
    """
    restarts = plan.rounds * plan.replicas
    address = ",".join(fleet.addresses) if plan.proxy is None else fleet.proxy_address
    is_proxied = plan.proxy is not None
    async with asyncio.timeout(FIXED_S + PER_RESTART_S * restarts):
        async with aio.connect(address, proxied=is_proxied) as server:
            callers = Callers(server, plan.load)
            await callers.open()
            callers.start()
            try:
                codes, longest_stop_s = await _restart_all(plan, fleet, callers, note)
            finally:
                await callers.finish()
        async with aio.connect(address, proxied=is_proxied) as server:
            comparison = await compare(server, callers.ids, callers.answers, callers.feed)
    tally = callers.tally
    report = RollingReport(
        restarts=len(codes),
        steps=tally.steps,
        lost=comparison.lost,
        doubled=comparison.doubled,
        max_abs_diff=comparison.max_abs_diff,
        errors=len(tally.errors),
        bad_exits=sum(code != 0 for code in codes),
        longest_pause_ms=round(tally.longest_pause_s * 1000),
        longest_stop_ms=round(longest_stop_s * 1000),
    )
    return report, tally.errors


async def _restart_all(
    plan: RollingPlan, fleet: Fleet, callers: Callers, note: Callable[[int, str], None]
) -> tuple[list[int], float]:
    """Restarts every replica so many times; the exit codes, and the longest that a stop took, in seconds."""
    whims = np.random.default_rng([plan.load.seed, 78])
    codes: list[int] = []
    longest_s = 0.0
    for _ in range(plan.rounds):
        for index in range(plan.replicas):
            await asyncio.sleep(float(whims.uniform(*plan.between_s)))
            callers.require_running()
            began = time.monotonic()
            codes.append(await asyncio.to_thread(fleet.terminate, index))
            longest_s = max(longest_s, time.monotonic() - began)
            await asyncio.to_thread(fleet.restart, index)
            note(len(codes), f"{callers.tally.steps:,} steps")
    await asyncio.sleep(plan.between_s[1])
    return codes, longest_s


@click.command(context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, help="How often every replica is restarted.")
@click.option("--replicas", type=click.IntRange(1, 8), default=3, help="How many.")
@click.option("--sessions", type=click.IntRange(1, 4096), default=64, help="Stepped at once, each by its caller.")
@click.option("--durability", type=click.Choice(["sync", "async"]), default="sync")
@click.option("--proxy", type=click.Choice(PROXIES), help="Before the replicas; without it callers know all of them.")
@click.option("--pause-ms", type=click.FloatRange(0.0), default=20.0, help="Between two calls of a caller, on average.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of inputs and moments.")
@click.option("--folder", type=click.Path(path_type=Path), help="For logs and files, which stay; else a temporary one.")
def main(
    rounds: int,
    replicas: int,
    sessions: int,
    durability: str,
    proxy: str | None,
    pause_ms: float,
    seed: int,
    folder: Path | None,
) -> None:
    """Restarts the replicas of a fleet on Redis in turn (SIGTERM, wait, start) while callers step sessions.

    No caller may see an error, in either durability; every step has to be there once. The last line is one JSON
    object; the exit code is 0 only if all was as it has to be.
    """
    load = LoadPlan(sessions, seed, pause_ms / 1000)
    plan = RollingPlan(rounds, replicas, durability, proxy, load=load)
    with tempfile.TemporaryDirectory(prefix="cellserve-rolling-") as temporary:
        where = folder or Path(temporary)
        where.mkdir(parents=True, exist_ok=True)
        with failures_told(), make_fleet(plan, where) as fleet, progress("restarts", rounds * replicas) as note:
            report, errors = asyncio.run(run(plan, fleet, note))
    end_with(asdict(report), errors, passed=report.passed)


if __name__ == "__main__":
    main(prog_name="python -m tests.faults.rolling")
