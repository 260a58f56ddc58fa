"""What it costs to be watched: processor time a step of the server as it is, over that of the server without a part.

A server without its metrics, and one without its tracing, are copies of the source from which the statements were taken
out (``without.py``). The inspector is open on a session that is stepped, and asked as its page asks. An untouched copy
tells how far two equal servers are apart.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import without
from benchmarks.bursts import Caller, Contestant, Rhythm, alternate, call_in_loops
from benchmarks.command import run
from benchmarks.contestants import UNITS, normal, product
from benchmarks.page_reader import PageReader
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.samples import Pair, Sample, median_interval, median_of
from deploy.fleet.ports import free_ports

AS_IT_IS = "as it is"
INSPECTED = "the inspector open"
# Each key: what stands above the line, and what below.
RATIOS = {
    "metrics": (AS_IT_IS, "without metrics"),
    "tracing_off": (AS_IT_IS, "without tracing"),
    "inspector": (INSPECTED, AS_IT_IS),
    "same": (AS_IT_IS, "an untouched copy"),
}
COPIES: dict[str, Sequence[str]] = {
    "without metrics": without.METRICS,
    "without tracing": without.TRACING,
    "an untouched copy": (),
}
SCRAPED_BURSTS = 5  # one in so many
STEPS_METRIC = "cellserve_steps_total"


@dataclass(frozen=True)
class Plan:
    """How much.

    Attributes:
        sessions: stepped at once.
        lives: how often all servers are started anew: two processes of one program differ by some per cent for as long
            as they live, by where their memory lies.
        rhythm: of each life.
    """

    sessions: int
    lives: int
    rhythm: Rhythm


# Many short bursts: the weather changes within seconds.
FULL = Plan(256, lives=6, rhythm=Rhythm(rounds=9, warmup_s=0.1, seconds=0.4))
QUICK = Plan(256, lives=1, rhythm=Rhythm(rounds=2, warmup_s=0.2, seconds=0.4))


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: those of ``RATIOS``: medians over pairs of bursts; ``_low`` and ``_high``: the interval of that median."""
    result = Result()
    progress.expect(plan.lives * plan.rhythm.rounds)
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as folder:
        packages: dict[str, Path | None] = {AS_IT_IS: None, INSPECTED: None}
        for name, shapes in COPIES.items():
            package = packages[name] = Path(folder) / name.replace(" ", "-")
            package.mkdir()
            count = without.server_without(shapes, package)
            result.notes.append(f"{name}: {count} statements taken out")
        for life in range(plan.lives):
            pairs += await _live(plan, packages, life, progress)
    _report(result, list(packages), pairs)
    return result


async def _live(plan: Plan, packages: Mapping[str, Path | None], life: int, progress: Progress) -> list[Pair]:
    """Starts all servers, and has them take turns; nobody is always the first of a round."""
    names = list(packages)
    first = life % len(names)
    order = names[first:] + names[:first]
    async with AsyncExitStack() as stack:
        contestants = [await stack.enter_async_context(_served(name, plan, packages[name])) for name in order]
        rounds = await alternate(plan.rhythm.rounds, contestants, progress, "rounds", there_and_back=True)
    return [tuple(pair[order.index(name)] for name in names) for pair in rounds]


def _report(result: Result, names: list[str], pairs: list[Pair]) -> None:
    ratios = {}
    for key, (over, under) in RATIOS.items():
        above, below = names.index(over), names.index(under)
        found = [pair[above].server_cpu_us / pair[below].server_cpu_us for pair in pairs]
        low, high = median_interval(found)
        result.keys |= {key: statistics.median(found), f"{key}_low": low, f"{key}_high": high}
        ratios[over if under == AS_IT_IS else under] = f"{result.keys[key]:.3f} ({low:.3f} to {high:.3f})"
    for place, name in enumerate(names):
        samples = [pair[place] for pair in pairs]
        result.rows.append(
            {
                "server": name,
                "server us/step": round(median_of(samples, lambda sample: sample.server_cpu_us), 2),
                "steps/s": round(median_of(samples, lambda sample: sample.rate)),
                "ratio": ratios.get(name, ""),
            }
        )
    result.samples += [sample.as_record() for pair in pairs for sample in pair]


@asynccontextmanager
async def _served(name: str, plan: Plan, package: Path | None) -> AsyncIterator[Contestant]:
    """A server that is scraped in every fifth burst, which is more often than any Prometheus does."""
    (port,) = free_ports(1)
    page = f"http://127.0.0.1:{port}/metrics"
    flags = ("--inspector",) if name == INSPECTED else ()
    async with product("--http-port", str(port), *flags, package=package) as ours:
        inputs = normal(plan.sessions, UNITS)
        sessions = [await ours.cell.session() for _ in range(plan.sessions)]
        steppers = [Caller(session.step, row) for session, row in zip(sessions, inputs, strict=True)]

        bursts = itertools.count()

        async def scrape() -> None:
            if next(bursts) % SCRAPED_BURSTS:
                return
            await asyncio.sleep(plan.rhythm.warmup_s + plan.rhythm.seconds / 2)
            await asyncio.to_thread(_metric, page, STEPS_METRIC)

        reader = PageReader(port, sessions[0].id)

        async def burst() -> Sample:
            scraping = asyncio.create_task(scrape())
            reading = asyncio.create_task(reader.run()) if name == INSPECTED else None
            sample = await call_in_loops(name, steppers, ours.process, plan.rhythm)
            await scraping
            if reading is not None:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
            return sample

        yield burst
        assert (reader.steps > 0) == (name == INSPECTED), f"{name}: the inspector told of {reader.steps} steps"
        counted = _metric(page, STEPS_METRIC)
        assert (counted == 0) == (name == "without metrics"), f"{name}: {STEPS_METRIC} is {counted}"


def _metric(page: str, name: str) -> float:
    """The sum of a metric's series; 0: there are none."""
    with urllib.request.urlopen(page, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


if __name__ == "__main__":
    run("observability", measure, FULL, QUICK)
