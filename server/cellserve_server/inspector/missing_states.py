"""The states between the steps of a longer run, which the engine does not keep: computed again, from its inputs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from cellserve_server.cells import Network
from cellserve_server.inspector.watch import HAS_STATE, SeenSteps

# A state that was computed again may differ from the one that the engine had in its last bits.
AGAIN = 4
# What an answer may take for them: who watches a large model is not to take its processor away.
AGAIN_S = 0.1


def with_states(
    steps: SeenSteps, network: Network, clock: Callable[[], float] = time.perf_counter, limit_s: float = AGAIN_S
) -> SeenSteps:
    """The steps with the states that were not seen, where their inputs are known; their ``parts`` say AGAIN.

    For threads that have time: the engine's loop is not to wait for it.

    Args:
        steps: of one answer.
        network: the model's.
        clock: seconds.
        limit_s: after so long the rest stay as they are.
    """
    give_up = clock() + limit_s
    parts, leaves = steps.parts.copy(), [leaf.copy() for leaf in steps.leaves]
    for first, piece in steps.spans:
        state = [leaf[np.newaxis] for leaf in piece.before]
        for step in range(piece.length - 1):
            place = first + step - steps.first
            if place >= len(parts) or clock() > give_up:
                break
            _, state = network.step([array[step : step + 1] for array in piece.inputs], state)
            if place >= 0:
                parts[place] |= HAS_STATE | AGAIN
                for target, leaf in zip(leaves, state, strict=True):
                    target[place] = leaf[0]
    return steps._replace(parts=parts, leaves=leaves)
