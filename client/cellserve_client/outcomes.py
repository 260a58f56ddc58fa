"""What a failed request may have done on the server."""

from __future__ import annotations

from dataclasses import dataclass

from cellserve.errors import CellServeError

# The reasons that CellServe's server gives for a request that it refused before it changed anything. What is not listed
# (no reason of ours, an internal error, a store out of reach, a reason of a newer server) may follow upon a change.
REFUSALS = frozenset(
    {
        "SHAPE_MISMATCH",
        "DTYPE_MISMATCH",
        "FIELD_INVALID",
        "SESSION_NOT_FOUND",
        "SESSION_EXISTS",
        "STEP_OUT_OF_ORDER",
        "SESSION_MOVED",
        "STATE_ROLLED_BACK",
        "MODEL_NOT_FOUND",
        "MODEL_CHANGED",
        "MODEL_BROKEN",
        "MODEL_NOT_STEPPABLE",
        "QUEUE_FULL",
        "QUOTA_EXCEEDED",
        "DRAINING",
    }
)


def was_surely_not_applied(error: BaseException) -> bool:
    """Whether the attempt that ended with this error has changed nothing: the server itself said why it refused it.

    grpc's own codes say nothing of the kind: RESOURCE_EXHAUSTED, for one, also means that the answer of an applied step
    was larger than this client takes.
    """
    return isinstance(error, CellServeError) and error.reason in REFUSALS


@dataclass
class Attempts:
    """What became of a request's attempts: ``ambiguous`` once one may have been applied though no answer came."""

    ambiguous: bool = False

    def failed(self, error: BaseException) -> None:
        """Notes how an attempt ended."""
        if not was_surely_not_applied(error):
            self.ambiguous = True
