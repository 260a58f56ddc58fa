"""A polite tenant's steps beside a greedy one's, which floods the server by many streams and many plain calls.

The polite one steps its sessions at a steady rate, most through the client and some by plain ``Step`` calls, from a
process of its own. It is measured alone and beside the other, in turns.
Beside its time stands how much processor time the server spent meanwhile: a server that is flooded spends all that the
machine gives it, so this is how long the step would have taken on a machine that has nothing else to do.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np

from benchmarks.bursts import Caller, Rhythm, alternate
from benchmarks.command import run
from benchmarks.contestants import SEED, UNITS, bare_channel, lstm, normal
from benchmarks.processes import ServerProcess, cellserve
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.samples import Sample, Times, absolutes, median_ratio, percentiles
from benchmarks.workers import Commands, Worker
from cellserve.tensors import tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import recurrent_service_pb2_grpc, stream_pb2
from cellserve_client import aio
from cellserve_server.security.tokens import line_of, new_token

Stub = recurrent_service_pb2_grpc.RecurrentServiceStub
Metadata = tuple[tuple[str, str], ...]
# By turn: of each round a sample of all steps and one of each part, by time and by the server's processor time.
Samples = dict[str, tuple[list[list[Sample]], list[list[Sample]]]]

# What the greedy one has at once: streams, each with groups of sessions that are stepped without a pause; and calls.
STREAMS, GROUPS, MEMBERS = 16, 4, 256
CONNECTIONS, CALLS = 2, 250
PARTS = ("all", "through the client", "plain calls")


@dataclass(frozen=True)
class Plan:
    """How much.

    Attributes:
        streamers, callers: the polite tenant's sessions that are stepped through the client, and by plain calls.
        period_s: how often each of them is stepped, in seconds.
    """

    streamers: int
    callers: int
    period_s: float
    rhythm: Rhythm


FULL = Plan(32, 8, 0.1, Rhythm(rounds=8, warmup_s=1.0, seconds=5.0))
QUICK = Plan(32, 8, 0.1, Rhythm(rounds=2, warmup_s=0.5, seconds=2.0))


# --- the greedy one ---------------------------------------------------------------------------------------------------


async def flood(commands: Commands, server: ServerProcess, _: int) -> None:
    """What the other process does: is sent its token, then floods the server for as many seconds as it is sent.

    Each answer: how many of its steps were done in that time, in streams and in calls, and how many calls were refused.
    """
    token = await commands.next()
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(aio.connect(server.address, token=token))
        cell = await lstm(connection)
        called = [(await cell.session()).detach() for _ in range(CONNECTIONS * CALLS)]
        stubs = [await _own_connection(stack, server) for _ in range(STREAMS + CONNECTIONS)]
        metadata = _metadata_of(token)
        floods = [_GreedyStream(stub, metadata, name) for name, stub in enumerate(stubs[:STREAMS])]
        assert cell.info is not None, "it has sessions"
        for each in floods:
            await each.open(f"models/{cell.info.name}")
        commands.answer(None)
        while (seconds := await commands.next()) is not None:
            end = time.perf_counter() + seconds
            calls = [
                _call_until(end, stubs[STREAMS + place % CONNECTIONS], metadata, name)
                for place, name in enumerate(called)
            ]
            streamed, found = await asyncio.gather(
                asyncio.gather(*(each.step_until(end) for each in floods)), asyncio.gather(*calls)
            )
            commands.answer((sum(streamed), sum(done for done, _ in found), sum(refused for _, refused in found)))


async def _own_connection(stack: AsyncExitStack, server: ServerProcess) -> Stub:
    # grpc has the channels of one process share a connection otherwise.
    channel = grpc.aio.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)])
    return Stub(await stack.enter_async_context(channel))


class _GreedyStream:
    """A stream whose groups each have a message under way all the time."""

    def __init__(self, stub: Stub, metadata: Metadata, name: int) -> None:
        self._call = stub.StreamSteps(metadata=metadata)
        self._name = name
        self._inputs = normal(MEMBERS, UNITS).tobytes()

    async def open(self, model: str) -> None:
        """Makes its sessions."""
        for group in range(GROUPS):
            names = [f"sessions/greedy-{self._name}-{group}-{member}" for member in range(MEMBERS)]
            opened = stream_pb2.Open(
                seq=1, group=group, model=model, names=names, handles=range(MEMBERS), create_if_missing=True
            )
            await self._call.write(stream_pb2.StreamStepsRequest(open=opened))
            await self._call.read()

    async def step_until(self, end: float) -> int:
        """Steps all that it has, again and again; how many steps were done."""
        done = 0
        left = dict.fromkeys(range(GROUPS), 0)
        for group in left:
            left[group] = await self._send(group)
        while any(left.values()):
            answer = (await self._call.read()).stepped
            done += len(answer.step_counts)
            left[answer.group] -= len(answer.step_counts) + len(answer.errors)
            if not left[answer.group] and time.perf_counter() < end:
                left[answer.group] = await self._send(answer.group)
        return done

    async def _send(self, group: int) -> int:
        steps = stream_pb2.Steps(seq=2, group=group, handles=range(MEMBERS), inputs=[self._inputs])
        await self._call.write(stream_pb2.StreamStepsRequest(steps=steps))
        return MEMBERS


async def _call_until(end: float, stub: Stub, metadata: Metadata, name: str) -> tuple[int, int]:
    """Steps a session by one call after the other, and does not care for refusals; how many were done, and refused."""
    request = messages.StepRequest(name=f"sessions/{name}", inputs=[tensor_from_array(normal(UNITS))])
    done = refused = 0
    while time.perf_counter() < end:
        try:
            await stub.Step(request, metadata=metadata)
            done += 1
        except grpc.aio.AioRpcError:
            refused += 1
    return done, refused


def _metadata_of(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


# --- the polite one ---------------------------------------------------------------------------------------------------


async def step_politely(
    name: str, groups: Sequence[Sequence[Caller]], plan: Plan, server: ServerProcess
) -> tuple[list[Sample], list[Sample]]:
    """Each caller makes a call every so often, or as soon as it has its last answer.

    Returns:
        A sample of all calls, and one of those of each group; and the same of the server's processor time.
    """
    began = time.perf_counter() + plan.rhythm.warmup_s
    end = began + plan.rhythm.seconds
    dice = random.Random(SEED)
    cpu = time.process_time(), server.cpu_s()
    found = await asyncio.gather(
        *(
            asyncio.gather(*(_step_every(plan, dice, caller, (began, end), server) for caller in callers))
            for callers in groups
        )
    )
    client_s, server_s = time.process_time() - cpu[0], server.cpu_s() - cpu[1]
    of_groups = [np.array([times for caller in group for times in caller]).reshape(-1, 2) for group in found]
    parts = (np.concatenate(of_groups), *of_groups)

    def sample(times: Times) -> Sample:
        return Sample(name, plan.rhythm.seconds, len(times), client_s, server_s, *percentiles(times))

    return [sample(part[:, 0]) for part in parts], [sample(part[:, 1]) for part in parts]


async def _step_every(
    plan: Plan, dice: random.Random, caller: Caller, window: tuple[float, float], server: ServerProcess
) -> list[tuple[float, float]]:
    due = time.perf_counter() + dice.uniform(0, plan.period_s)
    times = []
    while due < window[1]:
        await asyncio.sleep(due - time.perf_counter())
        began, spent_s = time.perf_counter(), server.cpu_s()
        await caller.call(caller.argument)
        ended = time.perf_counter()
        if began >= window[0]:
            times.append((ended - began, server.cpu_s() - spent_s))
        due = max(due + plan.period_s, ended)
    return times


def _as_call(stub: Stub, metadata: Metadata) -> Callable[[messages.StepRequest], Awaitable[object]]:
    async def call(request: messages.StepRequest) -> object:
        return await stub.Step(request, metadata=metadata)

    return call


# ----------------------------------------------------------------------------------------------------------------------


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: ``ratio_p99`` and ``ratio_p50`` (of all the polite tenant's steps, beside the other to alone), the same of
    its steps through the client and by plain calls apart, the absolutes, and what the greedy one got.
    """
    progress.expect(plan.rhythm.rounds)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tokens = {tenant: new_token() for tenant in ("polite", "greedy")}
        lines = [line_of(token, tenant, frozenset()) for tenant, token in tokens.items()]
        (folder / "tokens").write_text("\n".join(lines), encoding="utf-8")
        (folder / "tokens").chmod(0o600)
        server = stack.enter_context(cellserve("--tokens-file", str(folder / "tokens")))
        groups = await _polite_callers(stack, server, tokens["polite"], plan)
        other = stack.enter_context(Worker(flood, server, 0))
        await other.ask(tokens["greedy"])
        samples: Samples = {turn: ([], []) for turn in ("alone", "beside")}
        floods: list[tuple[int, int, int]] = []

        async def polite(turn: str) -> Sample:
            for kept, found in zip(samples[turn], await step_politely(turn, groups, plan, server), strict=True):
                kept.append(found)
            return samples[turn][0][-1][0]

        async def alone() -> Sample:
            return await polite("alone")

        async def beside() -> Sample:
            asked = asyncio.create_task(other.ask(plan.rhythm.warmup_s + plan.rhythm.seconds))
            found = await polite("beside")
            floods.append(await asked)
            return found

        await alternate(plan.rhythm.rounds, [alone, beside], progress, "alone, beside", there_and_back=True)
    return _report(samples, floods, plan)


