"""``python -m tests.faults.partition``: Redis out of reach of one replica, gone for all, full, or read-only."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from cellserve.errors import CellServeError
from cellserve_client import aio
from tests.faults.callers import Callers, LoadPlan
from tests.faults.check import TOLERANCE, compare
from tests.faults.reporting import end_with, failures_told, progress
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import Stage
from tests.faults.witness import WrongStepError

FIXED_S, PER_SCENARIO_S = 60.0, 120.0
GOOD = "good"


@dataclass(frozen=True)
class PartitionPlan:
    """One run.

    Attributes:
        scenarios: names of what happens, in order.
        durability: ``sync`` or ``async``.
        away_s: how long each fault lasts, in seconds.
        load: what the callers do.
    """

    scenarios: Sequence[str] = tuple(SCENARIOS)
    durability: str = "sync"
    away_s: float = 1.5
    load: LoadPlan = field(default_factory=LoadPlan)


@dataclass(frozen=True)
class PartitionReport:
    """What came of it.

    Attributes:
        scenarios: what each was in the end: ``good``, or what was wrong.
        steps: that callers had acknowledged.
        lost, doubled, max_abs_diff: as of ``Comparison``.
        errors: that callers saw.
        rolled_back: steps that callers were told of as lost (``async`` alone).
        fenced: writes of the replica that was cut off that Redis refused.
        longest_pause_ms: the longest that one call took.
    """

    scenarios: dict[str, str]
    steps: int
    lost: int
    doubled: int
    max_abs_diff: float
    errors: int
    rolled_back: int
    fenced: int
    longest_pause_ms: int

    @property
    def passed(self) -> bool:
        """Whether all was as it has to be."""
        is_good = all(outcome == GOOD for outcome in self.scenarios.values())
        return is_good and not (self.lost or self.doubled or self.errors) and self.max_abs_diff <= TOLERANCE


async def run(plan: PartitionPlan, folder: Path, note: Callable[[int, str], None]) -> tuple[PartitionReport, list[str]]:
    """Runs the scenarios while callers step sessions through all replicas.

    Returns:
        The report, and what callers saw as errors.

    Raises:
        TimeoutError: it does not come to an end.
    """
    stage = Stage(plan.durability, folder)
    async with asyncio.timeout(FIXED_S + PER_SCENARIO_S * len(plan.scenarios)), stage.running():
        address = ",".join([*stage.near, stage.far])
        async with aio.connect(address) as server:
            callers = Callers(server, plan.load)
            await callers.open()
            callers.start()
            outcomes: dict[str, str] = {}
            try:
                for name in plan.scenarios:
                    outcomes[name] = await _outcome(name, stage, plan.away_s)
                    callers.require_running()
                    note(len(outcomes), name)
            finally:
                await callers.finish()
        fenced = await stage.fenced()
        async with aio.connect(address) as server:
            comparison = await compare(server, callers.ids, callers.answers, callers.feed)
    tally = callers.tally
    report = PartitionReport(
        scenarios=outcomes,
        steps=tally.steps,
        lost=comparison.lost,
        doubled=comparison.doubled,
        max_abs_diff=comparison.max_abs_diff,
        errors=len(tally.errors),
        rolled_back=sum(len(rollback.acknowledged_at) for rollback in tally.rollbacks),
        fenced=fenced,
        longest_pause_ms=round(tally.longest_pause_s * 1000),
    )
    return report, tally.errors


async def _outcome(name: str, stage: Stage, away_s: float) -> str:
    try:
        await SCENARIOS[name](stage, away_s)
    except (WrongStepError, CellServeError) as error:
        return f"{type(error).__name__}: {error}"
    return GOOD


@click.command(context_settings={"show_default": True})
@click.option("--scenario", "scenarios", type=click.Choice(list(SCENARIOS)), multiple=True, help="Some; else all.")
@click.option("--sessions", type=click.IntRange(1, 4096), default=64, help="Stepped at once, each by its caller.")
@click.option("--durability", type=click.Choice(["sync", "async"]), default="sync")
@click.option("--away-s", type=click.FloatRange(0.0, 20.0), default=1.5, help="How long each fault lasts, in seconds.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of inputs and of the callers' whims.")
@click.option("--folder", type=click.Path(path_type=Path), help="For logs and files, which stay; else a temporary one.")
def main(
    scenarios: tuple[str, ...], sessions: int, durability: str, away_s: float, seed: int, folder: Path | None
) -> None:
    """Cuts a replica off from Redis, holds up what it sends, stops it; kills, fills and closes Redis; all under load.

    A replica without its store answers UNAVAILABLE and never a wrong step, the others have its sessions, and it is
    fenced when it is back. The last line is one JSON object; the exit code is 0 only if all was as it has to be.
    """
    load = LoadPlan(sessions, seed, handles_rollbacks=durability == "async")
    plan = PartitionPlan(scenarios or tuple(SCENARIOS), durability, away_s, load)
    with tempfile.TemporaryDirectory(prefix="cellserve-partition-") as temporary:
        where = folder or Path(temporary)
        where.mkdir(parents=True, exist_ok=True)
        with failures_told(), progress("scenarios", len(plan.scenarios)) as note:
            report, errors = asyncio.run(run(plan, where, note))
    end_with(asdict(report), errors, passed=report.passed)


if __name__ == "__main__":
    main(prog_name="python -m tests.faults.partition")
