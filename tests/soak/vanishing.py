"""``python -m tests.soak.vanishing ADDRESS MODEL TTL_S``: a client that steps sessions until it is killed."""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from cellserve_client import aio

READY = "stepping"
SESSIONS, SINGLES = 32, 4


async def step_on(address: str, model: str, ttl_s: float) -> None:
    """Opens sessions, single ones and a group of them, and steps them without end."""
    async with aio.connect(address) as server:
        (inputs,) = (await server.model_info(model)).inputs
        values = np.zeros((SESSIONS, *inputs.shape), inputs.dtype)
        group = await server.session_group(model, SESSIONS, ttl_s=ttl_s)
        singles = [await server.session(model, ttl_s=ttl_s) for _ in range(SINGLES)]
        is_told = False
        while True:
            await asyncio.gather(group.step(values), *(single.step(values[0]) for single in singles))
            if not is_told:
                print(READY, flush=True)
                is_told = True


if __name__ == "__main__":
    asyncio.run(step_on(sys.argv[1], sys.argv[2], float(sys.argv[3])))
