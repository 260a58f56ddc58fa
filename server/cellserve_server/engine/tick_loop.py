"""The loop that ticks: schedule, gather, compute, commit, answer.

A lane has two kinds of work that take turns: single steps of sessions, all in columns; and longer runs, which go on by
some time steps at a time (a chunk), because a product over many steps costs little more than one over one. A chunk is
cut so that it takes about ``max_chunk_us``, and has at most ``max_chunk_steps``: so long a single step waits for
sequences of any length.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from cellserve_server.config import ServerConfig
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.chunk_ticks import ChunkTicks
from cellserve_server.engine.computing import Computing
from cellserve_server.engine.observing import TickObserver
from cellserve_server.engine.owner import Owner
from cellserve_server.engine.run_queue import RunQueue
from cellserve_server.engine.runs import Run
from cellserve_server.engine.scheduler import Scheduler
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
# Who has no more than this under way does not have to wait until ticks have given way.
MODEST_RUNS = 16
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
        queue: knows how much is under way.
        sharing: told who brings work.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: EngineMetrics,
        observers: Sequence[TickObserver],
        clock: Callable[[], float],
        owner: Owner,
        queue: RunQueue,
        sharing: Sharing,
    ) -> None:
        # Of a lane's queues those of single steps are their seats; the one of longer runs is None.
        self._scheduler: Scheduler[Lane, Seats[Session] | None, Run | StepBlock] = Scheduler(self._most_rows)
        self._config = config
        self._clock = clock
        self._wake = asyncio.Event()
        self._computing = Computing(config.inline_tick_us)
        self._chunks = ChunkTicks(config, self._computing, metrics, observers, clock, owner, self._go_on)
        self._steps = StepTicks(self._computing, self._chunks, metrics, observers, clock, owner)
        self._queue = queue
        self._sharing = sharing
        self._brought: dict[str, None] = {}  # tenants that have brought work lately, in order
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
        self._note_work_of(tenant)
        self._wake.set()

    def add_run(self, lane: Lane, run: Run) -> None:
        """Takes a prepared run. A single step of a session goes with the blocks, all else by chunks."""
        seats = run.session.seats if run.session is not None and run.is_plain_step else None
        run.ready = self._clock()
        tenant, client = run.client
        self._scheduler.add(lane, seats, client, run, run.rows, tenant=tenant)
        self._note_work_of(tenant)
        self._wake.set()

    def _note_work_of(self, tenant: str) -> None:
        self._sharing.note(tenant)
        self._brought[tenant] = None

    def _go_on(self, lane: Lane, run: Run) -> None:
        """A run has steps left."""
        tenant, client = run.client
        self._scheduler.add(lane, None, client, run, run.rows, tenant=tenant)
        self._sharing.note(tenant)

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
                await self._tick()
                # What has arrived meanwhile comes in here and is part of the next tick.
                await asyncio.sleep(0)
                if self._sharing.is_shared:
                    await self._give_way(time.perf_counter() - began)

    async def _tick(self, among: Collection[str] | None = None) -> None:
        """Does the next tick, or one of some tenants alone."""
        lane, seats, taken = self._scheduler.next_tick(among)
        more = partial(self._scheduler.more, lane, seats)
        if seats is None:
            await self._chunks.tick(lane, taken, more, is_crowded=self._scheduler.has(lane, seats))
        else:
            await self._steps.tick(lane, seats, taken, more)

    async def _give_way(self, ticked_s: float) -> None:
        """Lets the event loop do what else there is, until it finds nothing for some turns, or for so many times as
        long as the tick took. Who brings little has it done meanwhile.
        """
        turned = time.perf_counter()
        end = turned + min(WAY_PER_TICK * ticked_s, MOST_WAY_S)
        quiet = 0
        while quiet < QUIET_TURNS and turned < end:
            await asyncio.sleep(0)
            modest = [tenant for tenant in self._brought if self._queue.runs_of(tenant) <= MODEST_RUNS]
            if self._scheduler.has_any(modest):
                await self._tick(modest)
            else:
                self._brought.clear()
            began, turned = turned, time.perf_counter()
            quiet = quiet + 1 if turned - began < QUIET_TURN_S else 0
