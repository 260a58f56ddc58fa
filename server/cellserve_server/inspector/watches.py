"""The sessions that somebody watches: few, each for as long as it is asked about, and told of by the engine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cellserve.errors import CellServeError, FieldInvalidError, QuotaExceededError
from cellserve.tensors import Array
from cellserve_server.config import ServerConfig
from cellserve_server.engine.engine import Engine
from cellserve_server.engine.observing import ChunkTick, LoneStep, StepTick
from cellserve_server.engine.runs import Run
from cellserve_server.inspector.watch import Piece, SeenSteps, Watch, bytes_of_a_step
from cellserve_server.keys import SessionKey
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.session import Session, SessionSnapshot
from cellserve_server.sessions.table import SessionTable
from cellserve_server.tenant_limits import TenantLimits

# A page asks several times a second; one that is hidden or closed does not.
WATCH_IDLE_S = 10.0
# Why a session is not in memory that lives on in the store.
_AWAY = {
    "evicted": "it left memory for the store, because others needed the room; its next step brings it back",
    "doubted": "the store did not confirm its last write; its next step reads it again",
    "released": "the server stops and has let it go",
}
# What one answer carries at most, and the steps that it has at least.
ANSWER_BYTES = 2 << 20
ANSWER_STEPS_MIN = 8


class Look(NamedTuple):
    """What a watch has for who asks.

    Attributes:
        id: of the watch: another one has other serial numbers.
        model: the session's.
        window_steps: how many steps are kept.
        session: as it is now; None: it is not in memory.
        gone: why it is not; empty while it is.
        steps: those that were asked for, or the first of them.
        next: the serial number that the next step will have.
    """

    id: int
    model: LoadedModel
    window_steps: int
    session: SessionSnapshot | None
    gone: str
    steps: SeenSteps
    next: int


@dataclass
class _Entry:
    id: int
    session: Session
    model: LoadedModel
    row: int
    watch: Watch
    asked_at: float
    uid: str = ""  # of the life that was seen last
    lives: int = 0  # that were seen
    run: Run | None = None  # that is under way
    pieces: deque[Piece] = field(default_factory=deque)  # the last ones that are computed of it

    def life(self) -> int:
        """The number of the session's life among those that were seen, from 1."""
        if self.session.uid != self.uid:
            self.uid = self.session.uid
            self.lives += 1
        return self.lives

    def keep(self, run: Run, piece: Piece) -> None:
        """A piece of a run is computed, and not committed."""
        if self.run is not run:
            self.forget_run()
            self.run = run
        self.pieces.append(piece)
        # As many as fill the window.
        while sum(piece.steps for piece in self.pieces) - self.pieces[0].steps >= self.watch.window_steps:
            self.pieces.popleft()

    def forget_run(self) -> None:
        """It is committed, or another has begun."""
        self.run = None
        self.pieces.clear()