async def _polite_callers(
    stack: AsyncExitStack, server: ServerProcess, token: str, plan: Plan
) -> tuple[list[Caller], list[Caller]]:
    cell = await lstm(await stack.enter_async_context(aio.connect(server.address, token=token)))
    row = normal(UNITS)
    streamers = [Caller((await cell.session()).step, row) for _ in range(plan.streamers)]
    step = _as_call(Stub(await stack.enter_async_context(bare_channel(server.address))), _metadata_of(token))
    names = [(await cell.session()).detach() for _ in range(plan.callers)]
    inputs = [tensor_from_array(row)]
    return streamers, [Caller(step, messages.StepRequest(name=f"sessions/{name}", inputs=inputs)) for name in names]


def _report(samples: Samples, floods: list[tuple[int, int, int]], plan: Plan) -> Result:
    result = Result(notes=["server_p99_ms: the server's processor time meanwhile"])
    for place, part in enumerate(PARTS):
        end = "" if place == 0 else f"_{part.split()[-1]}"
        (alone, alone_cpu), (beside, beside_cpu) = (
            ([found[place] for found in kind] for kind in samples[turn]) for turn in ("alone", "beside")
        )
        pairs, cpu_pairs = list(zip(beside, alone, strict=True)), list(zip(beside_cpu, alone_cpu, strict=True))
        result.keys[f"ratio_p99{end}"] = median_ratio(pairs, lambda sample: sample.p99_s)
        result.keys[f"ratio_p50{end}"] = median_ratio(pairs, lambda sample: sample.p50_s)
        result.keys[f"server_ratio_p99{end}"] = median_ratio(cpu_pairs, lambda sample: sample.p99_s)
        for turn, found, cpu in (("alone", alone, alone_cpu), ("beside", beside, beside_cpu)):
            numbers = {key: absolutes(found)[key] for key in ("rate", "p50_ms", "p99_ms")}
            numbers |= {f"server_{key}": absolutes(cpu)[key] for key in ("p50_ms", "p99_ms")}
            result.keys |= {f"{key}_{turn}{end}": value for key, value in numbers.items()}
            result.rows.append({"polite tenant's steps": f"{part}, {turn}", **numbers})
            result.samples += [asdict(sample) | {"part": part} for sample in found]
    seconds = plan.rhythm.warmup_s + plan.rhythm.seconds
    for key, place in (("greedy_stream_rate", 0), ("greedy_call_rate", 1), ("greedy_refused_rate", 2)):
        result.keys[key] = float(np.median([found[place] for found in floods])) / seconds
    return result


if __name__ == "__main__":
    run("fairness", measure, FULL, QUICK)
