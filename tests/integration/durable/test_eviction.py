"""More sessions than memory: those that were idle longest go to the store and come back at their next step."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from cellserve_client import aio
from tests.integration.durable.replicas import ASYNC, SYNC, Replicas, inputs_of, output_of, step, uninterrupted
from tests.integration.stream_client import StreamClient
from tests.servers import RPC_TIMEOUT_S

TOLERANCE = 1e-5
ROUNDS = 4


def test_sessions_beyond_the_limit_come_back_at_their_next_step(replicas: Replicas) -> None:
    server = replicas.start(replace(SYNC, max_sessions=4))
    names = [f"s{number}" for number in range(10)]
    for name in names:
        replicas.create(server, name)
    outputs: dict[str, list[Array]] = {name: [] for name in names}
    for number in range(ROUNDS):
        for seed, name in enumerate(names):
            outputs[name].append(output_of(step(server, number, name, seed)))
            replicas.clock.advance(0.001)
    for seed, name in enumerate(names):
        np.testing.assert_allclose(outputs[name], uninterrupted(replicas, server, ROUNDS, seed), atol=TOLERANCE)
    assert len(server.app.operations.sessions) <= 4
    assert server.app.metrics.registry.get_sample_value("cellserve_sessions_ended_total", {"reason": "evicted"})


def test_the_one_that_was_idle_longest_goes_first(replicas: Replicas) -> None:
    server = replicas.start(replace(SYNC, max_sessions=3))
    for name in ("a", "b", "c"):
        replicas.create(server, name)
        replicas.clock.advance(1)
    step(server, 0, "a")
    replicas.create(server, "d")
    assert sorted(session.key.id for session in server.app.operations.sessions) == ["a", "c", "d"]


def test_handles_of_a_stream_outlive_their_sessions_stay_in_memory(replicas: Replicas) -> None:
    server = replicas.start(replace(SYNC, max_sessions=4))
    names = [f"s{number}" for number in range(8)]
    with StreamClient(server.stubs) as stream:
        stream.send(
            stream_pb2.StreamStepsRequest(
                open=stream_pb2.Open(
                    seq=1,
                    group=1,
                    model=replicas.model,
                    names=[f"sessions/{name}" for name in names],
                    handles=range(8),
                    create_if_missing=True,
                )
            )
        )
        assert not stream.receive().opened.errors
        outputs: dict[int, list[bytes]] = {handle: [] for handle in range(8)}
        for number in range(ROUNDS):
            for part in (range(4), range(4, 8)):
                inputs = b"".join(inputs_of(number, handle).tobytes() for handle in part)
                stream.send(
                    stream_pb2.StreamStepsRequest(
                        steps=stream_pb2.Steps(
                            seq=10 + number,
                            group=1,
                            handles=part,
                            expected_steps=[number] * 4,
                            run_ids=[number + 1] * 4,
                            inputs=[inputs],
                        )
                    )
                )
                left = set(range(4))
                while left:
                    stepped = stream.receive().stepped
                    assert not stepped.errors
                    positions = list(stepped.positions) or list(range(4))
                    size = len(stepped.outputs[0]) // len(positions)
                    for place, position in enumerate(positions):
                        outputs[part[position]].append(stepped.outputs[0][place * size : (place + 1) * size])
                        left.discard(position)
    for handle, found in outputs.items():
        expected = uninterrupted(replicas, server, ROUNDS, handle)
        np.testing.assert_allclose([np.frombuffer(output, np.float32) for output in found], expected, atol=TOLERANCE)


def test_many_callers_with_room_for_few_in_memory(replicas: Replicas) -> None:
    for config in (SYNC, ASYNC):
        server = replicas.start(replace(config, max_sessions=8, flush_interval_ms=10))
        expected = [uninterrupted(replicas, server, ROUNDS, seed) for seed in range(32)]

        async def all_callers(address: str, model: str, outputs: list[list[Array]]) -> None:
            async with aio.connect(address, timeout_s=RPC_TIMEOUT_S) as client:

                async def call(seed: int) -> None:
                    async with client.session(model) as session:
                        for number in range(ROUNDS):
                            outputs[seed].append(await session.step(inputs_of(number, seed)))

                await asyncio.gather(*(call(seed) for seed in range(32)))

        outputs: list[list[Array]] = [[] for _ in range(32)]
        asyncio.run(all_callers(server.address, replicas.model.removeprefix("models/").partition("/")[0], outputs))
        np.testing.assert_allclose(outputs, expected, atol=TOLERANCE)
        assert len(server.app.operations.sessions) == 0