class Watches:
    """The watches by session and row. Everything happens on the engine's event loop.

    Args:
        config: the limits of all.
        limits: those of tenants.
        sessions: those in memory; others are not watched, and not brought here for it.
        engine: has its ticks observed while there is a watch.
        clock: unix seconds, never going back.
    """

    def __init__(
        self,
        config: ServerConfig,
        limits: TenantLimits,
        sessions: SessionTable,
        engine: Engine,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._limits = limits
        self._sessions = sessions
        self._engine = engine
        self._clock = clock
        self._entries: dict[tuple[SessionKey, int], _Entry] = {}
        # Not from 1: a page that has seen another server here, before a restart, is to see that this is no watch of it.
        self._made = int(1000 * clock())
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """The bytes of all of them."""
        return sum(entry.watch.nbytes for entry in self._entries.values())

    def look(self, key: SessionKey, row: int, watch_id: int, after: int) -> Look:
        """What was seen of a row of a session, which is watched from now on if it was not.

        Args:
            watch_id, after: of the watch that is known, the serial number from which on its steps are wanted.

        Raises:
            SessionNotFoundError, SessionMovedError: it is not in memory, and was not watched.
            FieldInvalidError: it has no such row.
            QuotaExceededError: too many are watched, of all or of the tenant.
        """
        session = self._sessions.resident(key)
        entry = self._entries.get((key, row))
        if session is not None and row >= session.rows:
            raise FieldInvalidError(f"row: expected one below the session's {session.rows}; got {row}")
        if session is not None and (entry is None or entry.model is not session.model):
            entry = self._begin(session, row)
        if entry is None:
            raise self._absent_error(key)
        entry.asked_at = self._clock()
        if session is not None:
            entry.session = session
            self._catch_up(entry)
        wanted = after if watch_id == entry.id else 0
        limit = max(ANSWER_BYTES // bytes_of_a_step(entry.model), ANSWER_STEPS_MIN)
        return Look(
            entry.id,
            entry.model,
            entry.watch.window_steps,
            None if session is None else session.snapshot(),
            "" if session is not None else self._why_gone(entry),
            entry.watch.since(wanted, limit),
            entry.watch.next,
        )

    def sweep(self) -> None:
        """Ends the watches that nobody has asked about lately."""
        oldest = self._clock() - WATCH_IDLE_S
        for name, entry in list(self._entries.items()):
            if entry.asked_at <= oldest:
                del self._entries[name]
        if not self._entries:
            self.stop()

    def stop(self) -> None:
        """Ends all of them."""
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._engine.observers.remove(self)

    # --- what comes ---------------------------------------------------------------------------------------------------

    def steps_answered(self, tick: StepTick) -> None:
        """As ``TickObserver.steps_answered``."""
        seats, taken = tick.batch.seats, tick.batch.taken
        for entry in self._entries.values():
            session = entry.session
            if session.seats is not seats or session.ended:
                continue
            for place in np.flatnonzero(taken == session.seat).tolist():  # One, or none.
                row = place * seats.rows + entry.row
                leaves = [leaf[row] for leaf in tick.leaves]
                outputs = [output[row] for output in tick.outputs]
                entry.watch.add(entry.life(), int(tick.step_counts[place]), self._clock(), leaves, outputs)

    def step_answered(self, step: LoneStep) -> None:
        """As ``TickObserver.step_answered``."""
        for entry in self._entries.values():
            if entry.session is step.session:
                leaves = [leaf[entry.row] for leaf in step.leaves]
                outputs = [output[entry.row] for output in step.outputs]
                entry.watch.add(entry.life(), step.session.step_count, self._clock(), leaves, outputs)

    def chunk_computed(self, tick: ChunkTick) -> None:
        """As ``TickObserver.chunk_computed``: kept until the run is committed, which may never be."""
        for entry in self._entries.values():
            start = 0
            for run in tick.chunk.runs:
                if run.session is entry.session and not run.replaying:
                    entry.keep(run, _piece_of(tick, start, run.rows, entry.row))
                start += run.rows

    def run_committed(self, run: Run, leaves: Sequence[Array], commit_s: float) -> None:
        """As ``TickObserver.run_committed``."""
        for entry in self._entries.values():
            if entry.session is run.session and entry.run is run:
                self._note_run(entry)

    def _note_run(self, entry: _Entry) -> None:
        now = self._clock()
        # The run may have begun before the watch: its steps are counted from its end.
        step_count = entry.session.step_count - sum(piece.steps for piece in entry.pieces)
        for piece in entry.pieces:
            step_count += piece.steps
            entry.watch.add_piece(entry.life(), step_count, now, piece)
        entry.forget_run()

    def _catch_up(self, entry: _Entry) -> None:
        """Notes the state as it is, if it is another one than the last that was seen: it was set, or just begun."""
        session = entry.session
        if entry.watch.last != (entry.life(), session.step_count):
            leaves = [leaf[entry.row] for leaf in session.read_state()]
            entry.watch.add(entry.life(), session.step_count, self._clock(), leaves, None)

    # --- how one begins and ends --------------------------------------------------------------------------------------

    def _begin(self, session: Session, row: int) -> _Entry:
        name = (session.key, row)
        if name not in self._entries:
            self._require_quotas(session.key.tenant)
        self._made += 1
        fitting = self._config.inspector_watch_bytes // bytes_of_a_step(session.model)
        watch = Watch(session.model, max(min(self._config.inspector_window_steps, fitting), 1))
        entry = _Entry(self._made, session, session.model, row, watch, self._clock())
        self._entries[name] = entry
        if self._timer is None:
            self._engine.observers.append(self)
            self._sweep_later()
        return entry

    def _require_quotas(self, tenant: str) -> None:
        own = sum(key.tenant == tenant for key, _ in self._entries)
        own_most = self._limits.of(tenant).inspector_max_watches
        for watched, most, whose in (
            (len(self._entries), self._config.inspector_max_watches, ""),
            (own, own_most, " of this tenant"),
        ):
            if watched >= most:
                raise QuotaExceededError(
                    f"inspector_max_watches: {most} rows of sessions{whose} are watched now, and more may not be; a "
                    f"watch ends {WATCH_IDLE_S:.0f} s after the last page that shows it is closed or hidden",
                    metadata={"quota": "inspector_max_watches", "limit": str(most)},
                    retry_after_s=WATCH_IDLE_S,
                )

    def _sweep_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WATCH_IDLE_S, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep_later()
        self.sweep()

    def _absent_error(self, key: SessionKey) -> CellServeError:
        if key in self._sessions.new_owners:
            return self._sessions.moved_error(key)
        return self._sessions.not_found(key)

    def _why_gone(self, entry: _Entry) -> str:
        away = _AWAY.get(entry.session.ended)
        return f"sessions/{entry.session.key.id}: {away}" if away else self._absent_error(entry.session.key).message


def _piece_of(tick: ChunkTick, start: int, rows: int, row: int) -> Piece:
    """What a tick did of a run's row: of the run whose rows begin at ``start``."""
    chunk, place = tick.chunk, start + row
    steps, length = int(chunk.lengths[start : start + rows].max()), int(chunk.lengths[place])
    return Piece(
        steps,
        length,
        [array[place, :length].copy() for array in chunk.inputs],
        [leaf[place].copy() for leaf in chunk.leaves],
        [leaf[place].copy() for leaf in tick.leaves],
        [output[place, :steps].copy() for output in tick.outputs],
    )
