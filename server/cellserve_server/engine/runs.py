"""A run: one request in flight, T steps of one session or of a state that came along."""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cellserve.errors import CellServeError, RunCancelledError
from cellserve.tensors import Array
from cellserve_server.keys import NOBODY, Client
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.session import Session


class OutputMode(enum.Enum):
    """Which outputs a run gives back."""

    ALL = "all"
    LAST = "last"
    NONE = "none"


@dataclass(frozen=True)
class RunResult:
    """What a run gave.

    Attributes:
        outputs: one array for each output of the model: ``[rows, time, ...]`` (zeros past a row's length), for LAST
            ``[rows, 1, ...]``; empty for NONE.
        leaves: the state after each row's last step, ``[rows, units]`` each; None unless it was asked for.
        step_count: the session's steps after the run; 0 without a session.
        steps_applied: the steps of this run: the longest row's length.
        replayed: the run was a repeat of the session's last one; nothing moved.
    """

    outputs: list[Array]
    leaves: list[Array] | None
    step_count: int
    steps_applied: int
    replayed: bool


class Run:
    """One request in flight.

    Args:
        model: the model that is stepped.
        inputs: one array for each input of the model, ``[rows, time, ...]``; checked before.
        rows: the batch size, at least 1 where there are steps.
        session: whose steps these are; None: the state comes along.
        uid: the life of the session that is meant; empty: whichever there is when the run's turn comes.
        initial_leaves: the state to begin with when there is no session, ``[rows, units]`` each; None: zeros.
        lengths: how many steps of each row count, int64 ``[rows]``, each from 0 to time; None: all.
        expected_step: the steps applied before this run; None: not checked.
        run_id: the caller's own number for the run, kept by its retries; 0: none.
        deadline: when the answer is of no more use, on the engine's clock; None: never.
        outputs: which outputs are wanted.
        return_state: whether the state after the run is wanted.
        client: who sent it, for fairness between clients.
    """

    __slots__ = (
        "arrived",
        "begun",
        "client",
        "deadline",
        "error",
        "expected_step",
        "initial_leaves",
        "input_digest",
        "inputs",
        "leaves",
        "lengths",
        "mode",
        "model",
        "on_done",
        "outputs",
        "position",
        "ready",
        "refusal",
        "replaying",
        "result",
        "return_state",
        "rows",
        "run_id",
        "session",
        "size_bytes",
        "steps",
        "time",
        "trace",
        "uid",
    )

    def __init__(
        self,
        model: LoadedModel,
        inputs: Sequence[Array],
        *,
        rows: int,
        session: Session | None = None,
        uid: str = "",
        initial_leaves: Sequence[Array] | None = None,
        lengths: Array | None = None,
        expected_step: int | None = None,
        run_id: int = 0,
        deadline: float | None = None,
        outputs: OutputMode = OutputMode.ALL,
        return_state: bool = False,
        client: Client = NOBODY,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.rows = rows
        self.session = session
        self.uid = uid
        self.initial_leaves = initial_leaves
        self.lengths = lengths
        self.expected_step = expected_step
        self.run_id = run_id
        self.deadline = deadline
        self.mode = outputs
        self.return_state = return_state
        self.client = client
        self.trace: object | None = None  # its own, of whoever traces
        self.arrived = 0.0  # on time.perf_counter, when it is submitted
        self.begun = 0.0  # on the engine's clock, when its first tick began; not of single steps
        self.ready = 0.0  # on the engine's clock, when it could have begun
        self.time = int(inputs[0].shape[1])
        # A step counts once whatever the rows' lengths; steps past the longest row change nothing and are not taken.
        self.steps: int = self.time if lengths is None else int(lengths.max(initial=0))
        self.on_done: Callable[[Run], None] | None = None
        self.result: RunResult | None = None
        self.error: CellServeError | None = None
        self.refusal: CellServeError | None = None
        # The engine's own: where the run is, and its state there, which is nobody else's until it is committed.
        self.position = 0
        self.replaying = False
        self.leaves: Sequence[Array] = ()
        self.outputs: list[Array] = []
        output_bytes = rows * self.output_time() * model.output_bytes_per_row
        # What the run holds while it is here: what came with it, its outputs, and the state that it works on.
        arrived = [*inputs, *(initial_leaves or ())]
        self.size_bytes = sum(array.nbytes for array in arrived) + output_bytes + rows * model.state_bytes_per_row
        self.input_digest = self._digest() if run_id else 0

    def cancel(self) -> None:
        """Takes the run back: it is dropped before its next tick, and its state stays as it was."""
        self.refuse(cancelled_error())

    def refuse(self, error: CellServeError) -> None:
        """Has the run fail with this error before its next tick, unless it is to fail already."""
        if self.refusal is None:
            self.refusal = error

    @property
    def is_plain_step(self) -> bool:
        """Whether it is a session's next step: then it shares ticks with blocks, and its state stays at its seat."""
        return self.session is not None and self.is_step and not self.replaying

    @property
    def is_step(self) -> bool:
        """Whether it is a single step of all its rows."""
        return self.time == 1 and self.lengths is None

    def output_time(self) -> int:
        """The length of the time dimension of the wanted outputs."""
        if self.mode is OutputMode.ALL:
            return self.time
        return 1 if self.mode is OutputMode.LAST else 0

    def prepare(self) -> None:
        """Its turn has come: makes the arrays that its ticks fill and work on.

        Raises:
            MemoryError: nothing was begun.
        """
        # Zeros, as it is past a row's length.
        if self.mode is not OutputMode.NONE:
            self.outputs = [
                np.zeros((self.rows, self.output_time(), *spec.shape), spec.dtype) for spec in self.model.outputs
            ]

        if self.session is not None:
            if not self.is_plain_step:
                self.leaves = self.session.read_state(previous=self.replaying)
        elif self.initial_leaves is not None:
            self.leaves = self.initial_leaves
        else:
            self.leaves = [np.zeros((self.rows, size), self.model.description.dtype) for size in self.model.leaf_sizes]

    def _digest(self) -> int:
        """A checksum of the inputs, so that a run_id that comes back with other inputs is found out.

        That of a single step is the one that a block of steps has, for a step may be repeated by another way.
        """
        if self.is_step:
            return int(self.model.input_digests.of_steps(self.inputs, self.rows)[0])
        digest = 0
        for array in self.inputs:
            digest = zlib.crc32(np.ascontiguousarray(array).data, digest)
        if self.lengths is not None:
            digest = zlib.crc32(np.ascontiguousarray(self.lengths).data, digest)
        return digest


def cancelled_error() -> RunCancelledError:
    """What a run is told that its caller took back."""
    return RunCancelledError("the caller took the run back before it was done; nothing was applied")
