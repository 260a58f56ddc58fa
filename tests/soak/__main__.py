"""``python -m tests.soak --minutes 15``: everything comes and goes, and the server ends as it began."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from tests.faults.reporting import end_with, failures_told, progress
from tests.soak.premises import premises
from tests.soak.soak import soak


@click.command(context_settings={"show_default": True})
@click.option("--minutes", type=click.FloatRange(0.1, 10_000), default=15.0, help="How long, after the warm-up.")
@click.option("--seconds", type=click.FloatRange(5), help="The same in seconds.")
@click.option("--store", type=click.Choice(["sqlite", "memory"]), default="sqlite", help="Where sessions are kept.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Says what is done, and when.")
def main(minutes: float, seconds: float | None, store: str, seed: int) -> None:
    """Sessions come and go, streams break, models reload, calls are given up, clients are killed.

    After a warm-up what the server holds at rest is noted. In the end, at rest, its open files, tasks, threads,
    sessions, rows of states and models have to be exactly as many, and its memory to have grown by less than 1 MiB a
    minute. The last line is one JSON object; the exit code is 0 only if all was as it has to be.
    """
    duration_s = 60 * minutes if seconds is None else seconds
    with (
        tempfile.TemporaryDirectory(prefix="cellserve-soak-") as folder,
        premises(store, Path(folder)) as house,
        failures_told(),
        progress("seconds", round(duration_s)) as note,
    ):
        report, errors = asyncio.run(soak(house, duration_s, seed, note))
    end_with(asdict(report), errors, passed=report.passed)


if __name__ == "__main__":
    main(prog_name="python -m tests.soak")
