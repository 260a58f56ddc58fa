"""``python -m tests.faults.masters``: one session through two replicas at once, and a checker of what was answered."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import grpc
import grpc.aio
import numpy as np

from cellserve.errors import (
    CellServeError,
    QueueFullError,
    SessionMovedError,
    StepOutOfOrderError,
    UnavailableError,
    from_rpc_error,
)
from cellserve.tensors import Array, array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import recurrent_service_pb2_grpc
from cellserve_client import aio
from deploy.fleet import Fleet
from tests.faults.check import TOLERANCE
from tests.faults.feed import CELL, CELL_SEED, DEPTH, UNITS, Feed
from tests.faults.history import Step, Verdict, judge
from tests.faults.reporting import end_with, failures_told, progress

SESSION_ID = "hammered"
RPC_TIMEOUT_S = 20.0
LONGEST_PAUSE_S = 0.02
FIXED_S = 120.0
BETWEEN_HANGS_S, HANG_S = (0.1, 1.0), (0.05, 1.5)
NO_OUTPUT: Array = np.zeros(UNITS, np.float32)


@dataclass(frozen=True)
class MastersPlan:
    """One run.

    Attributes:
        seconds: how long.
        callers: at each of the two replicas.
        durability: ``sync`` or ``async``.
        hangs: whether replicas are held (SIGSTOP) for a while, one after the other: then outcomes may be unknown.
        seed: of the inputs, and of the callers' whims.
    """

    seconds: float
    callers: int = 4
    durability: str = "sync"
    hangs: bool = False
    seed: int = 0


@dataclass(frozen=True)
class MastersReport:
    """What came of it.

    Attributes:
        steps: that were acknowledged.
        at_each: how many of them at each replica.
        refusals: how often callers were refused, by reason.
        unsure: steps whose outcome their callers were not told.
        hangs: how often a replica was held.
        lost, doubled, disordered, max_abs_diff: as of ``Verdict``.
        errors: that callers must not see.
    """

    steps: int
    at_each: list[int]
    refusals: dict[str, int]
    unsure: int
    hangs: int
    lost: int
    doubled: int
    disordered: int
    max_abs_diff: float
    errors: int

    @property
    def passed(self) -> bool:
        """Whether all was as it has to be."""
        wrong = self.lost or self.doubled or self.disordered or self.errors or not all(self.at_each)
        return not wrong and self.max_abs_diff <= TOLERANCE


class Hammer:
    """One caller, at one replica for good. It does what no client of ours does: it never follows a session.

    Args:
        number: its own.
        stub: of its replica.
        plan: the run.
        uses_counts: whether its steps name the count that they expect.
    """

    def __init__(
        self, number: int, stub: recurrent_service_pb2_grpc.RecurrentServiceStub, plan: MastersPlan, uses_counts: bool
    ) -> None:
        self.steps: list[Step] = []
        self.unsure: list[Step] = []
        self.refusals: Counter[str] = Counter()
        self.errors: list[str] = []
        self._number = number
        self._stub = stub
        self._feed = Feed(plan.seed)
        self._whims = np.random.default_rng([plan.seed, number])
        self._uses_counts = uses_counts
        self._may_be_unsure = plan.hangs
        self._known = 0
        self._sent = 0

    async def run(self, until: float) -> None:
        """Steps the session until then, by the monotonic clock."""
        while time.monotonic() < until and not self.errors:
            self._sent += 1
            inputs = self._feed.at(self._number, self._sent)
            began = time.monotonic()
            try:
                await self._step(inputs, began)
            except grpc.aio.AioRpcError as error:
                await self._refused(from_rpc_error(error), inputs, began)

    async def _step(self, inputs: Array, began: float) -> None:
        # What is refused is not repeated: the next step is one of its own, with an input of its own.
        request = messages.StepRequest(
            name=f"sessions/{SESSION_ID}",
            inputs=[tensor_from_array(inputs)],
            expected_step=self._known if self._uses_counts else None,
            run_id=int(self._whims.integers(1, 1 << 62)) if self._whims.random() < 0.5 else 0,
        )
        answer: messages.StepResponse = await self._stub.Step(request, timeout=RPC_TIMEOUT_S)
        ended = time.monotonic()
        output = array_from_tensor(answer.outputs[0], "outputs[0]")
        self.steps.append(Step(self._number, self._sent, inputs, answer.step_count, output, began, ended))
        self._known = answer.step_count
        if answer.replayed:
            self.errors.append(f"caller {self._number}: step {answer.step_count} was answered as a repeat; it was none")

    async def _refused(self, error: CellServeError, inputs: Array, began: float) -> None:
        """What tells for sure that the step was not applied is no error."""
        if isinstance(error, UnavailableError) and self._may_be_unsure:
            self.unsure.append(Step(self._number, self._sent, inputs, 0, NO_OUTPUT, began, float("inf")))
        elif isinstance(error, StepOutOfOrderError) and self._uses_counts:
            self._known = int(error.metadata["step_count"])
        elif not isinstance(error, SessionMovedError | QueueFullError):
            self.errors.append(f"caller {self._number}: {type(error).__name__}: {error.message}")
        self.refusals[error.reason] += 1
        await asyncio.sleep(float(self._whims.uniform(0.0, LONGEST_PAUSE_S)))


async def run(plan: MastersPlan, fleet: Fleet, note: Callable[[int, str], None]) -> tuple[MastersReport, list[str]]:
    """Hammers one session through two replicas of a fleet that runs.

    Returns:
        The report, and what callers must not see.
    """
    async with asyncio.timeout(FIXED_S + plan.seconds):
        async with aio.connect(fleet.addresses[0]) as server:
            cell = await server.cell(CELL, input_size=DEPTH, seed=CELL_SEED)
            session = await server.session(cell, session_id=SESSION_ID)
            session.detach()
        killer = asyncio.create_task(_hang(plan, fleet)) if plan.hangs else None
        channels = [grpc.aio.insecure_channel(address) for address in fleet.addresses[:2]]
        hammers = [
            Hammer(number, recurrent_service_pb2_grpc.RecurrentServiceStub(channels[number % 2]), plan, number % 4 < 2)
            for number in range(2 * plan.callers)
        ]
        began = time.monotonic()
        tasks = [asyncio.create_task(hammer.run(began + plan.seconds)) for hammer in hammers]
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=0.2)
            note(int(time.monotonic() - began), f"{sum(len(hammer.steps) for hammer in hammers):,} steps")
        await asyncio.gather(*tasks)
        hangs = 0 if killer is None else await killer
        for channel in channels:
            await channel.close()
        async with aio.connect(fleet.addresses[1]) as server:
            step_count = (await server.session_info(SESSION_ID)).step_count
    steps = [step for hammer in hammers for step in hammer.steps]
    unsure = [step for hammer in hammers for step in hammer.unsure]
    verdict: Verdict = judge(steps, step_count, unsure)
    errors = [error for hammer in hammers for error in hammer.errors]
    report = MastersReport(
        steps=len(steps),
        at_each=[sum(len(hammer.steps) for hammer in hammers[place::2]) for place in (0, 1)],
        refusals=dict(sum((hammer.refusals for hammer in hammers), Counter())),
        unsure=len(unsure),
        hangs=hangs,
        lost=verdict.lost,
        doubled=verdict.doubled,
        disordered=verdict.disordered,
        max_abs_diff=verdict.max_abs_diff,
        errors=len(errors),
    )
    return report, errors


async def _hang(plan: MastersPlan, fleet: Fleet) -> int:
    """Holds replicas, one after the other, until time is over; how often."""
    whims = np.random.default_rng([plan.seed, 79])
    hangs = 0
    until = time.monotonic() + plan.seconds
    while time.monotonic() < until:
        await asyncio.sleep(float(whims.uniform(*BETWEEN_HANGS_S)))
        index = int(whims.integers(2))
        fleet.pause(index)
        try:
            await asyncio.sleep(float(whims.uniform(*HANG_S)))
        finally:
            fleet.resume(index)
        hangs += 1
    return hangs


def make_fleet(plan: MastersPlan, folder: Path) -> Fleet:
    """The fleet of a run, with its logs and files in a folder; nothing runs yet."""
    arguments = ["--flush-interval-ms", "100", "--takeover-timeout-ms", "200"]
    return Fleet(2, folder=folder, durability=plan.durability, proxy=None, arguments=arguments)


@click.command(context_settings={"show_default": True})
@click.option("--seconds", type=click.FloatRange(0.5, 3600.0), default=10.0, help="How long.")
@click.option("--callers", type=click.IntRange(1, 64), default=4, help="At each of the two replicas.")
@click.option("--durability", type=click.Choice(["sync", "async"]), default="sync")
@click.option("--hangs", is_flag=True, help="Holds replicas (SIGSTOP) now and then; with sync only.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the inputs and the callers' whims.")
@click.option("--folder", type=click.Path(path_type=Path), help="For logs and files, which stay; else a temporary one.")
def main(seconds: float, callers: int, durability: str, hangs: bool, seed: int, folder: Path | None) -> None:
    """Hammers one session through two replicas at once, from callers that never follow it.

    A checker looks whether all that was answered fits one order of the steps, each of them there once. The last line is
    one JSON object; the exit code is 0 only if it does.
    """
    if hangs and durability != "sync":
        raise click.UsageError("--hangs: a replica of durability async that hangs may lose steps, as it says")
    plan = MastersPlan(seconds, callers, durability, hangs, seed)
    with tempfile.TemporaryDirectory(prefix="cellserve-masters-") as temporary:
        where = folder or Path(temporary)
        where.mkdir(parents=True, exist_ok=True)
        with failures_told(), make_fleet(plan, where) as fleet, progress("seconds", int(seconds)) as note:
            report, errors = asyncio.run(run(plan, fleet, note))
    end_with(asdict(report), errors, passed=report.passed)


if __name__ == "__main__":
    main(prog_name="python -m tests.faults.masters")
