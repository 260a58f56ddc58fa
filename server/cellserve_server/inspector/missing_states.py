"""The states between the steps of a longer run, which the engine does not keep: computed again, from its inputs."""

from __future__ import annotations

import numpy as np

from cellserve_server.cells import Network
from cellserve_server.inspector.watch import HAS_STATE, SeenSteps

# A state that was computed again may differ from the one that the engine had in its last bits.
AGAIN = 4


def with_states(steps: SeenSteps, network: Network) -> SeenSteps:
    """The steps with the states that were not seen, where their inputs are known; their ``parts`` say AGAIN.

    For threads that have time: the engine's loop is not to wait for it.
    """
    parts, leaves = steps.parts.copy(), [leaf.copy() for leaf in steps.leaves]
    for first, piece in steps.spans:
        state = [leaf[np.newaxis] for leaf in piece.before]
        for step in range(piece.length - 1):
            place = first + step - steps.first
            if place >= len(parts):
                break
            _, state = network.step([array[step : step + 1] for array in piece.inputs], state)
            if place >= 0:
                parts[place] |= HAS_STATE | AGAIN
                for target, leaf in zip(leaves, state, strict=True):
                    target[place] = leaf[0]
    return steps._replace(parts=parts, leaves=leaves)
