"""What the engine tells of its ticks to who watches them: tracing, the inspector.

Nobody watches by default; then a tick costs one look at an empty list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cellserve.tensors import Array
from cellserve_server.engine.chunks import Chunk
from cellserve_server.engine.runs import Run
from cellserve_server.engine.ticks import Gathered
from cellserve_server.sessions.lanes import Lane
from cellserve_server.sessions.session import Session
from cellserve_server.tick_times import TickTimes


class StepTick(NamedTuple):
    """Single steps of many sessions, side by side; they are their sessions' states now, and answered.

    Attributes:
        lane: the model's.
        batch: whose steps these are, with what they began from.
        outputs: one ``[steps * rows, ...]`` for each output of the model. Not to be kept without copying.
        leaves: the states after, ``[steps * rows, units]`` each. Not to be kept without copying.
        step_counts: of the sessions, after their steps, int64 ``[steps]``.
        times: when what was done.
    """

    lane: Lane
    batch: Gathered
    outputs: Sequence[Array]
    leaves: Sequence[Array]
    step_counts: Array
    times: TickTimes


class ChunkTick(NamedTuple):
    """Some time steps of longer runs, or of runs without a session, or a session's step that had a tick for itself.

    They are computed. A session's state moves when its run is over: ``TickObserver.run_committed``.

    Attributes:
        lane: the model's.
        chunk: whose steps these are, with what they began from; the runs' positions are those after it.
        outputs: ``[rows, steps, ...]`` each, 0 past a row's length. Not to be kept without copying.
        leaves: the states after, ``[rows, units]`` each. Not to be kept without copying.
        times: when what was done.
    """

    lane: Lane
    chunk: Chunk
    outputs: Sequence[Array]
    leaves: Sequence[Array]
    times: TickTimes


class LoneStep(NamedTuple):
    """A step that was done as it came, without a tick.

    Attributes:
        lane: the model's.
        session: whose step this is; its step count and state are those after it.
        outputs: one ``[rows, ...]`` for each output of the model.
        leaves: the state after, ``[rows, units]`` each.
        times: when what was done.
    """

    lane: Lane
    session: Session
    outputs: Sequence[Array]
    leaves: Sequence[Array]
    times: TickTimes


class TickObserver(Protocol):
    """Who watches the ticks. Called on the event loop, between ticks: what it does holds all sessions up."""

    def steps_answered(self, tick: StepTick) -> None:
        """A tick of single steps is answered."""
        ...

    def chunk_computed(self, tick: ChunkTick) -> None:
        """Some time steps of longer runs are computed."""
        ...

    def step_answered(self, step: LoneStep) -> None:
        """A step that needed no tick is done."""
        ...

    def run_committed(self, run: Run, leaves: Sequence[Array], commit_s: float) -> None:
        """A session's run that went by ``ChunkTick`` is over, and its state is its session's.

        Args:
            leaves: the state after the run, ``[rows, units]`` each.
            commit_s: how long the store took, and the wait for it; about 0 without one.
        """
        ...
