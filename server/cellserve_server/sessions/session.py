"""A session: a kept state of one model. Its object has names and the line; its record and states are at its seat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.keys import SessionKey
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.expiry import Line
from cellserve_server.sessions.seats import (
    BUSY,
    COLUMNS,
    CREATE,
    DIRTY,
    ENGAGED,
    EXPIRE,
    FLAGS,
    LIFE,
    NEEDED,
    PLACE,
    RUN_DIGEST,
    RUN_FIRST,
    RUN_ID,
    RUN_STEPS,
    STEP_COUNT,
    TTL,
    WAITING,
    Seats,
)
from cellserve_server.stores.base import Held

TWO_TO_63, TWO_TO_64 = 1 << 63, 1 << 64


class LastRun(NamedTuple):
    """What identifies the last run that was applied, so that its repeat is known."""

    run_id: int
    first_step: int
    steps: int
    input_digest: int


class SessionSnapshot(NamedTuple):
    """A session as it was at one moment, for answers; the fields are those of ``Session``.

    ``leaves`` is a copy of the state, ``[rows, units]`` each, where it was asked for; then ``model`` is there too, of
    which ``model_name`` is the resource name.
    """

    key: SessionKey
    uid: str
    model_name: str
    model: LoadedModel | None
    batch_size: int
    step_count: int
    last_run_id: int
    ttl_s: float
    create_time: float
    expire_time: float
    leaves: list[Array] | None = None

    @property
    def last_used_time(self) -> float:
        """When its expiry was last put off, unix seconds."""
        return self.expire_time - self.ttl_s


class Origin(NamedTuple):
    """The request that began a life: its request_id, empty if it had none, and a digest of it."""

    request_id: str
    fingerprint: bytes


NO_ORIGIN = Origin("", b"")


class Kept:
    """What is known of a session's record in the store.

    Attributes:
        held: by what the store finds it, and by what it knows that we hold it.
        origin: the request that began the life.
        recovered_at: the step count at which it came from a store to which states are written later: whoever expects
            more knows of steps that were lost. -1: it did not, or nothing can be lost.
        is_doubted: whether a write may still be on its way that nobody waits for: the record has to be claimed anew
            before the next one, which refuses the straggler.
    """

    __slots__ = ("held", "is_doubted", "origin", "recovered_at")

    def __init__(self, held: Held, origin: Origin, recovered_at: int = -1) -> None:
        self.held = held
        self.origin = origin
        self.recovered_at = recovered_at
        self.is_doubted = False


class Work(Protocol):
    """What is under way on a session: a run, or an operation that holds it."""

    def refuse(self, error: CellServeError) -> None:
        """Has it fail with this error as soon as it can."""
        ...


class Session:
    """A kept state of one model. What ticks look at is in the record of its seat.

    Attributes:
        key: tenant and id.
        uid: its life; new at creation, at reset and when the state is set.
        model: the model version that it began on.
        batch_size: as asked for; 0: one row, inputs and outputs without a batch dimension.
        seats, seat: where its record and its states are.
        base: where its record begins in ``seats.words``.
        ended: why it is gone; empty while it lives. Then its seat is another's.
        ended_why: what there is to say about that besides.
        active: the run under way; None too while a block of single steps has it.
        kept: what is known of its record; None where there is no store.
        line: as of ``ExpiryQueue``.
        waiting: what is to be done when the work before it is over, in the order in which it came.
    """

    __slots__ = (
        "active",
        "base",
        "batch_size",
        "ended",
        "ended_why",
        "kept",
        "key",
        "line",
        "model",
        "seat",
        "seats",
        "uid",
        "waiting",
    )

    def __init__(
        self, key: SessionKey, uid: str, model: LoadedModel, batch_size: int, seats: Seats[Session], life: int
    ) -> None:
        self.key = key
        self.uid = uid
        self.model = model
        self.batch_size = batch_size
        self.ended = ""
        self.ended_why = ""
        self.active: Work | None = None
        self.kept: Kept | None = None
        self.line: Line | None = None
        self.waiting: deque[Callable[[], None]] | None = None  # Made when something waits: most never need it.
        self.seats = seats
        self.seat = seats.take(self)
        self.base = self.seat * COLUMNS
        seats.words[self.base + LIFE] = life

    @property
    def life(self) -> int:
        """The number of its life, which no other life of this server has."""
        return self.seats.words[self.base + LIFE]

    @property
    def step_count(self) -> int:
        """Steps applied in this life."""
        return self.seats.words[self.base + STEP_COUNT]

    @step_count.setter
    def step_count(self, count: int) -> None:
        self.seats.words[self.base + STEP_COUNT] = count

    @property
    def ttl_s(self) -> float:
        """Seconds that it lives unused."""
        return self.seats.reals[self.base + TTL]

    @property
    def create_time(self) -> float:
        """Unix seconds."""
        return self.seats.reals[self.base + CREATE]

    @property
    def expire_time(self) -> float:
        """Unix seconds."""
        return self.seats.reals[self.base + EXPIRE]

    @property
    def last_run(self) -> LastRun | None:
        """The last run that was applied, if it had an id and its repeat can be computed."""
        words, base = self.seats.words, self.base
        if words[base + RUN_ID] == 0:
            return None
        return LastRun(
            words[base + RUN_ID] % TWO_TO_64,
            words[base + RUN_FIRST],
            words[base + RUN_STEPS],
            words[base + RUN_DIGEST] % TWO_TO_64,
        )

    @property
    def rows(self) -> int:
        """The rows that are stepped together, at least 1."""
        return max(self.batch_size, 1)

    @property
    def busy(self) -> bool:
        """Whether a run is under way or something waits."""
        if self.ended:
            return self.active is not None or bool(self.waiting)
        return bool(self.seats.words[self.base + FLAGS] & ENGAGED)

    @property
    def state_bytes(self) -> int:
        """The bytes of its state and of the copy from before its last run."""
        return 2 * self.rows * self.model.state_bytes_per_row

    def set_times(self, create: float, ttl_s: float) -> None:
        """When it was made, unix seconds, and how long it lives unused, in seconds."""
        self.seats.floats[self.seat, TTL : CREATE + 1] = ttl_s, create + ttl_s, create  # They are neighbours.

    def renew(self, now: float) -> None:
        """Puts its expiry off, because it was used."""
        self.seats.reals[self.base + EXPIRE] = now + self.ttl_s

    # --- its state ---------------------------------------------------------------------------------------------------

    def read_state(self, previous: bool = False) -> list[Array]:
        """A copy of its state, or of the one from before its last run, ``[rows, units]`` each."""
        return self.seats.slab.read_one(self._place(previous))

    def write_state(self, leaves: Sequence[Array] | None) -> None:
        """Overwrites its state with ``[rows, units]`` each, or with zeros; there is no last run any more."""
        place = self._place()
        if leaves is None:
            self.seats.slab.zero(place)
        else:
            self.seats.slab.write_one(place, leaves)
        self.seats.words[self.base + RUN_ID] = 0
        self.seats.words[self.base + FLAGS] &= ~DIRTY

    def need(self, is_needed: bool) -> None:
        """Whether it is about to be used, so that it had better stay in memory."""
        if is_needed:
            self.seats.words[self.base + FLAGS] |= NEEDED
        else:
            self.seats.words[self.base + FLAGS] &= ~NEEDED

    def restore(
        self, place: int, leaves: Sequence[Array], before: Sequence[Array] | None, last: LastRun | None
    ) -> None:
        """Takes over what a store has kept: the state, the one from before its last run, and what that run was.

        Args:
            place: where the store has the state: 0 or 1.
            leaves, before: ``[rows, units]`` each; None: there is none before.
            last: None: its repeat cannot be answered.
        """
        words, base = self.seats.words, self.base
        words[base + FLAGS] = words[base + FLAGS] & ~PLACE | place | NEEDED
        self.seats.slab.write_one(self._place(), leaves)
        if before is not None:
            self.seats.slab.write_one(self._place(previous=True), before)
        self._note_run(last)

    def move(self, leaves: Sequence[Array], run: LastRun | None, steps: int) -> None:
        """A run was applied: its state takes the other place, and the one before it is kept for a repeat.

        Args:
            leaves: the state after the run, ``[rows, units]`` each.
            run: what identifies the run; None: it had no id.
            steps: how many it had.
        """
        self.seats.slab.write_one(self._place(previous=True), leaves)
        words, base = self.seats.words, self.base
        words[base + FLAGS] = (words[base + FLAGS] ^ PLACE) & ~NEEDED | self.seats.moved
        words[base + STEP_COUNT] += steps
        self._note_run(run)

    def _note_run(self, run: LastRun | None) -> None:
        words, base = self.seats.words, self.base
        if run is None:
            words[base + RUN_ID] = 0
        else:
            words[base + RUN_ID], words[base + RUN_DIGEST] = _signed(run.run_id), _signed(run.input_digest)
            words[base + RUN_FIRST], words[base + RUN_STEPS] = run.first_step, run.steps

    def record_after(self, run: LastRun | None, steps: int, now: float) -> Array:
        """The record, int64 ``[1, COLUMNS]``, that it has once ``move`` and ``renew`` are done."""
        record: Array = self.seats.records[self.seat : self.seat + 1].copy()
        record[0, FLAGS] ^= PLACE
        record[0, STEP_COUNT] += steps
        record.view(np.float64)[0, EXPIRE] = now + self.ttl_s
        record[0, RUN_ID] = 0
        if run is not None:
            record[0, RUN_ID], record[0, RUN_DIGEST] = _signed(run.run_id), _signed(run.input_digest)
            record[0, RUN_FIRST], record[0, RUN_STEPS] = run.first_step, run.steps
        return record

    @property
    def place(self) -> int:
        """Which of its two places has its state: 0 or 1."""
        return self.seats.words[self.base + FLAGS] & PLACE

    def _place(self, previous: bool = False) -> int:
        place: int = 2 * self.seat + (self.seats.words[self.base + FLAGS] & PLACE)
        return place ^ 1 if previous else place

    # --- whose turn it is --------------------------------------------------------------------------------------------

    def occupy(self, work: Work) -> None:
        """A run, or an operation, has begun. One whose turn comes after the session's end finds that out; the seat is
        another's by then, and its flags are not to be touched."""
        self.active = work
        if not self.ended:
            self.seats.words[self.base + FLAGS] |= BUSY

    def vacate(self) -> None:
        """The run, or the step of a block, is over."""
        self.active = None
        if not self.ended:
            self.seats.words[self.base + FLAGS] &= ~BUSY

    def defer(self, action: Callable[[], None]) -> None:
        """Puts something into its line."""
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append(action)
        if not self.ended:
            self.seats.words[self.base + FLAGS] |= WAITING

    def next_in_line(self) -> Callable[[], None] | None:
        """Takes what is to be done next; None: nothing waits."""
        if not self.waiting:
            return None
        action = self.waiting.popleft()
        if not self.waiting and not self.ended:
            self.seats.words[self.base + FLAGS] &= ~WAITING
        return action

    def snapshot(self, leaves: list[Array] | None = None) -> SessionSnapshot:
        """The session as it is now."""
        last = self.last_run
        return SessionSnapshot(
            self.key,
            self.uid,
            self.model.resource_name,
            self.model,
            self.batch_size,
            self.step_count,
            0 if last is None else last.run_id,
            self.ttl_s,
            self.create_time,
            self.expire_time,
            leaves,
        )


def _signed(number: int) -> int:
    """The int64 with the bits of a uint64."""
    return number - TWO_TO_64 if number >= TWO_TO_63 else number
