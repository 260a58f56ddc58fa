"""What can come between replicas and Redis, one after the other; each returns when all is well again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from cellserve.errors import SessionMovedError, StepOutOfOrderError, StoreUnavailableError
from tests.faults.redis_commands import command
from tests.faults.stage import (
    FLUSH_INTERVAL_MS,
    STORE_TIMEOUT_MS,
    Stage,
    comes_to_refuse,
    goes_on,
    require,
    require_refused,
    until,
)

Scenario: TypeAlias = Callable[[Stage, float], Awaitable[None]]
# With async a replica goes on for two intervals, and may notice with the next attempt only that nothing is written.
PATIENCE_S = (3 * FLUSH_INTERVAL_MS + 2 * STORE_TIMEOUT_MS) / 1000 + 1.0
NOWHERE = 1  # a port on which nobody listens


async def cut_off(stage: Stage, away_s: float) -> None:
    """One replica's connections to Redis are cut: it answers STORE_UNAVAILABLE, and the others have its sessions."""
    may_lose = stage.durability == "async"
    async with stage.witness() as stays, stage.witness() as moves:
        await stage.proxy.cut()
        try:
            require_refused(await comes_to_refuse(stays, stage.far, PATIENCE_S), StoreUnavailableError)
            await goes_on(moves, stage.near[0], may_lose=may_lose)
            for expected_step in (len(moves.applied) - 1, len(moves.applied)):
                refusal = await moves.refusal(stage.far, expected_step=expected_step)
                require_refused(refusal, StoreUnavailableError, SessionMovedError)
            await goes_on(moves, stage.near[1])
            await asyncio.sleep(away_s)
            require_refused(await stays.refusal(stage.far), StoreUnavailableError)
        finally:
            await stage.proxy.mend()
        # What nobody took over is as it was; of what has moved it knows what the others did.
        await goes_on(stays, stage.far)
        stale = await moves.refusal(stage.far, expected_step=len(moves.applied) - 1)
        require_refused(stale, StepOutOfOrderError, SessionMovedError, StoreUnavailableError)
        await goes_on(moves, stage.far)


async def held_up(stage: Stage, away_s: float) -> None:
    """What one replica sends to Redis comes late, after others have taken the session: it changes nothing."""
    may_lose = stage.durability == "async"
    fenced = await stage.fenced()
    async with stage.witness() as witness:
        stage.proxy.hold()
        try:
            require_refused(await comes_to_refuse(witness, stage.far, PATIENCE_S), StoreUnavailableError)
            await goes_on(witness, stage.near[0], may_lose=may_lose)
            await asyncio.sleep(away_s)
        finally:
            stage.proxy.let_flow()
        for address in (stage.near[0], stage.near[1], stage.far, stage.near[0]):
            await goes_on(witness, address)
    if may_lose:
        require(await stage.fenced() > fenced, "the replica that was held up had nothing refused")


async def stopped(stage: Stage, away_s: float) -> None:
    """One replica does nothing for a while, and does not know that its sessions were taken: it is fenced."""
    may_lose = stage.durability == "async"
    fenced = await stage.fenced()
    async with stage.witness() as witness:
        stage.pause_far()
        try:
            await goes_on(witness, stage.near[0], may_lose=may_lose)
            await asyncio.sleep(away_s)
        finally:
            stage.resume_far()
        if may_lose:  # Until its next flush is refused it answers steps, which are lost, as those before a crash are.
            await until("its flush is refused", lambda: _is_more(stage.fenced, fenced))
        # The count that it would have to expect, were the session still its own.
        refusal = await witness.refusal(stage.far, expected_step=3)
        require_refused(refusal, SessionMovedError, StepOutOfOrderError)
        await goes_on(witness, stage.near[1])
        await goes_on(witness, stage.far)
    require(await stage.fenced() > fenced, "the replica that was stopped had nothing refused")


async def _is_more(count: Callable[[], Awaitable[int]], than: int) -> bool:
    return await count() > than


async def redis_killed(stage: Stage, away_s: float) -> None:
    """Redis is killed and reads its append-only file again: nothing is lost."""
    async with stage.witness() as witness:
        stage.redis.kill()
        try:
            require_refused(await comes_to_refuse(witness, stage.far, PATIENCE_S), StoreUnavailableError)
            await asyncio.sleep(away_s)
        finally:
            await asyncio.to_thread(stage.redis.start)
        for address in (stage.far, stage.near[0]):
            await goes_on(witness, address)


async def redis_hangs(stage: Stage, away_s: float) -> None:
    """Redis does nothing for a while, then does what it was told meanwhile: none of it twice."""
    async with stage.witness() as witness:
        stage.redis.pause()
        try:
            require_refused(await comes_to_refuse(witness, stage.far, PATIENCE_S), StoreUnavailableError)
            await asyncio.sleep(away_s)
        finally:
            stage.redis.resume()
        await goes_on(witness, stage.far, again=True)
        for address in (stage.far, stage.near[0]):
            await goes_on(witness, address)


async def redis_full(stage: Stage, away_s: float) -> None:
    """Redis has no room for anything more: the error says so."""
    await _refusing(
        stage, away_s, ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0), "out of memory"
    )


async def redis_read_only(stage: Stage, away_s: float) -> None:
    """Redis has become a replica of another one: the error says so."""
    begin = ("REPLICAOF", "127.0.0.1", NOWHERE)
    await _refusing(stage, away_s, begin, ("REPLICAOF", "NO", "ONE"), "read-only")


async def _refusing(
    stage: Stage, away_s: float, begin: tuple[str | int, ...], end: tuple[str | int, ...], word: str
) -> None:
    async with stage.witness() as witness:
        command(stage.redis.port, *begin)
        try:
            refusal = await comes_to_refuse(witness, stage.far, PATIENCE_S)
            require_refused(refusal, StoreUnavailableError)
            require(word in refusal.message, f"the message does not say {word!r}: {refusal.message}")
            await asyncio.sleep(away_s)
        finally:
            command(stage.redis.port, *end)
        for address in (stage.far, stage.near[0]):
            await goes_on(witness, address)


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "cut_off": cut_off,
        "held_up": held_up,
        "stopped": stopped,
        "redis_killed": redis_killed,
        "redis_hangs": redis_hangs,
        "redis_full": redis_full,
        "redis_read_only": redis_read_only,
    }
)
