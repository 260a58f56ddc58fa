"""What a server with 10,000 open sessions costs while nobody steps them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.command import run
from benchmarks.contestants import product
from benchmarks.progress import Progress
from benchmarks.results import Result


@dataclass(frozen=True)
class Plan:
    """How much.

    Attributes:
        sessions: open, and left alone.
        settle_s: how long the server has to come to rest.
        seconds: how long is measured.
        readings: how many pieces that is cut into, to be seen one by one.
    """

    sessions: int
    settle_s: float
    seconds: float
    readings: int


FULL = Plan(10_000, settle_s=2.0, seconds=60.0, readings=12)
QUICK = Plan(10_000, settle_s=1.0, seconds=5.0, readings=1)


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: ``cpu_percent``, the server's processor time in percent of one core, and ``seconds``."""
    progress.expect(plan.readings)
    samples = []
    async with product() as ours:
        await ours.server.session_group(ours.cell, plan.sessions)
        await asyncio.sleep(plan.settle_s)
        for _ in range(plan.readings):
            began, spent = time.perf_counter(), ours.process.cpu_s()
            await asyncio.sleep(plan.seconds / plan.readings)
            samples.append({"seconds": time.perf_counter() - began, "server_cpu_s": ours.process.cpu_s() - spent})
            progress.advance(f"{plan.sessions:,} sessions")
    seconds, server_cpu_s = (sum(sample[key] for sample in samples) for key in ("seconds", "server_cpu_s"))
    keys = {"cpu_percent": 100 * server_cpu_s / seconds, "seconds": seconds}
    return Result(keys, [{"sessions": plan.sessions, **keys}], samples)


if __name__ == "__main__":
    run("idle", measure, FULL, QUICK)
