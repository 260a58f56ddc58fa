"""The loop that ticks: schedule, gather, compute, commit, answer.

A lane has two kinds of work that take turns: single steps of sessions, all in columns; and longer runs, which go on by
some time steps at a time (a chunk), because a product over many steps costs little more than one over one. A chunk is
cut so that it takes about ``max_chunk_us``, and has at most ``max_chunk_steps``: so long a single step waits for
sequences of any length.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from cellserve_server.config import ServerConfig
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.chunk_ticks import ChunkTicks
from cellserve_server.engine.computing import Computing
from cellserve_server.engine.observing import TickObserver
from cellserve_server.engine.owner import Owner
from cellserve_server.engine.runs import Run
from cellserve_server.engine.scheduler import Scheduler, Taken
from cellserve_server.engine.sharing import Sharing
from cellserve_server.engine.step_ticks import StepTicks
from cellserve_server.metrics import EngineMetrics
from cellserve_server.sessions.lanes import Lane
from cellserve_server.sessions.seats import Seats
from cellserve_server.sessions.session import Session

# While several tenants share the server a tick is followed by several turns of the event loop: grpc takes some four to
# hand a call over, and each of them would wait for a tick of whoever has most in line.
WAY_PER_TICK = 8.0
MOST_WAY_S = 0.01  # What is computed in the thread has left the loop free.
# Who has no more rows of single steps in line does not have to wait until ticks have given way.
SMALL_ROWS = 16
# Lone steps of a tenant that are done as they come between two ticks of what others have in line.
MOST_ASIDES = 8
QUIET_TURNS = 8
QUIET_TURN_S = 30e-6


class TickLoop:
    """Ticks as long as there is work.

    Args:
        config: the limits.
        metrics: told of ticks and steps.
        observers: told of ticks.
        clock: the engine's.
        owner: told how work ends.
        sharing: told who brings work.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: EngineMetrics,
        observers: Sequence[TickObserver],
        clock: Callable[[], float],
        owner: Owner,
        sharing: Sharing,
    ) -> None:
        # Of a lane's queues those of single steps are their seats; the one of longer runs is None.
        self._scheduler: Scheduler[Lane, Seats[Session] | None, Run | StepBlock] = Scheduler(
            self._most_rows, SMALL_ROWS, is_brief=lambda seats: seats is not None
        )
        self._config = config
        self._clock = clock
        self._wake = asyncio.Event()
        self._computing = Computing(config.inline_tick_us)
        self._chunks = ChunkTicks(config, self._computing, metrics, observers, clock, owner, self._go_on)
        self._steps = StepTicks(self._computing, self._chunks, metrics, observers, clock, owner)
        self._sharing = sharing
        self._asides: Counter[str] = Counter()  # by tenant, since the last tick
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Starts the loop."""
        self._task = asyncio.get_running_loop().create_task(self._loop(), name="cellserve-engine")
        return self._task

    async def stop(self) -> None:
        """Stops the loop and the compute thread."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._computing.stop()

    def add_block(self, lane: Lane, block: StepBlock) -> None:
        """Takes a block, whose sessions are idle; they are its from now on."""
        block.occupy()
        block.ready = self._clock()
        tenant, client = block.client
        self._scheduler.add(lane, block.seats, client, block, block.seats.rows, len(block), tenant)
        self._sharing.note(tenant)
        self._wake.set()

    def add_run(self, lane: Lane, run: Run) -> None:
        """Takes a prepared run. A single step of a session goes with the blocks, all else by chunks."""
        seats = run.session.seats if run.session is not None and run.is_plain_step else None
        run.ready = self._clock()
        tenant, client = run.client
        self._scheduler.add(lane, seats, client, run, run.rows, tenant=tenant)
        self._sharing.note(tenant)
        self._wake.set()

    def take_aside(self, tenant: str) -> bool:
        """Whether a lone step of a tenant may be done at once although others have work; it counts as done.

        Only so many until the next tick: who brings ever more lone steps, each in a message of its own, would never
        stand in line.
        """
        self._asides[tenant] += 1
        return self._asides[tenant] <= MOST_ASIDES

    def _go_on(self, lane: Lane, run: Run) -> None:
        """A run has steps left."""
        tenant, client = run.client
        self._scheduler.add(lane, None, client, run, run.rows, tenant=tenant)

    def _most_rows(self, lane: Lane) -> int:
        most = self._config.max_tick_rows
        if self._sharing.is_shared:
            most = min(most, self._config.max_shared_tick_rows)
        return lane.rows_within(self._config.max_tick_us / 1e6 / self._computing.slowness, most)

    async def _loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._scheduler:
                began = time.perf_counter()
                await self._tick(*self._scheduler.next_tick())
                self._asides.clear()
                # What has arrived meanwhile comes in here and is part of the next tick.
                await asyncio.sleep(0)
                if self._sharing.is_shared:
                    await self._give_way(time.perf_counter() - began)

    async def _tick(self, lane: Lane, seats: Seats[Session] | None, taken: Sequence[Taken[Run | StepBlock]]) -> None:
        more = partial(self._scheduler.more, lane, seats)
        if seats is None:
            await self._chunks.tick(lane, taken, more, is_crowded=self._scheduler.has(lane, seats))
        else:
            await self._steps.tick(lane, seats, taken, more)

    async def _give_way(self, ticked_s: float) -> None:
        """Lets the event loop do what else there is, until it finds nothing for some turns, or for so many times as
        long as the tick took. Single steps of who has few of them are done meanwhile, for as long as the tick took:
        whoever has more keeps half of what is computed.
        """
        turned = time.perf_counter()
        end = turned + min(WAY_PER_TICK * ticked_s, MOST_WAY_S)
        left_s = ticked_s
        quiet = 0
        while quiet < QUIET_TURNS and turned < end:
            await asyncio.sleep(0)
            if left_s > 0 and (small := self._scheduler.next_small()) is not None:
                left_s += time.perf_counter()
                await self._tick(*small)
                left_s -= time.perf_counter()
            began, turned = turned, time.perf_counter()
            quiet = quiet + 1 if turned - began < QUIET_TURN_S else 0
