"""256 coroutines, each awaiting ``session.step``, by where sessions are kept, against bare loops that only commit."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bare_stores import BareRedis, BareSqlite
from benchmarks.bursts import Caller, Contestant, Rhythm, alternate, call_in_loops, call_one_by_one
from benchmarks.command import run
from benchmarks.contestants import UNITS, Product, normal, plain, product
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.samples import Pair, Sample, absolutes, median_ratio
from deploy.fleet.errors import MissingProgramError
from deploy.fleet.ports import free_ports
from deploy.fleet.redis_server import RedisServer

MEMORY = "memory"
# Each product against what its ratio is taken.
RATIOS = {
    "sqlite_sync": ("sqlite_sync", "bare_sqlite"),
    "redis_sync": ("redis_sync", "bare_redis"),
    "sqlite_async": ("sqlite_async", MEMORY),
    "redis_async": ("redis_async", MEMORY),
    "sqlite_sync_of_memory": ("sqlite_sync", MEMORY),
    "redis_sync_of_memory": ("redis_sync", MEMORY),
}


DATABASES = {"sync": 1, "async": 2}


@dataclass(frozen=True)
class Plan:
    """How much."""

    sessions: int
    rhythm: Rhythm


FULL = Plan(256, Rhythm(rounds=8, warmup_s=0.3, seconds=1.0))
QUICK = Plan(256, Rhythm(rounds=2, warmup_s=0.2, seconds=0.4))


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: those of ``RATIOS``, and the rate of each contestant."""
    result = Result()
    progress.expect(plan.rhythm.rounds)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores = {"sqlite": f"sqlite:{folder / 'sessions.db'}"}
        contestants = {"bare_sqlite": _bare(stack, "bare_sqlite", BareSqlite(folder / "bare.db", plan.sessions), plan)}
        try:
            redis = stack.enter_context(_redis(folder))
        except MissingProgramError as error:
            result.notes.append(f"Redis was left out: {error}")
        else:
            stores["redis"] = redis.url
            contestants["bare_redis"] = _bare(stack, "bare_redis", BareRedis(redis.url, plan.sessions), plan)
        contestants[MEMORY] = await stack.enter_async_context(_served(MEMORY, plan))
        for kind, url in stores.items():
            for durability in DATABASES:
                # Files and databases of their own: a server that shares one asks the other for its sessions.
                own = f"{url}.{durability}" if kind == "sqlite" else f"{url[:-1]}{DATABASES[durability]}"
                flags = ("--store", own, "--durability", durability)
                name = f"{kind}_{durability}"
                contestants[name] = await stack.enter_async_context(_served(name, plan, *flags))
        names = list(contestants)
        pairs = await alternate(plan.rhythm.rounds, list(contestants.values()), progress, "rounds")
    _report(result, names, pairs)
    return result


def _report(result: Result, names: list[str], pairs: list[Pair]) -> None:
    rates = {name: absolutes([pair[place] for pair in pairs]) for place, name in enumerate(names)}
    for key, (over, under) in RATIOS.items():
        if over in names:
            result.keys[key] = median_ratio(
                pairs, lambda sample: sample.rate, over=names.index(over), under=names.index(under)
            )
    for name, found in rates.items():
        result.keys[f"rate_{name}"] = found["rate"]
        result.rows.append(
            {
                "sessions kept in": name,
                "steps/s": round(found["rate"]),
                "server us/step": round(found["server_cpu_us"], 1),
                "p50 ms": round(found["p50_ms"], 2),
                "p99 ms": round(found["p99_ms"], 2),
            }
        )
    result.samples += [sample.as_record() for pair in pairs for sample in pair]


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[RedisServer]:
    (port,) = free_ports(1)
    server = RedisServer(port, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _bare(stack: AsyncExitStack, name: str, store: BareSqlite | BareRedis, plan: Plan) -> Contestant:
    stack.callback(store.close)
    caller = Caller(plain(store.commit), None)

    async def burst() -> Sample:
        return await call_one_by_one(name, caller, None, plan.rhythm.seconds, plan.sessions)

    return burst


@contextlib.asynccontextmanager
async def _served(name: str, plan: Plan, *flags: str) -> AsyncIterator[Contestant]:
    async with product(*flags) as ours:
        steppers = await _steppers(ours, plan.sessions)
        yield lambda: call_in_loops(name, steppers, ours.process, plan.rhythm)


async def _steppers(ours: Product, count: int) -> list[Caller]:
    inputs = normal(count, UNITS)
    sessions = [await ours.cell.session() for _ in range(count)]
    return [Caller(session.step, row) for session, row in zip(sessions, inputs, strict=True)]


if __name__ == "__main__":
    run("durability", measure, FULL, QUICK)
